"""Stage `samples`: simulated and packaged clips, or the user's own folder, as files in data/raw."""

from collections.abc import Sequence

from videomar.data.samples import collect_samples
from videomar.stage import Stage


def main(arguments: Sequence[str] | None = None) -> None:
    """Fill the folder of raw videos."""
    with Stage("samples", arguments, "out") as stage:
        stage.metrics = collect_samples(stage.params.samples.source, stage.path.out, stage.params.samples)


if __name__ == "__main__":
    main()
