"""Stage `list_clips`: what the folder of clips holds, as a file that the stage `samples` depends on."""

from collections.abc import Sequence
from pathlib import Path

from videomar.data.listing import write_listing
from videomar.stage import Stage


def main(arguments: Sequence[str] | None = None) -> None:
    """List the folder of `samples.source`."""
    with Stage("list_clips", arguments, "raw", "out", metrics=False) as stage:
        write_listing(Path(stage.params.samples.source), stage.path.raw, stage.path.out)


if __name__ == "__main__":
    main()
