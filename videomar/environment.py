"""Environment variables for third-party programs, running services, and the kind of processor.

The variables turn off telemetry and noise. They are set in one place, so that `make`, `dvc repro` and a flow
behave alike. Variables that the user has set stay.
"""

import contextlib
import json
import os
import platform
import secrets
import socket
import tempfile
from pathlib import Path
from typing import Any

from videomar.errors import VideomarError

SETTINGS = {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    # Our own code prints errors; the server still gets every record.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_SERVER_LEVEL": "ERROR",
    # The temporary server of a flow takes over 20 s to start on a busy machine, which is Prefect's own limit.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Ray gives its workers niceness 15: beside any other program that computes they would get nearly nothing.
    "RAY_worker_niceness": "0",
    # Workers keep the working folder of the command, so that relative paths stay valid.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # Nothing is downloaded unless a user names a repository. Not "1", which a user would write: that counts.
    "HF_HUB_OFFLINE": "on",
    "TOKENIZERS_PARALLELISM": "false",
}
SERVICES = Path(".local/services.json")
"""What `make up` started in this checkout; the file exists only while services run."""
PASSWORD = Path(".local/services.password")
"""Password for MLflow and Prefect of `make up`: who can read it can run programs as their user."""
USER = "admin"
"""Name that goes with the password."""
MLFLOW_PASSWORD, PREFECT_SIGN_IN = "MLFLOW_AUTH_ADMIN_PASSWORD", "PREFECT_SERVER_API_AUTH_STRING"
"""Variables with the passwords of the servers: what is in the file, or the user's own."""
RAY_TOKEN = Path(".local/ray.token")
"""Token for the Ray head of `make up`: who can read it can use Ray."""
RAY_ON_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Without this switch Ray listens on all interfaces even if its address is 127.0.0.1."""
# A socket's path has at most 107 bytes, of which Ray's own folders and names take 68.
_SOCKET_FOLDER_BYTES = 38
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_PREFECT_HOME = Path(".local/prefect")
_PATIENCE_S = 3.0
_CPUINFO = Path("/proc/cpuinfo")


def apply_settings() -> None:
    """Put SETTINGS into this process's environment; call it before those programs are imported.

    Loopback is excepted from a proxy, which cannot reach this machine's own ports.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    excepted = ",".join(os.environ.get(name, "") for name in ("no_proxy", "NO_PROXY")).split(",")
    excepted = list(dict.fromkeys([*(host.strip() for host in excepted if host.strip()), *_LOOPBACK]))
    for name in ("no_proxy", "NO_PROXY"):  # programs read one or the other
        os.environ[name] = "*" if "*" in excepted else ",".join(excepted)
    services = read_services(checkout())
    if tracking := services.get("tracking_uri"):
        os.environ.setdefault("MLFLOW_TRACKING_URI", tracking)
    ours = tracking or services.get("services", {}).get("mlflow", {}).get("address")
    password = os.environ.get(MLFLOW_PASSWORD) or read_password(checkout())
    # The password is for our own server only.
    if password and ours and os.environ.get("MLFLOW_TRACKING_URI", "").rstrip("/") == ours:
        os.environ.setdefault("MLFLOW_TRACKING_USERNAME", USER)
        os.environ.setdefault("MLFLOW_TRACKING_PASSWORD", password)


def prepare_prefect() -> None:
    """Apply the settings, set the folder of Prefect's state, and use the server of `make up` if it runs.

    Without one, Prefect starts a temporary server on a port of this machine. That gets a password, too: what
    other accounts wrote into its database would be run by the next `make up`.
    """
    apply_settings()
    os.environ["PREFECT_HOME"] = str(prefect_home())
    api = read_services().get("prefect_api")
    if api and "PREFECT_API_URL" not in os.environ and answers(f"{api}/health"):
        os.environ["PREFECT_API_URL"] = api
    used, sign_in = os.environ.get("PREFECT_API_URL"), os.environ.get(PREFECT_SIGN_IN)
    if not used and not sign_in:
        sign_in = os.environ.get("PREFECT_API_AUTH_STRING") or f"{USER}:{secrets.token_urlsafe()}"
        os.environ[PREFECT_SIGN_IN] = sign_in
    elif used == api and not sign_in and (password := read_password()):
        sign_in = f"{USER}:{password}"
    if sign_in:
        os.environ.setdefault("PREFECT_API_AUTH_STRING", sign_in)


