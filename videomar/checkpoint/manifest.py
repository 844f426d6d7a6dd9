"""`checkpoint.json`: its keys, and the shape of the network that the weights fit."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from videomar.config import ModelParams
from videomar.config.params import CAME_LATER
from videomar.errors import CheckpointError
from videomar.model.videomar import VideoMAR

# Without `progress`: registered models of earlier versions lack it, and only training needs it.
_KEYS: Mapping[str, type] = {"step": int, "shape": dict, "files": dict, "made_with": object}
_FILE_KEYS: Mapping[str, type] = {"bytes": int, "sha256": str}
_ADVICE = "it is damaged or of another version; use another, or run `dvc repro train`"


class NetworkShape(Protocol):
    """Everything needed to build some network; what `checkpoint.json` says of it."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Everything needed to build the network before its weights are loaded."""

    params: ModelParams
    latent_channels: int
    text_channels: int
    max_text_tokens: int
    null_text_tokens: int | None = None
    """Rows of the null text, if a run started from a network for shorter captions; None = max_text_tokens."""

    def build(self) -> VideoMAR:
        """Build a network of this shape; its weights are not initialised."""
        text = self.text_channels, self.max_text_tokens, self.null_text_tokens
        return VideoMAR(self.params, self.latent_channels, *text)

    def to_dict(self) -> dict[str, Any]:
        """The shape as plain values, ready for JSON; a key added later is left out where it is None."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def check_manifest(manifest: object, path: Path) -> None:
    """Refuse a manifest that no `save` has written, before it is used.

    Raises:
        CheckpointError: a key is missing, or its value has another type.
    """
    _check_keys(manifest, _KEYS, str(path))
    for name, stated in manifest["files"].items():  # type: ignore[index]
        _check_keys(stated, _FILE_KEYS, f"{path}: files: {name}")


def read_shape(manifest: Mapping[str, Any], path: Path) -> ModelShape:
    """Return the shape in a checked manifest.

    Raises:
        CheckpointError: it lacks a key, or has an unknown key or an impossible value.
    """
    raw = manifest["shape"]
    try:
        # JSON has no tuples.
        values: dict[str, Any] = {
            k: tuple(value) if isinstance(value, list) else value for k, value in raw["params"].items()
        }
        return ModelShape(**{**raw, "params": ModelParams(**{**CAME_LATER["model"], **values})})
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(f"{path}: shape: got {error}, expected a network's shape; {_ADVICE}") from None


def _check_keys(found: object, kinds: Mapping[str, type], where: str) -> None:
    if not isinstance(found, dict):
        raise CheckpointError(f"{where}: got no object, expected keys {', '.join(kinds)}; {_ADVICE}")
    wrong = [key for key, kind in kinds.items() if key not in found or not isinstance(found[key], kind)]
    if wrong:
        raise CheckpointError(
            f"{where}: got no proper {', '.join(wrong)}, expected {', '.join(kinds)}; {_ADVICE}"
        )
