"""Flow `sample_and_evaluate`: a registered version on the present held-out clips.

`python -m flows.evaluate_version VERSION` runs it without a server.
"""

import json
import sys
from functools import partial

from prefect import flow
from pydantic import PositiveFloat

from flows.artifacts import show_clips, show_metrics
from flows.pipeline import HOURS, checkout_lock, run_command
from videomar.config.layout import Layout
from videomar.errors import VideomarError
from videomar.evaluation.fingerprint import read_details, why_incomparable
from videomar.processes import one_line
from videomar.registry.evaluate_again import evaluate_again
from videomar.registry.versions import find_model


@flow(name="sample_and_evaluate")
def sample_and_evaluate(version: str = "champion", hours_per_stage: PositiveFloat = HOURS) -> None:
    """Generate held-out clips with a registered version and score them, beside the pipeline's own files.

    Args:
        version: A number, `champion` or `challenger`.
        hours_per_stage: Time limit of a stage.
    """
    with checkout_lock("sample_and_evaluate"):
        found = find_model(version)
        out = Layout(evaluate_again(found, partial(run_command, hours=hours_per_stage)))
        metrics = json.loads((out.metrics / "evaluate.json").read_text("utf-8"))
        ours, theirs = read_details(out.evaluation_details), read_details(Layout().evaluation_details)
        show_metrics(found, metrics, out.root, why_incomparable(ours, theirs))
        show_clips(out.generated)


if __name__ == "__main__":
    try:
        sample_and_evaluate(sys.argv[1] if len(sys.argv) > 1 else "champion")
    except VideomarError as error:
        sys.exit(one_line(error))