def prefect_home() -> Path:
    """Folder of Prefect's database: PREFECT_HOME, or `.local/prefect` by default."""
    home = Path(os.environ.get("PREFECT_HOME") or _PREFECT_HOME).resolve()
    home.mkdir(parents=True, exist_ok=True)
    return home


def checkout() -> Path:
    """The working folder, or the original checkout if DVC runs an experiment in a temporary copy."""
    here = Path.cwd()
    copies = [folder for folder in here.parents if folder.parts[-3:] == (".dvc", "tmp", "exps")]
    return copies[0].parents[2] if copies else here


def socket_folder() -> Path:
    """The system's temporary folder, or another if its path is too long for a socket.

    Raises:
        VideomarError: no such folder exists.
    """
    folders = [tempfile.gettempdir(), "/tmp", "/var/tmp"]
    for folder in folders:
        if len(os.fsencode(folder)) <= _SOCKET_FOLDER_BYTES and os.access(folder, os.W_OK):
            return Path(folder)
    rule = f"a folder of at most {_SOCKET_FOLDER_BYTES} bytes that can be written to, for Ray's sockets"
    raise VideomarError(f"TMPDIR: got {folders[0]}, expected {rule}; `export TMPDIR=/short/folder`")


def read_services(folder: Path = Path()) -> dict[str, Any]:
    """Record of what `make up` started in a checkout; empty while no services run.

    The record that came with a copy of a checkout is about the services of the other copy, and is empty, too.
    """
    try:
        found = json.loads((folder / SERVICES).read_text(encoding="utf-8"))
        here = folder_mark(folder)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and found.get("folder_mark", here) == here else {}


def folder_mark(folder: Path = Path()) -> int:
    """A number that stays when a checkout is moved on its disk, and differs in a copy of it.

    Raises:
        OSError: no services have ever run there.
    """
    return (folder / SERVICES.parent).stat().st_ino


def read_password(folder: Path = Path()) -> str | None:
    """The password of what `make up` started in a checkout; None if there is none of ours."""
    try:
        return (folder / PASSWORD).read_text(encoding="utf-8").strip() or None
    except (OSError, ValueError):
        return None


def sign_in_line(in_full: bool) -> str | None:
    """How the user opens the pages of `make up`; None if all passwords are the user's own.

    Args:
        in_full: whether to show the password, as on a terminal, which keeps no copy of it.
    """
    if (password := read_password()) is None:
        return None
    shown = password if in_full else "PASSWORD"
    where = "" if in_full else f"; the password is in {PASSWORD}"
    return f"sign in: MLflow user {USER}, password {shown}; Prefect {USER}:{shown}{where}"


def answers(url: str) -> bool:
    """Whether a server answers at this address with status 200."""
    import urllib.request  # here: with TLS it is half of what `--help` imports of ours

    directly = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy cannot reach our ports
    with contextlib.suppress(OSError, ValueError), directly.open(url, timeout=_PATIENCE_S) as reply:
        return bool(reply.status == 200)
    return False


def listens(address: str) -> bool:
    """Whether a program accepts connections at `host:port`."""
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=_PATIENCE_S):
        return True
    return False


def processor_kind() -> str:
    """Vendor and instruction set of the processor, as `AuthenticAMD AVX2` or `arm64`.

    If these are equal, the libraries choose equal kernels, and results are equal bit by bit.
    """
    import torch  # here: most users of the settings need no torch

    try:
        lines = _CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    vendors = [line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")]
    capability = torch.backends.cpu.get_cpu_capability()
    known = [] if capability == "DEFAULT" else [capability]
    return " ".join([next(iter(vendors), platform.machine()), *known])
