"""The Ray cluster that encode and train run on: ours for the time of a stage, or the user's by address."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

from videomar.environment import apply_settings
from videomar.errors import DataError

# Shared memory for objects in flight between processes; latents of a block of clips are a few megabytes.
_OBJECT_STORE_BYTES = 256 * 2**20


@contextlib.contextmanager
def ray_cluster(num_cpus: int) -> Iterator[None]:
    """Connect to the cluster at RAY_ADDRESS, else start one of `num_cpus` here and stop it at the end.

    Only what was started here is stopped.

    Raises:
        DataError: no cluster answers at RAY_ADDRESS.
    """
    apply_settings()
    # What goes wrong reaches us as an exception; Ray's native code would warn of things that are right.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray  # takes a second, and a bare GPU machine has none

    address = os.environ.get("RAY_ADDRESS")
    where: dict[str, Any] = {"address": address}
    if not address:
        # An explicit `local`: the marker file of a dead cluster would break a plain init.
        where = {"address": "local", "num_cpus": num_cpus, "include_dashboard": False}
        where["object_store_memory"] = _OBJECT_STORE_BYTES
    try:
        with _silent_stderr():
            ray.init(**where, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, ValueError, SystemExit) as error:  # Ray exits when nobody answers for a minute
        rule = "the address of a running cluster; start it, or unset RAY_ADDRESS to run on this machine"
        raise DataError(f"RAY_ADDRESS: got {address}, expected {rule}") from error
    try:
        yield
    finally:
        ray.shutdown()


def compute_device(wanted: str) -> str:
    """`cuda` or `cpu`: what is wanted, or, for `auto`, what the connected cluster has."""
    import ray

    if wanted != "auto":
        return wanted
    return "cuda" if ray.cluster_resources().get("GPU", 0) else "cpu"


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Nothing written to stderr is seen, by native code either: Ray's tells there what its log's level is."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
