"""Versions in the MLflow registry: register, decide, promote, trace, rebuild."""
