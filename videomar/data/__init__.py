"""The data path: raw videos to batches of latents. Knows nothing of the model."""
