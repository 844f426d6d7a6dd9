"""When the pipeline runs, and whether again: Prefect flows."""
