"""Flow `sample_and_evaluate`: a registered version before the held-out clips of this checkout, once more.

`python -m flows.evaluate_version VERSION` runs it without a server.
"""

import filecmp
import json
import sys
from pathlib import Path

from prefect import flow
from pydantic import PositiveFloat

from flows.artifacts import show_figures
from flows.pictures import show_clips
from flows.pipeline import HOURS
from flows.scripts import run_elsewhere
from flows.turn import turn
from videomar.config import load_own_params, load_params
from videomar.config.section import fixed_keys
from videomar.errors import VideomarError
from videomar.evaluation.facts import read_facts, unlike
from videomar.release import FACTS
from videomar.tracking.registry import download_model, find_model

_OUT = Path(".local/evaluations")
_TOKENIZER = "checkpoints/tokenizer"


@flow(name="sample_and_evaluate")
def sample_and_evaluate(version: str = "champion", hours_per_stage: PositiveFloat = HOURS) -> None:
    """Generate held-out clips with a registered version and score them; nothing of the pipeline changes.

    Args:
        version: A number, `champion` or `challenger`.
        hours_per_stage: A stage that takes longer is ended.
    """
    with turn("sample_and_evaluate"):
        found = find_model(version)
        files = download_model(found)
        params, out = files / "params.yaml", _OUT / found.number
        here = Path("params.yaml")
        theirs, ours = load_params(params, here), load_own_params(here)
        if fixed_keys(theirs.ingest) != fixed_keys(ours.ingest):
            rule = "that of params.yaml, which cut the clips here; `videomar trace` names its commit"
            raise VideomarError(f"{found}: got another section ingest, expected {rule}")
        places = {_TOKENIZER: files / "tokenizer", "checkpoints/videomar": files / "checkpoint"}
        names = [path.name for path in places[_TOKENIZER].iterdir()]
        same, _, _ = filecmp.cmpfiles(places[_TOKENIZER], _TOKENIZER, names, shallow=False)
        # Another tokenizer has other latents, too.
        for stage in ("sample", "evaluate") if same == names else ("encode", "sample", "evaluate"):
            places = run_elsewhere(stage, params, places, out, hours_per_stage)
        differing = unlike(read_facts(places[str(FACTS)]), read_facts(FACTS))
        show_figures(found, json.loads(places["metrics/evaluate.json"].read_text("utf-8")), out, differing)
        show_clips(places["data/generated.parquet"])


if __name__ == "__main__":
    try:
        sample_and_evaluate(sys.argv[1] if len(sys.argv) > 1 else "champion")
    except VideomarError as error:
        sys.exit(str(error))
