"""Prefect flows: when the pipeline runs, and what is retried.

Prefect reads its environment on import, so the environment is prepared first.
"""

import os

from videomar.environment import prepare_prefect

prepare_prefect()
# What stages print goes to the pages of their runs, whatever level is set for the terminal.
for _kind in ("FLOW", "TASK"):
    os.environ.setdefault(f"PREFECT_LOGGING_LOGGERS_PREFECT_{_kind}_RUNS_LEVEL", "INFO")
