"""Stage `samples`: fill data/raw with simulated and packaged clips, or with the user's own folder."""

from collections.abc import Sequence

from stages.stage import Stage
from videomar.provenance.made_with import SUFFIX
from videomar.sources.collect import collect_samples, recipe_inputs


def main(arguments: Sequence[str] | None = None) -> None:
    """Fill the folder of raw videos."""
    with Stage("samples", arguments, "out") as stage:
        params = stage.params.samples
        inputs = recipe_inputs(params)
        # Making clips by a recipe takes a minute; linking a folder is faster than comparing it.
        record = stage.path.out / SUFFIX
        if inputs is None:
            record.unlink(missing_ok=True)
        if inputs is None or not stage.is_done(inputs, ["samples"], record=record):
            stage.metrics = collect_samples(params.source, stage.path.out, params)


if __name__ == "__main__":
    main()
