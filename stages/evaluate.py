"""Stage `evaluate`: generated clips against the truth, against baselines, and by themselves."""

from collections.abc import Sequence

from videomar.evaluation.suite import evaluate_clips
from videomar.stage import Stage


def main(arguments: Sequence[str] | None = None) -> None:
    """Score the generated clips."""
    with Stage("evaluate", arguments, "generated", "sampled", "out", "details", "plot") as stage:
        stage.metrics = evaluate_clips(stage.path, stage.params.suite)


if __name__ == "__main__":
    main()
