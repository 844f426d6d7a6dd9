"""One function for each metric, and the catalogue that names them."""
