"""Training on Ray: the bits of the plain loop on two nodes, also after kills; refusals are not retried."""

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import torch.distributed as dist

from tests.conftest import small_params
from tests.support.caches import write_cache
from tests.support.deadlines import within
from tests.support.ray_nodes import cluster_of_a_node
from tests.support.two_workers import on_two_workers
from tests.training.conftest import files_of, spoil, with_train
from videomar import checkpoint
from videomar.checkpoint.manifest import ModelShape
from videomar.config import CurriculumStage, Params
from videomar.errors import CheckpointError, DataError
from videomar.latents.dataset import LatentDataset, Splits
from videomar.latents.keys import expected_metadata
from videomar.latents.shards import read_rows, write_shards
from videomar.training.launch import RunSpec, refusal_of, run
from videomar.training.loop import train
from videomar.training.worker import Worker

STEPS = 180
DEADLINE_S = 240
STORE_BYTES = 80 * 2**20


def two_workers() -> Params:
    """A run of seconds on two workers, as by default on processors, so that there is time to kill one."""
    params = small_params()
    stages = (
        CurriculumStage(num_latent_frames=2, steps=STEPS // 3, batch_size=4),
        CurriculumStage(num_latent_frames=0, steps=STEPS - STEPS // 3, batch_size=4),
    )
    train = with_train(
        params,
        num_workers=None,
        checkpoint_every=20,
        log_every=50,
        validate_every=0,
        preview_every=0,
        device="auto",
    )
    return dataclasses.replace(params, train=dataclasses.replace(train, curriculum=stages))


PARAMS = two_workers()


def write_latents(folder: Path) -> Path:
    write_shards(folder, list(read_rows(write_cache(folder))), 100, expected_metadata(PARAMS))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("launch")


@pytest.fixture(scope="module")
def expected(folder):
    """What two processes on this machine, without Ray, make."""
    latents, max_tokens = write_latents(folder / "latents"), PARAMS.text.max_tokens

    def work(worker: Worker) -> dict[str, float]:
        dataset = LatentDataset(latents, "train", max_tokens)
        shape = ModelShape(PARAMS.model, dataset.latent_channels, dataset.text_channels, max_tokens)
        return train(shape, Splits(dataset), PARAMS.train, folder / "plain", worker, None)

    figures, _ = on_two_workers(work)
    assert figures["steps"] == STEPS, figures
    return figures, files_of(folder / "plain")


@pytest.fixture(scope="module")
def cluster(folder, expected):
    """Two nodes of one CPU each, found by RAY_ADDRESS."""
    size = {"num_cpus": 1, "object_store_memory": STORE_BYTES}
    with cluster_of_a_node(folder, **size) as cluster, pytest.MonkeyPatch.context() as environment:
        cluster.second = cluster.add_node(**size)
        environment.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        environment.chdir(folder)
        yield cluster


@pytest.fixture(autouse=True)
def deadline():
    """A run that hangs is a failure."""
    with within(DEADLINE_S):
        yield


def workers_of_ray() -> list[psutil.Process]:
    """Processes of this process's cluster that train."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "TrainWorker" in " ".join(process.cmdline()):
                found.append(process)
    return found


def train_and_harm(out: Path, harm: Callable[[], None]) -> tuple[dict[str, float], dict[str, bytes]]:
    """Figures and files of a run to which harm is done when it has its second checkpoint."""
    # Nodes can be added from the main thread alone, so it is the training that takes another.
    training = ThreadPoolExecutor(1).submit(run, RunSpec(out.parent / "latents", out, PARAMS, {}))
    while len(list(out.glob("step_*"))) < 2:
        assert not training.done(), training.result()
        time.sleep(0.02)
    newest = checkpoint.latest(out)
    harm()
    figures = training.result()
    assert newest is not None
    assert int(newest.name.removeprefix("step_")) < STEPS
    return figures, files_of(out)


@pytest.mark.slow
def test_killed_worker_is_started_again_and_the_run_ends_with_the_same_bits(folder, cluster, expected):
    """On two nodes: also the law that they make what two processes on one machine make."""
    assert train_and_harm(folder / "killed", lambda: workers_of_ray()[0].kill()) == expected
    assert not list((folder / ".local/ray").glob("refusals-*"))


@pytest.mark.slow
def test_run_waits_for_a_node_in_place_of_one_that_died_and_ends_with_the_same_bits(
    folder, cluster, expected
):
    def replace() -> None:
        cluster.remove_node(cluster.second, allow_graceful=False)
        cluster.second = cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)

    assert train_and_harm(folder / "removed", replace) == expected


@pytest.mark.slow
def test_refusal_of_the_workers_is_one_line_and_is_not_tried_again(folder, cluster, expected):
    latents = write_cache(folder / "spoilt")
    spoil(latents, 3)
    write_shards(latents, list(read_rows(latents)), 100, expected_metadata(PARAMS))
    seen: set[int] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            seen.update(process.pid for process in workers_of_ray())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with pytest.raises(
            CheckpointError, match=r"^training: step \d+ \(clips .*clip003.*\): got loss nan"
        ) as error:
            run(RunSpec(latents, folder / "refused", PARAMS, {}))
    finally:
        over.set()
        watcher.join()
    assert "\n" not in str(error.value)
    assert len(seen) == 2


def test_refusal_that_others_do_not_share_is_found_at_the_next_start(tmp_path):
    """Worker 0 waits for worker 1, which refuses: both fail, as Ray must see, and then both know why."""

    def start(worker: Worker) -> object:
        def act() -> None:
            dist.barrier()  # both are at work: a late one would find the note of the other at its start
            if worker.rank == 1:
                raise DataError("clips: got none, expected some; add one")
            dist.barrier()

        return refusal_of(act, tmp_path, worker)

    waiting, refusing = on_two_workers(start)
    assert isinstance(waiting, RuntimeError)
    assert isinstance(refusing, DataError)
    again = on_two_workers(start)
    assert [(type(error), str(error)) for error in again] == [(DataError, str(refusing))] * 2


def test_refusal_of_all_workers_is_their_result_though_one_is_late(tmp_path):
    def start(worker: Worker) -> object:
        def act() -> None:
            raise CheckpointError("training: no; do something")

        time.sleep(worker.rank)
        refusal = refusal_of(act, tmp_path, worker)
        return type(refusal), str(refusal)

    assert on_two_workers(start) == [(CheckpointError, "training: no; do something")] * 2
