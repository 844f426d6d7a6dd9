"""Clips as latents in Parquet: encode, store, read, deal into batches."""
