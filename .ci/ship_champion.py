"""Copy the champion of a finished checkout into the package: `make ship FROM=DIR` (default: this checkout).

What is copied: the averaged weights, the tokenizer, the parameters, the card, a few held-out pictures, the
table of its clips with their splits, and the origin (commit, recipe, checksums of the data and of every raw
file, the seconds of videos that it was tested on and has never seen, figures). The checkout is not changed.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(HERE))

from videomar.checkpoint import MANIFEST, verify  # noqa: E402
from videomar.environment import apply_settings  # noqa: E402
from videomar.errors import VideomarError  # noqa: E402
from videomar.files import sha256_of, write_json  # noqa: E402
from videomar.hub.shipped import FOLDER, ORIGIN  # noqa: E402
from videomar.report.example_pictures import write_examples  # noqa: E402
from videomar.tracking.artifact_roots import ARTIFACTS  # noqa: E402

MOST_BYTES = 16 * 10**6
LEFT_OUT = ("aliases", "run_id", "training_run", "outputs_md5", "latents", "files")
"""Parts of a trace that mean nothing elsewhere, or are long and follow from the rest."""
README = HERE / "README.md"
START, END = "<!-- shipped -->", "<!-- /shipped -->"


def main() -> None:
    """Write the folder anew, whole or not at all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path, help="a checkout after `make run`")
    parser.add_argument("--out", type=Path, default=FOLDER)
    given = parser.parse_args()
    out = given.out.resolve()
    os.chdir(given.checkout)
    apply_settings()
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".shipped-") as folder:
        # The store is copied, with what it names: a client of another MLflow would change its tables.
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{shutil.copy('.local/mlflow.db', folder)}"
        shutil.copytree(Path(".local") / ARTIFACTS, Path(folder) / ARTIFACTS)
        draft = Path(folder) / "model"
        ship(draft)
        total = sum(path.stat().st_size for path in draft.rglob("*") if path.is_file())
        if total > MOST_BYTES:
            raise VideomarError(
                f"{out}: got {total} bytes, expected at most {MOST_BYTES}; ship a smaller model"
            )
        shutil.rmtree(out, ignore_errors=True)
        shutil.move(draft, out)
    if out == FOLDER.resolve():
        tell_readers(json.loads((out / ORIGIN).read_text("utf-8")))
    print(f"{out}: {total / 1e6:.1f} MB; commit it, and run tests/hub/test_shipped.py")


def tell_readers(origin: dict[str, Any]) -> None:
    """Write the origin into README.md, between its marks."""
    videos, gain = len(origin["saw"]) + len(origin["held_out"]), origin["metrics"]["sim_psnr_gain_db"]
    commit, ledger = origin["git_commit"][:12], origin["ledger_sha256"][:12]
    real = "; ".join(filter(None, map(str.strip, origin["credits"])))
    text = (
        f"It is the champion of the run at commit `{commit}` ({origin['checkpoint_step']} steps, simulated "
        f"continuation {gain:+.1f} dB over repeating the last frame), made from {videos} videos in "
        f"{len(origin['raw'])} raw files; sha256 of their ledger `{ledger}`. `videomar trace shipped` has "
        f"all of it, down to every raw file. Real clips: {real}."
    )
    before, rest = README.read_text("utf-8").split(START)
    after = rest.partition(END)[2]
    README.write_text(f"{before}{START}\n{textwrap.fill(text, 120)}\n{END}{after}", encoding="utf-8")


def ship(draft: Path) -> None:
    """Write the model folder of the checkout's champion."""
    from videomar.checkpoint import open_model_folder
    from videomar.config.layout import Layout
    from videomar.provenance.card import model_card
    from videomar.registry.ancestors import parts_of_split
    from videomar.registry.evidence import LINEAGE, read_lineage
    from videomar.registry.model_card import facts_of
    from videomar.registry.trace import trace
    from videomar.registry.versions import download_evidence, download_model, find_model
    from videomar.sampling.held_out import SPLIT

    version = find_model("champion")
    parts = open_model_folder(download_model(version))
    manifest = verify(parts.checkpoint)
    draft.mkdir()
    shutil.copy(parts.checkpoint / "ema.safetensors", draft)
    shutil.copytree(parts.tokenizer, draft / "tokenizer", copy_function=shutil.copyfile)
    shutil.copy(parts.params, draft / "params.yaml")
    origin = {name: value for name, value in trace(version).to_dict().items() if name not in LEFT_OUT}
    recipe = Path(".local/base.json")  # of `make base`: hours, and the speed that the steps follow from
    origin["recipe"] = json.loads(recipe.read_text("utf-8")) if recipe.is_file() else None
    with tempfile.TemporaryDirectory() as folder:
        evidence = download_evidence(version, Path(folder))
        origin["metrics"] = json.loads((evidence / "metrics" / "evaluate.json").read_text("utf-8"))
        origin["credits"] = (evidence / "CREDITS.txt").read_text("utf-8").splitlines()
        shutil.copyfile(evidence / LINEAGE, draft / LINEAGE)
        origin["test_clips"] = parts_of_split([read_lineage(draft / LINEAGE)], SPLIT)
        facts = facts_of("videomar, shipped with the package", version.tags, evidence)
        card = model_card(replace(facts, registered=False))
        (draft / "README.md").write_text(card, encoding="utf-8")
    write_json(draft / ORIGIN, origin)
    examples = write_examples(Layout().generated, draft)
    tokenizer = sorted((draft / "tokenizer").iterdir())
    named = [draft / name for name in ("ema.safetensors", "params.yaml", ORIGIN, LINEAGE)]
    files = [*named, *tokenizer, *examples]
    manifest["files"] = {
        path.relative_to(draft).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for path in files
    }
    write_json(draft / MANIFEST, manifest)


if __name__ == "__main__":
    try:
        main()
    except VideomarError as error:
        sys.exit(f"ship: {error}")
