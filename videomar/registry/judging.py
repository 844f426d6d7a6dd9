"""A registered version judged again: present clips made by it and scored, by the present code.

These are stages of dvc.yaml on other files than their own, so nothing of the pipeline changes.
"""

import filecmp
import json
import shlex
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from filelock import FileLock
from tqdm import tqdm

from videomar.config import IngestParams, Params, load_params
from videomar.config.edit import update_params
from videomar.config.section import fixed_keys
from videomar.errors import DataError, VideomarError
from videomar.processes import run_within
from videomar.provenance.checkout import git_state
from videomar.registry.trace import Places
from videomar.registry.versions import Version, download_model, keep_judged_again

if TYPE_CHECKING:
    from videomar.evaluation.fingerprint import Fingerprint

GENERATED = Path("data/generated.parquet")
EVALUATION = Path("data/evaluation.parquet")
FACTS = Path("data/evaluation.json")
_OUT = Path(".local/evaluations")
_PARAMS, _PIPELINE = Path("params.yaml"), Path("dvc.yaml")
_PLACES = Places()
_OF_VERSION = ("text", "sample")
_KEY_DIGITS = 12

RunStage = Callable[[str, Sequence[str]], None]
"""Runs the command of a stage, by name, in the working folder; raises VideomarError if it fails."""


def run_here(stage: str, command: Sequence[str]) -> None:
    """Run a stage's command in the working folder, as long as it takes."""
    run_within(None, stage, command, Path().resolve())


def judge_again(version: Version, run: RunStage = run_here) -> Path:
    """Generate the present held-out clips with a registered version and score them.

    Of the version are its weights, its tokenizer, and sections `text` and `sample` of its parameters: how it
    makes a clip of a picture and a prompt. All else is that of the working folder: the clips, the code, and
    the other sections, `suite` before all, so that its scores have the fingerprint of those that the pipeline
    makes now. Where its tokenizer or its encoder of captions is another one, the clips are encoded by it
    first. A run that was killed goes on where it stopped.

    Args:
        version: Any whose files are still there.
        run: What runs a stage.

    Returns:
        Folder below which the stages' outputs have the paths of dvc.yaml.

    Raises:
        VideomarError: files of the version or of the pipeline are not there, it was trained on clips that
            were cut otherwise, or a stage fails.
    """
    out = _OUT / version.number
    out.mkdir(parents=True, exist_ok=True)
    with FileLock(out.with_suffix(".lock")):
        files = _files_of(version)
        own, present = load_params(files / _PARAMS, _PARAMS), load_params(_PARAMS)
        _require_same_cut(version, own.ingest, present.ingest)
        params = _write_params(own, out)
        places = {str(_PLACES.tokenizer): files / "tokenizer", str(_PLACES.checkpoints): files / "checkpoint"}
        names = ["sample", "evaluate"]
        if own.text != present.text or _is_other_tokenizer(files / "tokenizer"):
            names = ["encode", *names]
            places[str(_PLACES.ledger)] = _write_held_out(out)
        stages = _stages()
        for stage in tqdm(names, desc=f"judging version {version.number} again", unit="stage", disable=None):
            _require_inputs(stage, stages[stage], places)
            command = command_elsewhere(stages[stage], places, out)
            _remove_files(out, stages[stage])
            run(stage, [*command, "--params", str(params)])
    return out


def keep_scores(version: Version, folder: Path) -> str:
    """Keep what `judge_again` left with the version's run, and a few clips; gives its key."""
    from videomar.evaluation.fingerprint import read_details, recorded_fingerprint
    from videomar.report.kept_clips import KEPT_CLIPS, write_kept_clips

    fingerprint = recorded_fingerprint(read_details(folder / FACTS))
    if fingerprint is None:
        raise DataError(f"{folder / FACTS}: got no fingerprint, expected that of the scores; judge again")
    key = key_of(fingerprint)
    with tempfile.TemporaryDirectory() as draft:
        shown = Path(draft) / KEPT_CLIPS
        write_kept_clips(folder / GENERATED, shown)
        keep_judged_again(version, key, [folder / EVALUATION, folder / FACTS, shown], git_state(Path.cwd()))
    return key


