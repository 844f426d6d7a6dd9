"""What registered versions were made from, as far as their runs tell."""

from videomar.tracking.registry import MODEL, Version, version_of
from videomar.tracking.runs import open_client


def all_versions() -> list[Version]:
    """Every registered version, the oldest first."""
    found = open_client().search_model_versions(f"name = '{MODEL}'")
    return [version_of(number) for number in sorted((str(item.version) for item in found), key=int)]


def lock_of(version: Version) -> str | None:
    """Text of the dvc.lock that a version was made from; None if its run has none."""
    import mlflow
    from mlflow.exceptions import MlflowException

    open_client()
    try:
        return mlflow.artifacts.load_text(f"runs:/{version.run_id}/evidence/dvc.lock")
    except (MlflowException, OSError):
        return None
