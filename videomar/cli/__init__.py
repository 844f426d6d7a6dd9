"""The `videomar` command."""

from videomar.cli.app import main

__all__ = ["main"]
