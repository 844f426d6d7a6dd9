"""Whole models by name: found, exported to one folder, pushed to a hub."""
