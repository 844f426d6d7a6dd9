"""Files that the servers need at their start: MLflow's sign-in, Ray's token and Ray's folder."""

import hashlib
import os
import secrets
import shutil
from pathlib import Path

from videomar.environment import RAY_TOKEN, socket_folder
from videomar.errors import VideomarError
from videomar.services.settings import Settings

SIGN_IN = Path(".local/mlflow-auth.ini")
_ACCOUNTS = Path(".local/mlflow-auth.db")
_OTHERS = 0o077  # permission bits of group and others


def prepare(settings: Settings) -> None:
    """Write the files. They hold no passwords: servers read those from their environment.

    Raises:
        VideomarError: another user owns Ray's folder.
    """
    SIGN_IN.parent.mkdir(parents=True, exist_ok=True)
    if settings.authenticated:
        SIGN_IN.write_text(
            "[mlflow]\n"
            "default_permission = READ\n"
            f"database_uri = sqlite:///{_ACCOUNTS.resolve()}\n"
            "admin_username = admin\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n",
            encoding="utf-8",
        )
        os.close(os.open(_ACCOUNTS, os.O_CREAT, 0o600))  # before MLflow creates it readable for all
    if settings.ray_port is not None:
        _make_ray_folder()
        RAY_TOKEN.unlink(missing_ok=True)
        if settings.own_token:
            with open(
                os.open(RAY_TOKEN, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8"
            ) as file:
                file.write(secrets.token_hex(32))


def clear() -> None:
    """Remove the files that the next start does not use."""
    RAY_TOKEN.unlink(missing_ok=True)
    shutil.rmtree(ray_folder(), ignore_errors=True)


def ray_folder() -> Path:
    """Ray's folder for this checkout, below the system's temporary folder to keep the paths of sockets short.

    It is not Ray's default folder, where any `ray.init()` on the machine would find and use the head.
    """
    checkout = hashlib.sha256(os.fsencode(Path.cwd())).hexdigest()[:8]
    return socket_folder() / f"videomar-{checkout}"


def _make_ray_folder() -> None:
    folder = ray_folder()
    folder.mkdir(mode=0o700, exist_ok=True)
    about = folder.lstat()
    if folder.is_symlink() or about.st_uid != os.getuid() or about.st_mode & _OTHERS:
        raise VideomarError(f"{folder}: got a folder that others may use, expected one of our own; remove it")
