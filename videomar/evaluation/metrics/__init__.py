"""One function for each metric, and the catalogue that names them."""

BACKBONE = "EffNet-Lite0"
"""The network of `backbone.py`; metrics that use it carry its name."""
VGG = "VGG16-HED"
"""The network of `vgg.py`; the metric that uses it carries its name."""
