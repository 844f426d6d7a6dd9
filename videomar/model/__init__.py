"""The network: transformer, diffusion heads, training objectives, generation."""
