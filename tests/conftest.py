"""Shared fixtures; being here, it also makes `tests/` importable for the files that tests share."""
