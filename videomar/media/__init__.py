"""Video and image files to frames and back; the only package that knows codecs."""
