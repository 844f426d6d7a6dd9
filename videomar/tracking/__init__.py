"""MLflow: the record of training runs and the registry of models."""
