"""Whether dvc.lock, files on disk, MLflow, the alias and the services agree; nothing is mended here."""
