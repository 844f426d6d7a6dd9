"""Flow `refresh`: the pipeline stage by stage. `python -m flows.refresh` runs it without a server."""

import sys
from pathlib import Path

from prefect import flow
from pydantic import PositiveFloat

from flows.pipeline import HOURS, run_stages
from flows.turn import turn
from videomar.errors import VideomarError
from videomar.files import explain_full_disk


@flow(name="refresh")
def refresh(hours_per_stage: PositiveFloat = HOURS) -> None:
    """Bring every stage of the pipeline up to date; what has not changed is not done again."""
    with turn("refresh"):
        run_stages(Path().resolve(), hours_per_stage)


if __name__ == "__main__":
    try:
        with explain_full_disk():
            refresh()
    except VideomarError as error:
        sys.exit(str(error))
