"""A whole model in one folder, which works wherever it is copied to.

    model.safetensors, ema.safetensors   weights; one of them is enough
    checkpoint.json                      shape of the network; size and sha256 of every file but the card
    tokenizer/                           the video tokenizer's files
    text_encoder/                        a transformers model, where one was packed; else params.yaml names it
    params.yaml                          all sections, as JSON, which is YAML, too
    README.md                            the card; it may be edited, so it has no checksum

Each checkpoint of a training run is such a folder, with the optimizer's state in addition.
"""

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from videomar.checkpoint.folder import MANIFEST, newest_intact, verify
from videomar.config.layout import WEIGHTS
from videomar.config.params import params_text
from videomar.config.schema import Params
from videomar.errors import CheckpointError
from videomar.files import sha256_of

TOKENIZER, TEXT_ENCODER, PARAMS_FILE, CARD = "tokenizer", "text_encoder", "params.yaml", "README.md"


class ModelFolder(NamedTuple):
    """Where the parts of a model are."""

    checkpoint: Path
    """Folder of weights and `checkpoint.json`."""
    tokenizer: Path
    params: Path
    text_encoder: Path | None = None
    """Folder of a packed text encoder; None = the one that the parameters name."""


@dataclass(frozen=True, slots=True)
class ModelParts:
    """What a model folder holds beside the weights. Remembers sources and checksums, not contents."""

    files: Mapping[str, Path]
    """Sources of tokenizer and text encoder, by their names in the folder."""
    sha256: Mapping[str, str]
    """Checksum of each of these."""
    params: str
    """Text of params.yaml."""
    card: str
    """Text of README.md."""

    def write(self, folder: Path, before: Path | None = None) -> dict[str, dict[str, object]]:
        """Write the parts to a folder; return size and sha256 of every file but the card, by its name.

        Args:
            folder: an existing one.
            before: an earlier model folder of the same run. Its files are hard-linked where they are equal.
                Never the sources themselves: a later write to these would change the model.
        """
        for name, source in self.files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            _link_or_copy(source, target, before / name if before else None, self.sha256[name])
        (folder / PARAMS_FILE).write_text(self.params, encoding="utf-8")
        (folder / CARD).write_text(self.card, encoding="utf-8")
        sha256 = {**self.sha256, PARAMS_FILE: sha256_of(folder / PARAMS_FILE)}
        return {
            name: {"bytes": (folder / name).stat().st_size, "sha256": found} for name, found in sha256.items()
        }


def read_parts(
    tokenizer: Iterable[Path], params: Params, card: str, text_encoder: Iterable[Path] = ()
) -> ModelParts:
    """Collect the parts of a model from where they are.

    Args:
        tokenizer: files of the video tokenizer, as `tokenizer_files` lists them.
        params: of which `ingest`, `text` and `sample` say how clips are generated.
        card: text of README.md.
        text_encoder: files of a transformers model to pack, as `text_encoder_files` lists them.
    """
    parts = ((TOKENIZER, tokenizer), (TEXT_ENCODER, text_encoder))
    files = {f"{part}/{path.name}": path for part, paths in parts for path in paths}
    sums = {name: sha256_of(path) for name, path in files.items()}
    return ModelParts(files, sums, params_text(params), card)


def open_model_folder(folder: Path) -> ModelFolder:
    """Find the parts of a model in a folder.

    The folder is a model folder, a run's folder of these, or what the registry downloads: `checkpoint` with
    all parts inside, or beside `tokenizer` and `params.yaml`, as in versions of before.

    Raises:
        CheckpointError: a part is missing.
    """
    roots = [path for path in (folder, folder / "checkpoint") if (path / MANIFEST).is_file()]
    root = roots[0] if roots else newest_intact(folder)
    if root is None:
        found = f"no {MANIFEST}" if folder.is_dir() else "no such folder"
        raise CheckpointError(f"{folder}: {found}, expected a model's folder; check the path")
    places = [root, folder]
    tokenizer = next((path / TOKENIZER for path in places if (path / TOKENIZER).is_dir()), None)
    params = next((path / PARAMS_FILE for path in places if (path / PARAMS_FILE).is_file()), None)
    if tokenizer is None or params is None:
        lacking = TOKENIZER if tokenizer is None else PARAMS_FILE
        raise CheckpointError(
            f"{root}: got a checkpoint without {lacking}, expected a whole model; "
            "`videomar export` writes one, and so does training now"
        )
    packed = root / TEXT_ENCODER
    return ModelFolder(root, tokenizer, params, packed if packed.is_dir() else None)


def export(checkpoint: Path, folder: Path, parts: ModelParts | None = None) -> None:
    """Write what generation needs of a checkpoint, not what a run continues from, to a new folder.

    Args:
        checkpoint: the weights.
        folder: a new folder.
        parts: what goes beside the weights; None = the parts that the checkpoint has.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    manifest = verify(checkpoint)
    folder.mkdir(parents=True)
    kept = {
        name: stated
        for name, stated in manifest["files"].items()
        if name in WEIGHTS or (parts is None and _is_part(name))
    }
    for name in kept:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(checkpoint / name, folder / name)
    if parts is None and (checkpoint / CARD).is_file():
        shutil.copyfile(checkpoint / CARD, folder / CARD)
    manifest["files"] = kept | (parts.write(folder) if parts else {})
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def _is_part(name: str) -> bool:
    """Whether a file of a model folder is neither weights nor the state of a run."""
    return name == PARAMS_FILE or name.startswith((f"{TOKENIZER}/", f"{TEXT_ENCODER}/"))


def _link_or_copy(source: Path, target: Path, before: Path | None, sha256: str) -> None:
    """Hard-link an equal file of the checkpoint before, else copy the source."""
    if before is not None and before.is_file() and sha256_of(before) == sha256:
        try:
            os.link(before, target)
        except OSError:  # a filesystem without hard links
            pass
        else:
            return
    shutil.copyfile(source, target)
    if sha256_of(target) != sha256:
        raise CheckpointError(f"{source}: changed since the run began, expected sha256 {sha256[:12]}")
