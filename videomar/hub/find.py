"""The folder of a model that a user names: by alias, version, path, or repository on a hub."""

import logging
import os
import re
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from videomar.checkpoint import MANIFEST, ModelFolder, newest_intact, open_model_folder
from videomar.config.layout import Layout
from videomar.environment import listens
from videomar.errors import CheckpointError, VideomarError
from videomar.hub.repository import download
from videomar.hub.shipped import SHIPPED, shipped_folder
from videomar.registry.local_versions import local_candidate, local_model_folder
from videomar.sampling.generate import ClipGenerator
from videomar.tracking.mlflow_store import store_exists, tracking_uri

CHAMPION = "champion"
ALIASES = (CHAMPION, "challenger")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HERE = Layout()
_NEWEST = "no champion here yet: using the newest candidate, version %s; `%s` names the model of the package"
_log = logging.getLogger(__name__)


def load(
    model: str | int | os.PathLike[str] = "champion",
    device: str = "auto",
    text_encoder: str | os.PathLike[str] | None = None,
) -> ClipGenerator:
    """Load a model that generates clips.

    Args:
        model: `champion`, `challenger` or a version's number in the MLflow registry of the working folder or
            of MLFLOW_TRACKING_URI; a model folder; a repository on a hub, as `owner/name`; or `shipped`, the
            model that comes with the package. Where there is no champion yet, the newest candidate stands in
            for it, or, if there is none either, the shipped model; a warning says so.
        device: `auto` (a GPU if there is one), `cpu` or `cuda`.
        text_encoder: folder of the transformers model that the model was trained with, if it is not packed
            in the model's folder and lies elsewhere than at training.

    Raises:
        VideomarError: there is no such model, it is damaged, or there is no such device.
    """
    parts = find_model(model)
    if text_encoder is not None:
        parts = parts._replace(text_encoder=Path(text_encoder))
    return ClipGenerator(parts, device)


def find_model(model: str | int | os.PathLike[str]) -> ModelFolder:
    """Return where the parts of a model are; a model of the registry or of a hub is downloaded.

    Raises:
        VideomarError: there is no such model.
    """
    name = str(model) if isinstance(model, int) else os.fspath(model)
    if name == SHIPPED:
        return open_model_folder(shipped_folder())
    if is_registered(name):
        return _registered(name)
    if name and Path(name).is_dir():
        return _local(Path(name))
    if _HUB_ID.fullmatch(name):
        return open_model_folder(download(name))
    raise VideomarError(f"model: got {name or 'no name'}, which is no folder; expected {_choice()}")


def is_registered(name: str) -> bool:
    """Whether this is how a version of the registry is named: by an alias or a number."""
    return name in ALIASES or name.isdecimal()


def _registered(name: str) -> ModelFolder:
    if (folder := local_model_folder(name)) is not None:
        return open_model_folder(folder)
    if name == CHAMPION and (candidate := local_candidate()) is not None:
        number, folder = candidate
        _log.warning(_NEWEST, number, SHIPPED)
        return open_model_folder(folder)
    if not store_exists():
        if name == CHAMPION:
            return _stand_in()
        raise VideomarError(f"model: got {name}, but there is no registry here; expected {_choice()}")
    _check_server(tracking_uri())
    from videomar.registry import versions  # here: it imports MLflow

    try:
        if name == CHAMPION and versions.champion() is None:
            newest = versions.challenger()
            if newest is None:
                return _stand_in()
            _log.warning(_NEWEST, newest.number, SHIPPED)
            name = newest.number
        version = versions.find_model(name)
    except VideomarError as error:
        raise VideomarError(f"{error}; expected {_choice()}") from None
    return open_model_folder(versions.download_model(version))


def _check_server(uri: str) -> None:
    """Refuse a server that does not answer at once: MLflow tries again for minutes."""
    parts = urlsplit(uri)
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https") or (getproxies().get(parts.scheme) and not proxy_bypass(host)):
        return
    if not listens(f"{host}:{parts.port or (443 if parts.scheme == 'https' else 80)}"):
        rule = "the MLflow server that MLFLOW_TRACKING_URI or `make up` names; start it, or name `shipped`"
        raise VideomarError(f"model: got no answer from {host}:{parts.port or parts.scheme}, expected {rule}")


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
        checkpoint = folder if (folder / MANIFEST).is_file() else newest_intact(folder)
        if checkpoint is None or not (_HERE.tokenizer.is_dir() and _HERE.params.is_file()):
            raise
        return ModelFolder(checkpoint, _HERE.tokenizer, _HERE.params)


def _choice() -> str:
    """What a model may be named here, in words."""
    elsewhere = f"a model folder, OWNER/NAME on a hub, or `{SHIPPED}`"
    if not store_exists():
        return elsewhere
    from videomar.registry.versions import all_versions

    numbers = [version.number for version in all_versions()]
    if not numbers:
        return elsewhere
    span = numbers[0] if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
    return f"`champion`, `challenger`, a version ({span}), {elsewhere}"
