"""A registered version sampled and evaluated again, with the present code on the present held-out clips.

The commands of dvc.yaml run with other paths, so no file of the pipeline changes:

    registry: checkpoint, tokenizer, params.yaml --+
                                                   +--> sample --> evaluate --> .local/evaluations/NUMBER/
    checkout: data/raw, ledger, latents -----------+
"""

import filecmp
import json
import shlex
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from filelock import FileLock
from tqdm import tqdm

from videomar.config import IngestParams, Params, load_params
from videomar.config.edit import update_params
from videomar.config.layout import Layout
from videomar.config.section import fixed_keys
from videomar.errors import DataError, VideomarError
from videomar.processes import run_within
from videomar.provenance.checkout import git_state
from videomar.registry.versions import Version, download_model, keep_judged_again

if TYPE_CHECKING:
    from videomar.checkpoint import ModelFolder
    from videomar.evaluation.fingerprint import Fingerprint

_HERE = Layout()
_OUT = _HERE.local / "evaluations"
_OF_VERSION = ("text", "sample")
"""Sections of the version's own parameters that count: how it makes a clip of a picture and a prompt."""
_SHAPE = ("size_px", "aspect_ratios", "fps", "num_frames")
_KEY_DIGITS = 12

RunStage = Callable[[str, Sequence[str]], None]
"""Runs the command of a stage, by its name, in the working folder; raises VideomarError if it fails."""


def run_here(stage: str, command: Sequence[str]) -> None:
    """Run a stage's command in the working folder, without a time limit."""
    run_within(None, stage, command, Path().resolve())


def evaluate_again(version: Version, run: RunStage = run_here) -> Path:
    """Generate the present held-out clips with a registered version and score them.

    The version contributes its weights, its tokenizer, and sections `text` and `sample` of its parameters.
    All else is that of the working folder, above all section `suite`, so its scores get the same fingerprint
    as those of the pipeline. A version with another tokenizer or text encoder encodes the clips first. A run
    that was killed continues where it stopped.

    Args:
        version: Any whose files still exist.
        run: Runs a stage.

    Returns:
        Root of the stages' outputs: `Layout` of it has their paths.

    Raises:
        VideomarError: files of the version or of the pipeline are missing, it was trained on clips of another
            size or length, or a stage fails.
    """
    out = _OUT / version.number
    out.mkdir(parents=True, exist_ok=True)
    with FileLock(out.with_suffix(".lock")):
        files = _files_of(version)
        own, present = load_params(files.params, _HERE.params), load_params(_HERE.params)
        _require_same_shape(version, own.ingest, present.ingest)
        if files.text_encoder is not None:
            own = replace(own, text=replace(own.text, encoder=str(files.text_encoder.resolve())))
        params = _write_params(own, out)
        paths = {str(_HERE.tokenizer): files.tokenizer, str(_HERE.training_run): files.checkpoint}
        names = ["sample", "evaluate"]
        if fixed_keys(own.text) != fixed_keys(present.text) or _is_other_tokenizer(files.tokenizer):
            _require_fitting(version, files.tokenizer, present.ingest)
            names = ["encode", *names]
        stages = _stages()
        for stage in tqdm(names, desc=f"judging version {version.number} again", unit="stage", disable=None):
            if stage == "encode":  # the stages after it tell by the whole ledger which videos are held out
                paths[str(_HERE.ledger)] = _write_held_out(Layout(out).ledger)
            else:
                paths.pop(str(_HERE.ledger), None)
            _require_inputs(stage, stages[stage], paths)
            command = command_elsewhere(stages[stage], paths, out)
            _remove_files(out, stages[stage])
            run(stage, [*command, "--params", str(params)])
    return out


def save_scores(version: Version, folder: Path) -> str:
    """Store the results of `evaluate_again`, and a few clips, with the version's run; return their key."""
    from videomar.evaluation.fingerprint import read_details, recorded_fingerprint
    from videomar.report.kept_clips import KEPT_CLIPS, write_kept_clips

    made = Layout(folder)
    fingerprint = recorded_fingerprint(read_details(made.evaluation_details))
    if fingerprint is None:
        raise DataError(f"{made.evaluation_details}: got no fingerprint, expected one; try again")
    key = key_of(fingerprint)
    with tempfile.TemporaryDirectory() as draft:
        shown = Path(draft) / KEPT_CLIPS
        write_kept_clips(made.generated, shown)
        files = [made.evaluation, made.evaluation_details, shown]
        keep_judged_again(version, key, files, git_state(Path.cwd()))
    return key


def key_of(fingerprint: "Fingerprint") -> str:
    """Key of scores with this fingerprint. Scores with equal keys are comparable."""
    return fingerprint.comparable_sha256[:_KEY_DIGITS]


