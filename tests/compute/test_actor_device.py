"""How many GPUs Ray reserves for the actors of a stage, and what is refused."""

import pytest
import ray
import torch

from videomar.compute.cluster import actor_device
from videomar.compute.device import device_kind, fetch, send
from videomar.errors import DataError


def gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Let the connected cluster have so many."""
    monkeypatch.setattr(
        ray, "cluster_resources", lambda: {"CPU": 8.0, **({"GPU": float(count)} if count else {})}
    )


@pytest.mark.parametrize(
    ("workers", "count"), [(1, 1), (2, 1), (3, 1), (7, 1), (2, 4), (4, 3), (8, 3), (5, 4), (13, 6)]
)
def test_all_actors_fit_on_the_gpus_and_no_gpu_has_more_than_needed(monkeypatch, workers, count):
    gpus(monkeypatch, count)
    device, share = actor_device("auto", workers, "somewhere")
    assert device == "auto"
    on_one = int(1 / share)  # Ray puts a fraction of a GPU on one GPU
    assert on_one * count >= workers
    assert (on_one - 1) * count < workers


def test_processors_need_no_gpu(monkeypatch):
    for wanted, count in (("cpu", 4), ("auto", 0)):
        gpus(monkeypatch, count)
        assert actor_device(wanted, 2, "somewhere") == ("cpu", 0)


def test_gpu_that_no_node_has_is_refused_here_and_awaited_in_a_cluster(monkeypatch):
    gpus(monkeypatch, 0)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(
        DataError, match=r"^resources\.text\.device: got cuda and no GPU, expected a GPU that Ray can see"
    ):
        actor_device("cuda", 2, "resources.text.device")
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert actor_device("cuda", 2, "resources.text.device") == ("cuda", 0.5)


def test_copies_on_a_processor_are_the_values():
    values = torch.randn(3)
    device = torch.device("cpu")
    assert torch.equal(fetch(send(values, device))(), values)
    assert device_kind(device) == "cpu"
