"""Repositories of a hub of models: a folder downloaded from one, or uploaded to one.

The address is that of HF_ENDPOINT, or the Hugging Face hub; a token comes from HF_TOKEN alone, never from a
stored login.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from videomar.environment import SETTINGS
from videomar.errors import VideomarError

_REASONS = {
    "LocalEntryNotFoundError": ("the hub cannot be reached, and there is no copy here", ""),
    "RepositoryNotFoundError": (
        "no such repository, or none that may be read",
        "set HF_TOKEN if it is private",
    ),
    "GatedRepoError": ("its owner lets only some read it", "ask for access on its page, and set HF_TOKEN"),
}
"""The errors of the hub's client that users meet, by name, in plain words, with a remedy."""
_TOKEN, _OFFLINE = "HF_TOKEN", "HF_HUB_OFFLINE"
# All that a model folder has; a repository may hold more, such as code or the weights in another form.
_WANTED = ["*.safetensors", "checkpoint.json", "params.yaml", "README.md", "tokenizer/*", "text_encoder/*"]


def download(repository: str) -> Path:
    """Download the model folder in a repository; what the local cache has is not downloaded again.

    Args:
        repository: OWNER/NAME.

    Raises:
        VideomarError: there is no such repository, or neither the hub nor a copy in the cache can be had.
    """
    with _online(repository):
        from huggingface_hub import snapshot_download

        token = os.environ.get(_TOKEN) or False
        return Path(snapshot_download(repository, allow_patterns=_WANTED, token=token))


def upload(folder: Path, repository: str, private: bool) -> str:
    """Upload a folder to a repository, which is created if it does not exist; return its address.

    Args:
        folder: a model folder.
        repository: OWNER/NAME.
        private: whether a new repository can be read by its owner alone.

    Raises:
        VideomarError: HF_TOKEN is not set or may not write there, or the hub cannot be reached.
    """
    token = os.environ.get(_TOKEN)
    if not token:
        raise VideomarError(f"{_TOKEN}: not set, expected a token that may write to {repository}; export it")
    with _online(repository):
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        made = api.create_repo(repository, private=private, exist_ok=True)
        words = f"Upload {folder.name}"
        api.upload_folder(repo_id=made.repo_id, folder_path=folder, commit_message=words)
        return str(made)


@contextlib.contextmanager
def _online(repository: str) -> Iterator[None]:
    """Let the hub's client reach the hub, unless the user forbids it, and report its errors in one line.

    Our settings keep it offline, because nothing else here may download anything.

    Raises:
        VideomarError: whatever goes wrong inside.
    """
    from huggingface_hub import constants

    host, before = constants.ENDPOINT, constants.HF_HUB_OFFLINE
    forbidden = before and os.environ.get(_OFFLINE) not in (None, SETTINGS[_OFFLINE])
    constants.HF_HUB_OFFLINE = bool(forbidden)
    try:
        yield
    except Exception as error:  # the client raises errors of its own, of HTTP, of the network, of the disk
        said = " ".join(str(error).split())[:150]
        reason, remedy = _REASONS.get(type(error).__name__, (f"got {type(error).__name__} ({said})", ""))
        if forbidden:
            remedy = f"{_OFFLINE} is set, so only what was downloaded before can be loaded"
        remedy = remedy or f"check the name, the network, and what {_TOKEN} may do"
        raise VideomarError(f"{repository}: {reason}, expected a repository of {host}; {remedy}") from None
    finally:
        constants.HF_HUB_OFFLINE = before
