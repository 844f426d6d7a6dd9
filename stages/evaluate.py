"""Stage `evaluate`: generated clips against the truth and against repeating the last frame."""

from collections.abc import Sequence

from videomar.evaluation.metrics import evaluate_clips
from videomar.stage import Stage


def main(arguments: Sequence[str] | None = None) -> None:
    """Score the generated clips."""
    with Stage("evaluate", arguments, "generated", "out", "plot") as stage:
        stage.metrics = evaluate_clips(stage.path.generated, stage.path.out, stage.path.plot)


if __name__ == "__main__":
    main()
