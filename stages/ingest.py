"""Stage `ingest`: probe and decode every video once, split it into clips and score them."""

from collections.abc import Sequence

from stages.stage import Stage
from videomar.curation.ingest import ingest_videos, learned_parts


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the candidates of all videos."""
    with Stage("ingest", arguments, "raw", "out") as stage:
        params = stage.params.ingest
        if not stage.is_done({"raw": stage.path.raw, **learned_parts(params)}, ["ingest"]):
            stage.metrics = ingest_videos(stage.path.raw, stage.path.out, params)


if __name__ == "__main__":
    main()
