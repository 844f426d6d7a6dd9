"""Pixels to latents and back: our causal autoencoder, and Cosmos tokenizers from a local folder."""
