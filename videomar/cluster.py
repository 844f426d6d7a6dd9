"""The Ray cluster that encode and train run on: ours for the time of a stage, or the user's by address."""

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

from videomar.environment import apply_settings

# Shared memory for objects in flight between processes; latents of a block of clips are a few megabytes.
_OBJECT_STORE_BYTES = 256 * 2**20


@contextlib.contextmanager
def ray_cluster(num_cpus: int) -> Iterator[None]:
    """Connect to the cluster at RAY_ADDRESS, else start one of `num_cpus` here and stop it at the end.

    Only what was started here is stopped.
    """
    apply_settings()
    import ray  # takes a second, and a bare GPU machine has none

    address = os.environ.get("RAY_ADDRESS")
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address:
        ray.init(address=address, **quiet)
    else:
        # An explicit `local`: the marker file of a dead cluster would break a plain init.
        ray.init(
            address="local",
            num_cpus=num_cpus,
            object_store_memory=_OBJECT_STORE_BYTES,
            include_dashboard=False,
            **quiet,
        )
    try:
        yield
    finally:
        ray.shutdown()
