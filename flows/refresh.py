"""Flow `refresh`: the pipeline, stage by stage. `python -m flows.refresh` runs it without a server."""

import sys
from pathlib import Path

from prefect import flow
from pydantic import PositiveFloat

from flows.pipeline import HOURS, checkout_lock, run_stages
from videomar.errors import VideomarError
from videomar.files import explain_full_disk
from videomar.processes import one_line


@flow(name="refresh")
def refresh(hours_per_stage: PositiveFloat = HOURS) -> None:
    """Bring every stage of the pipeline up to date; stages without changes are skipped.

    Args:
        hours_per_stage: Time limit of a stage.
    """
    with checkout_lock("refresh"):
        run_stages(Path().resolve(), hours_per_stage)


if __name__ == "__main__":
    try:
        with explain_full_disk():
            refresh()
    except VideomarError as error:
        sys.exit(one_line(error))
