"""Stage `list_clips`: what files outside of the repository hold, as files that other stages depend on."""

from collections.abc import Sequence
from pathlib import Path

from stages.stage import Stage
from videomar.sources.listing import write_listing, write_named


def main(arguments: Sequence[str] | None = None) -> None:
    """List the folder of `samples.source`, and what else parameters name: functions, networks."""
    with Stage("list_clips", arguments, "raw", "out", "named", metrics=False) as stage:
        write_listing(Path(stage.params.samples.source), stage.path.raw, stage.path.out)
        write_named(stage.params, stage.path.named)


if __name__ == "__main__":
    main()
