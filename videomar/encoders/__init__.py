"""Pixels and words as numbers: tokenizers of video, text encoders."""
