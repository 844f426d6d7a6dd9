"""Stage `ingest`: every video probed, decoded once, split into clips and scored."""

from collections.abc import Sequence

from videomar.data.ingest import ingest_videos, learned_parts
from videomar.stage import Stage


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the candidates of all videos."""
    with Stage("ingest", arguments, "raw", "out") as stage:
        params = stage.params.ingest
        if not stage.is_done({"raw": stage.path.raw, **learned_parts(params)}, ["ingest"]):
            stage.metrics = ingest_videos(stage.path.raw, stage.path.out, params)


if __name__ == "__main__":
    main()
