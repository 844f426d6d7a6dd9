"""Adapter to the public `vbench` package, which runs in an environment of its own."""
