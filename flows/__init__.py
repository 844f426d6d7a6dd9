"""Prefect flows: when the pipeline runs, and what is retried.

Prefect reads its environment on import, so the environment is prepared first.
"""

from videomar.environment import prepare_prefect

prepare_prefect()
