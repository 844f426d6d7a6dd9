"""The Ray cluster that encode and train run on: the user's, by address, or one for the time of a stage."""

import contextlib
import logging
import math
import os
import secrets
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from videomar.environment import (
    RAY_ON_LOOPBACK,
    RAY_TOKEN,
    apply_settings,
    listens,
    read_services,
    socket_folder,
)
from videomar.errors import DataError

# Shared memory for objects in flight between processes; latents of a block of clips are a few megabytes.
_OBJECT_STORE_BYTES = 256 * 2**20
# One for all clusters of this process, because Ray reads it once.
_TOKEN = secrets.token_hex(32)


@contextlib.contextmanager
def ray_cluster(num_cpus: int) -> Iterator[None]:
    """Connect to the cluster at RAY_ADDRESS or to that of `make up`, else start one with `num_cpus` here.

    At the end only a cluster that was started here is stopped.

    Raises:
        DataError: no cluster answers at RAY_ADDRESS.
    """
    apply_settings()
    # Errors arrive as exceptions; without this Ray's native code prints warnings about normal events.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    address = os.environ.get("RAY_ADDRESS") or _head_of_services()
    if not os.environ.get("RAY_ADDRESS") and (address or "127.").startswith("127."):
        for name, value in RAY_ON_LOOPBACK.items():
            os.environ.setdefault(name, value)
    import ray  # takes a second, and is missing on a bare GPU machine

    where: dict[str, Any] = {"address": address}
    if not address:
        _set_token()
        # An explicit `local`: the marker file of a dead cluster would break a plain init.
        where = {"address": "local", "num_cpus": num_cpus, "include_dashboard": False}
        where |= {"object_store_memory": _OBJECT_STORE_BYTES, "_temp_dir": str(socket_folder() / "ray")}
    quoted = shlex.quote(sys.executable)
    if quoted != sys.executable and not os.environ.get("RAY_ADDRESS"):
        # Ray passes this path to a shell without quotes, where a space would end it.
        where["runtime_env"] = {"py_executable": quoted}
    try:
        with _silent_stderr():
            ray.init(**where, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, ValueError, ray.exceptions.AuthenticationError, SystemExit) as error:
        # Ray raises SystemExit if no cluster answers for a minute.
        rule = "the address of a running cluster; start it, or unset RAY_ADDRESS to run on this machine"
        rule += "; if it asks for a token, set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
        raise DataError(f"RAY_ADDRESS: got {address}, expected {rule}") from error
    try:
        yield
    finally:
        ray.shutdown()
        if os.environ.get("RAY_AUTH_TOKEN") == _TOKEN:
            del os.environ["RAY_AUTH_TOKEN"]  # another cluster has another


def _set_token() -> None:
    """Set the token of a cluster that is started here, unless the user has set one.

    Ray would make one that is kept in the home folder, in a file which other accounts can read.
    """
    given = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if not os.environ.get("RAY_AUTH_TOKEN") and not (given and Path(given).is_file()):
        os.environ["RAY_AUTH_TOKEN"] = _TOKEN


def _head_of_services() -> str | None:
    """Return the address of the cluster of `make up` if it is up, and set its token in the environment."""
    address = read_services().get("ray_address")
    if not address or not listens(address):
        return None
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    if RAY_TOKEN.is_file():
        os.environ.setdefault("RAY_AUTH_TOKEN_PATH", str(RAY_TOKEN.resolve()))
    return str(address)


def compute_device(wanted: str) -> str:
    """Return `cuda` or `cpu`: the given device or, for `auto`, what the connected cluster has."""
    import ray

    if wanted != "auto":
        return wanted
    return "cuda" if ray.cluster_resources().get("GPU", 0) else "cpu"


class ActorDevice(NamedTuple):
    """What the actors of a stage compute on."""

    device: str
    """For `choose_device` in the actor."""
    num_gpus: float
    """GPUs that Ray reserves for each; 0 on processors."""


def actor_device(wanted: str, workers: int, where: str) -> ActorDevice:
    """Deal the GPUs of the connected cluster to `workers` actors; where these are more, several share one.

    All can be scheduled at once, because no GPU is dealt more often than another needs. A cluster at
    RAY_ADDRESS without a GPU may get one later: with `cuda` the actors then wait for it.

    Args:
        wanted: `auto`, `cpu` or `cuda`.
        workers: number of actors.
        where: the key that names the device, for the message.

    Raises:
        DataError: `cuda` is wanted, and the cluster of this machine has no GPU.
    """
    import ray

    found = int(ray.cluster_resources().get("GPU", 0))
    if compute_device(wanted) == "cpu":
        return ActorDevice("cpu", 0)
    if not found and not os.environ.get("RAY_ADDRESS"):
        rule = "a GPU that Ray can see; set it to auto or cpu, or RAY_ADDRESS to a cluster that has GPUs"
        raise DataError(f"{where}: got cuda and no GPU, expected {rule}")
    # Rounded down: Ray counts ten-thousandths, and three of a third must fit.
    return ActorDevice(wanted, math.floor(10_000 / math.ceil(workers / max(1, found))) / 10_000)


def refuse_missing_gpus(wanted: str, num_workers: int) -> None:
    """Refuse a run that would wait forever for GPUs which this machine does not have.

    Raises:
        DataError: the device is a GPU for each worker, and fewer exist.
    """
    import ray

    found = int(ray.cluster_resources().get("GPU", 0))
    if compute_device(wanted) == "cuda" and found < num_workers and not os.environ.get("RAY_ADDRESS"):
        raise DataError(
            f"resources.train.device: got {wanted} and {found} GPUs for {num_workers} worker(s), expected one"
            " each; set it to cpu, lower resources.train.num_workers, or set RAY_ADDRESS to a cluster that "
            "has them"
        )


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Discard stderr, also of native code: Ray's prints its log level there."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
