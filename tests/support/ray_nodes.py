"""A cluster of Ray in the process of a test, which can get and lose nodes."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from videomar.compute.cluster import _TOKEN
from videomar.environment import apply_settings


@contextlib.contextmanager
def cluster_of_a_node(folder: Path, **node: int) -> Iterator[Any]:
    """Context in which RAY_ADDRESS is that of a cluster of one node of so many `num_cpus` and the like.

    It asks for the token of the clusters that stages start: Ray reads a token once in a process, which may
    have started such a cluster before, or may do so later.
    """
    from ray._private.authentication.authentication_token_setup import _enable_token_auth
    from ray.cluster_utils import Cluster

    token = folder / "ray_token"
    token.write_text(_TOKEN, "utf-8")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_AUTH_MODE", "token")
        environment.setenv("RAY_AUTH_TOKEN_PATH", str(token))
        _enable_token_auth()  # in this process, too, where Ray may be imported already
        apply_settings()
        cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
        environment.setenv("RAY_ADDRESS", cluster.address)
        try:
            yield cluster
        finally:
            cluster.shutdown()
