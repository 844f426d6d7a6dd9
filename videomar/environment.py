"""The machine around us: settings that other people's programs read from it, and the kind of its processor.

By the settings nothing is reported home, and little is said. One place for them all, so that `make`,
`dvc repro` and a flow behave alike. What the user has set stays.
"""

import contextlib
import json
import os
import platform
import socket
import tempfile
import urllib.request
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
    # Errors reach the terminal once, from us; the server still gets every record.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_SERVER_LEVEL": "ERROR",
    # The temporary server of a flow takes over 20 s to start on a busy machine, which is Prefect's own limit.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Workers keep the folder of the command, so that relative paths mean what they say.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
SERVICES = Path(".local/services.json")
"""What `make up` started in this checkout; there is no such file while nothing is up."""
RAY_TOKEN = Path(".local/ray.token")
"""Whoever reads it may use the Ray head of `make up`."""
RAY_ON_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Ray listens on all interfaces, even where it is told 127.0.0.1; with this switch it keeps to that one."""
# A socket's path has at most 107 bytes, of which Ray's own folders and names take 68.
_SOCKET_FOLDER_BYTES = 38
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_PREFECT_HOME = Path(".local/prefect")
_PATIENCE_S = 3.0
_CPUINFO = Path("/proc/cpuinfo")
_DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy knows nothing of our ports


def apply_settings() -> None:
    """Put SETTINGS into this process's environment; to be called before those programs are imported.

    A proxy for the world outside knows nothing of this machine's own ports, so loopback is excepted from it.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    excepted = ",".join(os.environ.get(name, "") for name in ("no_proxy", "NO_PROXY")).split(",")
    excepted = list(dict.fromkeys([*(host.strip() for host in excepted if host.strip()), *_LOOPBACK]))
    for name in ("no_proxy", "NO_PROXY"):  # programs differ in which of them they read
        os.environ[name] = "*" if "*" in excepted else ",".join(excepted)
    tracking = read_services(checkout()).get("tracking_uri")
    if tracking:
        os.environ.setdefault("MLFLOW_TRACKING_URI", tracking)
        password = os.environ.get("MLFLOW_AUTH_ADMIN_PASSWORD")
        if password and os.environ["MLFLOW_TRACKING_URI"] == tracking:  # it is for our own server only
            os.environ.setdefault("MLFLOW_TRACKING_USERNAME", "admin")
            os.environ.setdefault("MLFLOW_TRACKING_PASSWORD", password)


def prepare_prefect() -> None:
    """The same, a folder below the working one for Prefect's state, and the server of `make up` if up."""
    apply_settings()
    os.environ["PREFECT_HOME"] = str(prefect_home())
    api = read_services().get("prefect_api")
    if api and "PREFECT_API_URL" not in os.environ and answers(f"{api}/health"):
        os.environ["PREFECT_API_URL"] = api
    password = os.environ.get("PREFECT_SERVER_API_AUTH_STRING")
    if password:
        os.environ.setdefault("PREFECT_API_AUTH_STRING", password)


def prefect_home() -> Path:
    """Folder of Prefect's database: the user's PREFECT_HOME, else one below the working folder."""
    home = Path(os.environ.get("PREFECT_HOME") or _PREFECT_HOME).resolve()
    home.mkdir(parents=True, exist_ok=True)
    return home


def checkout() -> Path:
    """The working folder; where DVC runs an experiment in a copy that it removes, the checkout it is of."""
    here = Path.cwd()
    copies = [folder for folder in here.parents if folder.parts[-3:] == (".dvc", "tmp", "exps")]
    return copies[0].parents[2] if copies else here


def socket_folder() -> Path:
    """The system's folder of temporary files, or another where that is too long for a socket's path.

    Raises:
        VideomarError: there is none.
    """
    folders = [tempfile.gettempdir(), "/tmp", "/var/tmp"]
    for folder in folders:
        if len(os.fsencode(folder)) <= _SOCKET_FOLDER_BYTES and os.access(folder, os.W_OK):
            return Path(folder)
    rule = f"a folder of at most {_SOCKET_FOLDER_BYTES} bytes that can be written to, for Ray's sockets"
    raise VideomarError(f"TMPDIR: got {folders[0]}, expected {rule}; `export TMPDIR=/short/folder`")


def read_services(folder: Path = Path()) -> dict[str, Any]:
    """What `make up` has noted down in a checkout; empty where it did not."""
    try:
        found = json.loads((folder / SERVICES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def answers(url: str) -> bool:
    """Whether a server says at this address that all is well."""
    with contextlib.suppress(OSError, ValueError), _DIRECTLY.open(url, timeout=_PATIENCE_S) as reply:
        return bool(reply.status == 200)
    return False


def listens(address: str) -> bool:
    """Whether a program takes connections at `host:port`."""
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=_PATIENCE_S):
        return True
    return False


def processor_kind() -> str:
    """Vendor and instruction set of the processor, as `AuthenticAMD AVX2` or `arm64`.

    Where these are equal, so are the kernels that the libraries choose, and with them the last bits.
    """
    import torch  # here, because most of those who need the settings need no torch

    try:
        lines = _CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    vendors = [line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")]
    capability = torch.backends.cpu.get_cpu_capability()
    known = [] if capability == "DEFAULT" else [capability]
    return " ".join([next(iter(vendors), platform.machine()), *known])
