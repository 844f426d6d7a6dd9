"""Two workers of the plain loop, without Ray: forks of this process that talk by gloo."""

import multiprocessing
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
import torch._dynamo  # noqa: F401
import torch.distributed as dist
import torch.distributed.fsdp  # all that a first step imports: once here, not in every fork  # noqa: F401

from videomar.training.worker import Worker

DEADLINE_S = 120


def on_two_workers(work: Callable[[Worker], object]) -> list[object]:
    """What `work` returns, or raises, at each of two workers."""
    context = multiprocessing.get_context("fork")
    found = context.SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:

        def live(rank: int) -> None:
            torch.set_num_threads(1)
            dist.init_process_group("gloo", f"file://{Path(folder) / 'meeting'}", rank=rank, world_size=2)
            try:
                found.put((rank, work(Worker(rank, 2))))
            except Exception as error:
                traceback.print_exc()
                found.put((rank, error))

        processes = [context.Process(target=live, args=(rank,)) for rank in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(DEADLINE_S)
            hangs = process.is_alive()
            process.kill()
            assert not hangs
    return [value for _, value in sorted((found.get() for _ in processes), key=lambda pair: pair[0])]
