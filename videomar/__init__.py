"""VideoMAR: image-to-video with continuous tokens, from raw clips to a promoted model."""

__version__ = "0.1.0"
