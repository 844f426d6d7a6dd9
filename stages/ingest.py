"""Stage `ingest`: probe and decode every video once, split it into clips and score them."""

from collections.abc import Sequence

from stages.stage import Stage
from videomar.curation.ingest import ingest_videos, learned_parts
from videomar.curation.retries import read_reading


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the candidates of all videos."""
    with Stage("ingest", arguments, "raw", "out") as stage:
        params = stage.params.ingest
        keep, done = False, stage.is_done({"raw": stage.path.raw, **learned_parts(params)}, ["ingest"])
        if done and read_reading(stage.path.out).unfinished:
            stage.reopen("files that failed are read again")
            done, keep = False, True
        if not done:
            stage.metrics = ingest_videos(stage.path.raw, stage.path.out, params, keep)


if __name__ == "__main__":
    main()