def command_elsewhere(entry: dict[str, Any], paths: dict[str, Path], out: Path) -> list[str]:
    """Return the command of a stage with other paths.

    Args:
        entry: The stage in dvc.yaml.
        paths: Replacements of paths of dvc.yaml; the stage's outputs are added.
        out: Root of the outputs.
    """
    for path in _outputs(entry):
        paths[path] = out / path
        paths[path].parent.mkdir(parents=True, exist_ok=True)
    return [str(paths.get(word, word)) for word in shlex.split(entry["cmd"])]


def _files_of(version: Version) -> "ModelFolder":
    """Download the version's weights, tokenizer and parameters."""
    from videomar.checkpoint import open_model_folder  # here: a release with nothing to do needs no torch

    try:
        return open_model_folder(download_model(version))
    except VideomarError as error:
        raise VideomarError(f"{version}: its files are gone: {error}") from None
    except Exception as error:  # MLflow raises what its store does: of S3, of HTTP, of the disk
        raise VideomarError(
            f"{version}: its files cannot be had ({' '.join(str(error).split())[:200]})"
        ) from None


def _require_same_shape(version: Version, own: IngestParams, present: IngestParams) -> None:
    """Refuse a version that was trained on clips of another shape: it makes no clips like those here.

    How clips were found, cut and scored where it was trained does not matter: it is judged on those of here.
    """
    before, now = fixed_keys(own), fixed_keys(present)
    unlike = [
        f"ingest.{name} {before[name]}, not {now[name]}" for name in _SHAPE if before[name] != now[name]
    ]
    if unlike:
        remedy = "evaluate it in a pipeline whose params.yaml has these values"
        raise VideomarError(f"{version}: made for clips of another shape ({'; '.join(unlike)}); {remedy}")


def _require_fitting(version: Version, tokenizer: Path, present: IngestParams) -> None:
    """Refuse a version whose own tokenizer cannot encode the clips here."""
    from videomar.encoders.load import load_tokenizer

    coder = load_tokenizer(tokenizer)
    wrong = []
    if present.size_px % coder.space_stride:
        wrong.append(f"ingest.size_px {present.size_px}, no multiple of its {coder.space_stride} pixels")
    if (present.num_frames - 1) % coder.time_stride:
        wrong.append(f"ingest.num_frames {present.num_frames}, not 1 + a multiple of its {coder.time_stride}")
    if wrong:
        raise VideomarError(
            f"{version}: its tokenizer cannot encode the clips here ({'; '.join(wrong)}); "
            "evaluate it in a pipeline whose params.yaml has fitting clips"
        )


def _write_params(own: Params, out: Path) -> Path:
    """Write the present params.yaml with the version's own sections `_OF_VERSION`."""
    path = Layout(out).params
    shutil.copyfile(_HERE.params, path)
    sections = {name: fixed_keys(getattr(own, name)) for name in _OF_VERSION}
    update_params(path, json.loads(json.dumps(sections)))  # YAML knows no tuples
    return path


def _is_other_tokenizer(folder: Path) -> bool:
    names = [path.name for path in folder.iterdir()]
    same, _, _ = filecmp.cmpfiles(folder, _HERE.tokenizer, names, shallow=False)
    return same != names


def _write_held_out(path: Path) -> Path:
    """Write a ledger of the held-out clips alone: no other latents are needed."""
    from videomar.curation.ledger import kept_clips, read_ledger, write_ledger
    from videomar.sampling.held_out import SPLIT

    write_ledger(path, kept_clips(read_ledger(_HERE.ledger), split=SPLIT))
    return path


def _stages() -> dict[str, Any]:
    if not _HERE.pipeline.is_file():
        raise DataError(f"{_HERE.pipeline}: no such file, expected the pipeline; run from its folder")
    return yaml.safe_load(_HERE.pipeline.read_text(encoding="utf-8"))["stages"]


def _outputs(entry: dict[str, Any]) -> list[str]:
    made = [item for kind in ("outs", "plots", "metrics") for item in entry.get(kind, [])]
    return [item if isinstance(item, str) else next(iter(item)) for item in made]


def _remove_files(out: Path, entry: dict[str, Any]) -> None:
    """Remove results of an earlier time, as of before an upgrade of packages, which a stage might reuse.

    Folders stay: they are caches with keys.
    """
    for path in _outputs(entry):
        if (out / path).is_file():
            (out / path).unlink()


def _require_inputs(stage: str, entry: dict[str, Any], paths: dict[str, Path]) -> None:
    for path in entry.get("deps", []):
        if not Path(paths.get(path, path)).exists():
            raise DataError(
                f"{path}: no such file or folder, expected what stage {stage} reads; run `dvc repro`"
            )
