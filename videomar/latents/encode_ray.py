"""Encode clips on Ray Data: each actor has one tokenizer, decodes, and sends back only latents."""

import json
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from videomar.compute.cluster import actor_device, ray_cluster
from videomar.config import Params
from videomar.errors import DataError
from videomar.latents.clip_encoder import ClipEncoder, Encoded, Video
from videomar.media.shapes import ClipShape, View

# Clips of one video in a part. An actor keeps their latents until the video is read to its end: so not many.
# Each part costs a pass over the video: so a video is split only where other workers would be idle.
_MIN_PART, _MAX_PART = 64, 1024
# Approximate clips in a task: those are encoded again when a worker dies, and lost when the run is killed.
_TASK_CLIPS = 64
# Clips in one call of an actor on a GPU: several batches, so that reading and encoding overlap.
_GROUP_CLIPS = 128
_BLOCK_BYTES = 4 * 2**20
# How often an actor that died is started again. Tries of its tasks are not counted: Ray makes many before it
# knows that a node is gone.
_MAX_RESTARTS = 4
# Half a CPU: when half the nodes are gone, the others still have room for every actor, for which Ray Data
# would otherwise wait without end. An actor has one thread in any case.
_CPUS = 0.5


class EncoderActor(ClipEncoder):
    """A `ClipEncoder` as an actor of Ray Data."""

    def __call__(self, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield a row per array of some `Video`s; an error that the user can fix is a row, too."""
        shape = ClipShape(**row["shape"])
        columns = (row[name] for name in ("paths", "starts_s", "keys", "views"))
        videos = [
            Video(path, np.asarray(starts_s).tolist(), list(keys), shape, _views_of(views))
            for path, starts_s, keys, views in zip(*columns, strict=True)
        ]
        for found in self.encode_all(videos):
            if isinstance(found, Encoded):
                yield {**found._asdict(), "error": ""}
            else:
                yield {**Encoded("", [], b"")._asdict(), "error": str(found)}


def encode_on_ray(videos: Sequence[Video], tokenizer: Path, params: Params) -> Iterator[list[Encoded]]:
    """Encode videos on the cluster, `resources.encode.num_workers` at once; blocks of arrays as they come.

    Raises:
        DataError: a video or the tokenizer cannot be read (raised when the others are done), or a worker died
            again and again.
    """
    workers, errors = params.encode.num_workers, list[str]()
    parts = split_videos(videos, workers)
    workers = min(workers, len(parts))
    with ray_cluster(workers):
        import ray.data  # half a second that a run without work saves

        _set_up_ray_data()
        device, num_gpus = actor_device(params.encode.device, workers, "resources.encode.device")
        num_clips, shares = sum(len(part.keys) for part in parts), 4 * workers
        tasks = max(shares, num_clips // _TASK_CLIPS)
        together = min(_GROUP_CLIPS, num_clips // shares) if num_gpus else 1
        rows = [as_item(group) for group in group_videos(parts, together)]
        dataset = ray.data.from_items(rows, override_num_blocks=min(len(rows), tasks))
        settings = (str(tokenizer.resolve()), params.encode.dtype, params.encode.moments)
        with warnings.catch_warnings():
            # Ray Data deprecates arguments under other names than its own, and has none for restarts yet.
            warnings.simplefilter("ignore", DeprecationWarning)
            arrays: Any = dataset.flat_map(
                EncoderActor,
                fn_constructor_args=(*settings, device, params.encode.batch_clips, workers),
                compute=ray.data.ActorPoolStrategy(size=workers),
                num_cpus=_CPUS,
                num_gpus=num_gpus,
                max_restarts=_MAX_RESTARTS,
                max_task_retries=-1,
            )
        try:
            for block in arrays.iter_batches(batch_size=None, batch_format="pyarrow"):
                made = block.to_pylist()
                errors += [row["error"] for row in made if row["error"]]
                yield [Encoded(*(row[name] for name in Encoded._fields)) for row in made if not row["error"]]
        except ray.exceptions.RayActorError:
            got = f"a worker that died {_MAX_RESTARTS + 1} times"
            rule = "it to live; most often memory ran out: lower resources.encode.num_workers and run again"
            raise DataError(f"encode: got {got}, expected {rule}") from None
    if errors:
        raise DataError(errors[0] + (f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""))


def split_videos(videos: Sequence[Video], workers: int) -> list[Video]:
    """Split long videos into parts so that every worker has its share; long parts come first."""
    share = math.ceil(sum(len(video.keys) for video in videos) / workers)
    most = min(max(share, _MIN_PART), _MAX_PART)
    parts = []
    for video in videos:
        size = math.ceil(len(video.keys) / math.ceil(len(video.keys) / most))
        for first in range(0, len(video.keys), size):
            span = slice(first, first + size)
            cut = {name: getattr(video, name)[span] for name in ("starts_s", "keys", "views")}
            parts.append(video._replace(**cut))
    return sorted(parts, key=lambda part: -len(part.keys))


def group_videos(videos: Sequence[Video], num_clips: int) -> list[list[Video]]:
    """Put short videos of one shape together until they have `num_clips` clips, in the order of the first."""
    groups: list[list[Video]] = []
    open_groups: dict[ClipShape, list[Video]] = {}
    for video in videos:
        group = open_groups.get(video.shape)
        if group is None:
            group = open_groups[video.shape] = []
            groups.append(group)
        group.append(video)
        if sum(len(member.keys) for member in group) >= num_clips:
            del open_groups[video.shape]
    return groups


def as_item(videos: Sequence[Video]) -> dict[str, Any]:
    """Videos of one shape as an item of Ray Data."""
    return {
        "paths": [video.path for video in videos],
        "starts_s": [video.starts_s for video in videos],
        "keys": [video.keys for video in videos],
        "shape": asdict(videos[0].shape),
        # As text: lists of lists of lists that are empty in some rows have no one type.
        "views": [json.dumps([asdict(view) for view in video.views]) for video in videos],
    }


def _views_of(text: str) -> tuple[View, ...]:
    return tuple(View(**view) for view in json.loads(text))


def _set_up_ray_data() -> None:
    """Set small blocks, no progress bars, and no time limit, because a tokenizer may be slow."""
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = _BLOCK_BYTES
    context.execution_no_progress_timeout_s = -1
