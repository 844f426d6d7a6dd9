"""When the pipeline runs, and whether again: Prefect flows.

Prefect reads the environment when it is imported, so that is prepared first.
"""

from videomar.environment import prepare_prefect

prepare_prefect()
