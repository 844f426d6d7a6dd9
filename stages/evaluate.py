"""Stage `evaluate`: score generated clips against the truth, against baselines, and without reference."""

from collections.abc import Sequence

from stages.stage import Stage
from videomar.evaluation.suite import evaluate_clips
from videomar.provenance.made_with import named_folders


def main(arguments: Sequence[str] | None = None) -> None:
    """Score the generated clips."""
    with Stage("evaluate", arguments, "generated", "sampled", "out", "details", "plot") as stage:
        path, suite = stage.path, stage.params.suite
        # `sampled` holds the costs of sampling, which are copied and change no score.
        inputs = {"generated": path.generated, **named_folders(extractor=suite.extractor)}
        if not stage.is_done(inputs, ["suite"], ["out", "details", "plot"], device="suite"):
            stage.metrics = evaluate_clips(path, suite)


if __name__ == "__main__":
    main()
