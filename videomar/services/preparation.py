"""What the servers find on disk when they start: MLflow's sign-in, Ray's token and Ray's folder."""

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
_FOR_US_ONLY = 0o077


def prepare(settings: Settings) -> None:
    """Write them. Passwords are not among them: servers read those from their environment.

    Raises:
        VideomarError: somebody else made the folder that is to be Ray's.
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
        os.close(os.open(_ACCOUNTS, os.O_CREAT, 0o600))  # before MLflow makes it for all to read
    if settings.ray_port is not None:
        _make_ray_folder()
        RAY_TOKEN.unlink(missing_ok=True)
        if settings.own_token:
            with open(
                os.open(RAY_TOKEN, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8"
            ) as file:
                file.write(secrets.token_hex(32))


def clear() -> None:
    """Remove what is of no use to the next start."""
    RAY_TOKEN.unlink(missing_ok=True)
    shutil.rmtree(ray_folder(), ignore_errors=True)


def ray_folder() -> Path:
    """Of this checkout's head: in the system's folder, since a socket's path has no more than 107 letters.

    Not Ray's own place there, where a plain `ray.init()` of anybody would find and use the head.
    """
    checkout = hashlib.sha256(os.fsencode(Path.cwd())).hexdigest()[:8]
    return socket_folder() / f"videomar-{checkout}"


def _make_ray_folder() -> None:
    folder = ray_folder()
    folder.mkdir(mode=0o700, exist_ok=True)
    about = folder.lstat()
    if folder.is_symlink() or about.st_uid != os.getuid() or about.st_mode & _FOR_US_ONLY:
        raise VideomarError(f"{folder}: got somebody else's, expected a folder for us only; remove it")
