"""Settings that other people's programs read from the environment: nothing is reported home, little is said.

One place for them all, so that `make`, `dvc repro` and a flow behave alike. What the user has set stays.
"""

import os
from pathlib import Path

SETTINGS = {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    # Errors reach the terminal once, from us; the server still gets every record.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_SERVER_LEVEL": "ERROR",
    # The temporary server of a flow takes over 20 s to start on a busy machine, which is Prefect's own limit.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Workers keep the folder of the command, so that relative paths mean what they say.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
_PREFECT_HOME = Path(".local/prefect")


def apply_settings() -> None:
    """Put SETTINGS into this process's environment; to be called before those programs are imported."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)


def prepare_prefect() -> None:
    """The same, and a folder below the working one for Prefect's state, which it does not make by itself."""
    apply_settings()
    home = Path(os.environ.setdefault("PREFECT_HOME", str(_PREFECT_HOME.resolve())))
    home.mkdir(parents=True, exist_ok=True)