def key_of(fingerprint: "Fingerprint") -> str:
    """The key that scores with this fingerprint are kept under: where it is equal, they may be compared."""
    return fingerprint.comparable_sha256[:_KEY_DIGITS]


def command_elsewhere(entry: dict[str, Any], places: dict[str, Path], out: Path) -> list[str]:
    """The command of a stage with other paths.

    Args:
        entry: The stage in dvc.yaml.
        places: What stands for a path of dvc.yaml; the stage's outputs are added.
        out: Folder that the outputs go to, below which they have the paths of dvc.yaml.
    """
    for path in _outputs(entry):
        places[path] = out / path
        places[path].parent.mkdir(parents=True, exist_ok=True)
    return [str(places.get(word, word)) for word in shlex.split(entry["cmd"])]


def _files_of(version: Version) -> Path:
    """Folder with the version's weights, tokenizer and parameters."""
    try:
        files = download_model(version)
    except Exception as error:  # MLflow raises what its store does: of S3, of HTTP, of the disk
        raise VideomarError(
            f"{version}: its files cannot be had ({' '.join(str(error).split())[:200]})"
        ) from None
    for name in ("checkpoint", "tokenizer", "params.yaml"):
        if not (files / name).exists():
            raise VideomarError(f"{version}: its files are gone: the registry has no {name}")
    return files


def _require_same_cut(version: Version, own: IngestParams, present: IngestParams) -> None:
    """Refuse a version of another section `ingest`: a model is judged on clips such as it was trained on."""
    pairs = zip(fixed_keys(own).items(), fixed_keys(present).values(), strict=True)
    unlike = [f"ingest.{name} {mine}, not {here}" for (name, mine), here in pairs if mine != here]
    if unlike:
        raise VideomarError(f"{version}: clips here are cut otherwise than its own ({'; '.join(unlike)})")


def _write_params(own: Params, out: Path) -> Path:
    """The present params.yaml, but for the version's own way of making clips."""
    path = out / _PARAMS
    shutil.copyfile(_PARAMS, path)
    # By way of JSON: YAML knows no tuples.
    update_params(path, {name: json.loads(json.dumps(asdict(getattr(own, name)))) for name in _OF_VERSION})
    return path


def _is_other_tokenizer(folder: Path) -> bool:
    names = [path.name for path in folder.iterdir()]
    same, _, _ = filecmp.cmpfiles(folder, _PLACES.tokenizer, names, shallow=False)
    return same != names


def _write_held_out(out: Path) -> Path:
    """The ledger without the clips that nothing is judged on: no other latents are needed."""
    from videomar.curation.ledger import kept_clips, read_ledger, write_ledger
    from videomar.sampling.held_out import SPLIT

    path = out / _PLACES.ledger
    write_ledger(path, kept_clips(read_ledger(_PLACES.ledger), split=SPLIT))
    return path


def _stages() -> dict[str, Any]:
    if not _PIPELINE.is_file():
        raise DataError(f"{_PIPELINE}: no such file, expected the pipeline; go to its folder")
    return yaml.safe_load(_PIPELINE.read_text(encoding="utf-8"))["stages"]


def _outputs(entry: dict[str, Any]) -> list[str]:
    made = [item for kind in ("outs", "plots", "metrics") for item in entry.get(kind, [])]
    return [item if isinstance(item, str) else next(iter(item)) for item in made]


def _remove_files(out: Path, entry: dict[str, Any]) -> None:
    """Nothing of an earlier time, as of before an upgrade of packages, may be taken for the result.

    What is a folder is a cache that knows its contents.
    """
    for path in _outputs(entry):
        if (out / path).is_file():
            (out / path).unlink()


def _require_inputs(stage: str, entry: dict[str, Any], places: dict[str, Path]) -> None:
    for path in entry.get("deps", []):
        if not Path(places.get(path, path)).exists():
            raise DataError(
                f"{path}: no such file or folder, expected what stage {stage} reads; run `dvc repro`"
            )
