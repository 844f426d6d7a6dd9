"""The network: tokenizer, text, transformer, diffusion head, generation."""
