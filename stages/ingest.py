"""Stage `ingest`: every video probed, decoded once, split into clips and scored."""

from collections.abc import Sequence

from videomar.data.ingest import ingest_videos
from videomar.stage import Stage


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the candidates of all videos."""
    with Stage("ingest", arguments, "raw", "out") as stage:
        stage.metrics = ingest_videos(stage.path.raw, stage.path.out, stage.params.ingest)


if __name__ == "__main__":
    main()
