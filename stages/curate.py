"""Stage `curate`: decide for every candidate whether it is kept and in which split it is."""

from collections.abc import Sequence

from stages.stage import Stage
from videomar.curation.curate import curate_clips


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the ledger."""
    with Stage("curate", arguments, "candidates", "takedowns", "out") as stage:
        stage.metrics = curate_clips(
            stage.path.candidates, stage.path.takedowns, stage.path.out, stage.params.curate
        )


if __name__ == "__main__":
    main()
