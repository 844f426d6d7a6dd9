"""The programs that `make up` keeps running in the background: MLflow, Prefect and the scheduled flows."""
