"""What the servers need at their start: passwords, MLflow's accounts, Ray's token and Ray's folder."""

import hashlib
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from videomar.environment import (
    MLFLOW_PASSWORD,
    PASSWORD,
    PREFECT_SIGN_IN,
    RAY_TOKEN,
    USER,
    socket_folder,
)
from videomar.errors import VideomarError
from videomar.services.settings import Settings

SIGN_IN = Path(".local/mlflow-auth.ini")
_ACCOUNTS = Path(".local/mlflow-auth.db")
_OTHERS = 0o077  # permission bits of group and others


def prepare(settings: Settings, environment: Mapping[str, str]) -> dict[str, str]:
    """Write the files; return variables with the passwords that the user has not set in the environment.

    Servers and flows get the variables. Other programs of the user read the file, which exists if one of the
    passwords is ours. Passwords of the user are written nowhere.

    Raises:
        VideomarError: another user owns Ray's folder.
    """
    SIGN_IN.parent.mkdir(parents=True, exist_ok=True)
    if settings.accounts:
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
        if settings.own_token:
            _write_secret(RAY_TOKEN, secrets.token_hex(32))
    password = secrets.token_urlsafe(24)
    made = {MLFLOW_PASSWORD: password, PREFECT_SIGN_IN: f"{USER}:{password}"}
    made = {name: value for name, value in made.items() if not environment.get(name)}
    if made:
        _write_secret(PASSWORD, password)
    return made


def clear() -> None:
    """Remove the files that the next start does not use."""
    PASSWORD.unlink(missing_ok=True)
    RAY_TOKEN.unlink(missing_ok=True)
    shutil.rmtree(ray_folder(), ignore_errors=True)


def ray_folder() -> Path:
    """Ray's folder for this checkout, below the system's temporary folder to keep the paths of sockets short.

    It is not Ray's default folder, where any `ray.init()` on the machine would find and use the head.
    """
    checkout = hashlib.sha256(os.fsencode(Path.cwd())).hexdigest()[:8]
    return socket_folder() / f"videomar-{checkout}"


def _write_secret(path: Path, secret: str) -> None:
    """Write a new file that only its owner can read; it is never open to others, not even for a moment."""
    path.unlink(missing_ok=True)
    owner_only = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with open(owner_only, "w", encoding="utf-8") as file:
        file.write(secret)


def _make_ray_folder() -> None:
    folder = ray_folder()
    folder.mkdir(mode=0o700, exist_ok=True)
    about = folder.lstat()
    if folder.is_symlink() or about.st_uid != os.getuid() or about.st_mode & _OTHERS:
        raise VideomarError(f"{folder}: got a folder that others may use, expected one of our own; remove it")
