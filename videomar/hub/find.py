"""The folder of a model that a user names: by alias, version, path, or repository on a hub."""

import logging
import os
import re
from pathlib import Path

from videomar.checkpoint import ModelFolder, open_model_folder
from videomar.config.layout import Layout
from videomar.errors import CheckpointError, VideomarError
from videomar.hub.shipped import SHIPPED, shipped_folder
from videomar.registry.local_versions import local_model_folder
from videomar.sampling.generate import ClipGenerator
from videomar.tracking.mlflow_store import store_exists

CHAMPION = "champion"
ALIASES = (CHAMPION, "challenger")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HERE = Layout()
_log = logging.getLogger(__name__)


def load(model: str | os.PathLike[str] = "champion", device: str = "auto") -> ClipGenerator:
    """Load a model that generates clips.

    Args:
        model: `champion`, `challenger` or a version's number in the MLflow registry of the working folder or
            of MLFLOW_TRACKING_URI; a model folder; a repository on a hub, as `owner/name`; or `shipped`, the
            model that comes with the package. That one stands in for a champion where there is none yet.
        device: `auto` (a GPU if there is one), `cpu` or `cuda`.

    Raises:
        VideomarError: there is no such model, it is damaged, or there is no such device.
    """
    return ClipGenerator(find_model(model), device)


def find_model(model: str | os.PathLike[str]) -> ModelFolder:
    """Return where the parts of a model are; a model of the registry or of a hub is downloaded.

    Raises:
        VideomarError: there is no such model.
    """
    name = os.fspath(model)
    if name == SHIPPED:
        return open_model_folder(shipped_folder())
    if name in ALIASES or name.isdecimal():
        return _registered(name)
    if Path(name).is_dir():
        return _local(Path(name))
    if _HUB_ID.fullmatch(name):
        return open_model_folder(_downloaded(name))
    raise VideomarError(f"model: got {name}, expected {_known()}; no such folder exists")


def _registered(name: str) -> ModelFolder:
    if (folder := local_model_folder(name)) is not None:
        return open_model_folder(folder)
    if not store_exists():
        if name == CHAMPION:
            return _stand_in()
        raise VideomarError(f"model: got {name}, but there is no registry here; expected {_known()}")
    from videomar.registry import versions  # here: it imports MLflow

    if name == CHAMPION and versions.champion() is None:
        return _stand_in()
    return open_model_folder(versions.download_model(versions.find_model(name)))


def _stand_in() -> ModelFolder:
    """The shipped model, where there is no champion yet."""
    folder = shipped_folder()
    _log.warning("no champion here yet: using the model that comes with the package, `%s`", SHIPPED)
    return open_model_folder(folder)


def _local(folder: Path) -> ModelFolder:
    """A model folder; for a checkpoint of the pipeline without parts, tokenizer and parameters of here."""
    try:
        return open_model_folder(folder)
    except CheckpointError:
        from videomar.checkpoint import MANIFEST, newest_intact

        checkpoint = folder if (folder / MANIFEST).is_file() else newest_intact(folder)
        if checkpoint is None or not (_HERE.tokenizer.is_dir() and _HERE.params.is_file()):
            raise
        return ModelFolder(checkpoint, _HERE.tokenizer, _HERE.params)


def _downloaded(name: str) -> Path:
    """Download a repository, or find it in the local cache of the hub's client.

    Raises:
        VideomarError: the client is missing, or the repository cannot be reached.
    """
    os.environ.pop("HF_HUB_OFFLINE", None)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name))


def _known() -> str:
    """What a model may be named here, in words."""
    return "`champion`, `challenger`, a version's number, a model folder, OWNER/NAME on a hub, or `shipped`"
