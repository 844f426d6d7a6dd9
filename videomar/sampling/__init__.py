"""Clips from a checkpoint."""
