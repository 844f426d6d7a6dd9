"""The `videomar` command; one module for each panel of its help."""

from videomar.cli.app import main

__all__ = ["main"]
