"""Encode captions in batches of about one length: in this process, or by actors of Ray where that saves time.

Both make the same batches in the same way. A batch follows from all captions of a cache, not from those that
it lacks: so a run that was killed ends in the bytes of an unbroken one, for any number of workers.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from videomar.compute.cluster import actor_device, ray_cluster
from videomar.compute.device import choose_device, device_kind
from videomar.config import TextParams
from videomar.encoders.text import NoText, TransformersText, load_text_encoder
from videomar.errors import DataError, ParamsError, VideomarError
from videomar.latents.clip_encoder import Encoded, stored_bytes
from videomar.latents.readable_captions import read_captions

_WHERE = "resources.text.device"
_BATCH = 32
# Captions whose lengths differ by less may share a batch: padding costs little, short ones keep their order.
_LENGTH_STEP = 32
# Bytes of weights times tokens that one thread works off in a second: MiniLM reaches 3.6e11 (measured), Qwen2
# of 1.5 billion in bfloat16 about 1.1e11 (from earlier figures). A GPU is assumed to be fifty times as fast.
_BYTES_TOKENS_PER_S = 2e11
_GPU_SPEED = 50
# Seconds that actors must save: Ray and an encoder take about 15 to be ready, and MiniLM is faster than this.
_START_S = 30.0
_MAX_RESTARTS = 4
_CPUS = 0.5  # as for actors that encode clips
# Batches of an actor that are under way, so that it never waits for the driver.
_AHEAD = 2


class CaptionEncoder:
    """Encodes batches of captions to the bytes that are stored. Remembers the encoder."""

    def __init__(self, params: TextParams, dtype: str, device: str) -> None:
        torch.set_num_threads(1)
        self._dtype = dtype
        self._device = choose_device(device, _WHERE)
        self._encoder = load_text_encoder(params, self._device)

    def encode(self, keys: Sequence[str], captions: Sequence[str]) -> list[Encoded]:
        """Arrays (M, E) of captions under their keys; in halves where a GPU has no room for all at once.

        Raises:
            DataError: a GPU has no room for a single caption.
        """
        kind, half = device_kind(self._device), len(captions) // 2
        try:
            states = self._encoder.encode_silently(captions)
        except torch.OutOfMemoryError:
            if not half:
                rule = "room for the encoder and a caption; set it to cpu, or lower text.max_tokens"
                raise DataError(f"{_WHERE}: got a GPU whose memory is full, expected {rule}") from None
            return self.encode(keys[:half], captions[:half]) + self.encode(keys[half:], captions[half:])
        return [
            Encoded(key, list(of_caption.shape), stored_bytes(of_caption, self._dtype), made_on=kind)
            for key, of_caption in zip(keys, states, strict=True)
        ]


class CaptionActor:
    """A `CaptionEncoder` as an actor of Ray; an error that the user can fix is a text, not an exception."""

    def __init__(self, *settings: Any) -> None:
        self._settings = settings
        self._encoder: CaptionEncoder | None = None

    def encode(self, keys: Sequence[str], captions: Sequence[str]) -> list[Encoded] | str:
        """As `CaptionEncoder.encode`."""
        try:
            self._encoder = self._encoder or CaptionEncoder(*self._settings)
            return self._encoder.encode(keys, captions)
        except VideomarError as error:
            return str(error)


class _Batch(NamedTuple):
    keys: list[str]
    captions: list[str]


def encode_captions(
    keys: dict[str, str],
    is_known: Callable[[str], bool],
    counter: TransformersText | NoText,
    params: TextParams,
    dtype: str,
) -> Iterator[list[Encoded]]:
    """Encode the captions whose keys are not known; batches as they come.

    Args:
        keys: key of each caption of the cache.
        is_known: whether it has a key.
        counter: counts tokens; its weights are not read.
        params: section `text`.
        dtype: number format of the stored values.

    Raises:
        DataError: the encoder cannot be read, or a worker died again and again.
    """
    missing = [caption for caption, key in keys.items() if not is_known(key)]
    if not missing:
        return
    batches = [
        _Batch([keys[caption] for caption in captions], captions)
        for captions in batches_of(list(keys), counter, params.max_tokens)
        if not all(is_known(keys[caption]) for caption in captions)
    ]
    lengths = lengths_of([caption for batch in batches for caption in batch.captions], counter)
    work = counter.num_bytes * sum(min(length, params.max_tokens) for length in lengths)
    device = _device_here(params, work, len(batches))
    encoded = (
        _encode_here(batches, params, dtype, device) if device else _encode_on_ray(batches, params, dtype)
    )
    with tqdm(total=len(batches), desc="encoding captions", unit="batch", disable=None) as bar:
        for arrays in encoded:
            yield [array for array in arrays if not is_known(array.key)]
            bar.update()


def batches_of(captions: Sequence[str], counter: TransformersText | NoText, most: int) -> list[list[str]]:
    """Batches of captions of about one length; those of the same length step keep their order.

    Args:
        captions: different ones.
        counter: counts their tokens.
        most: tokens of the longest; within one step of lengths nothing is counted.
    """
    ordered = list(captions)
    if most > _LENGTH_STEP:
        lengths = [min(length, most) for length in lengths_of(ordered, counter)]
        order = sorted(range(len(ordered)), key=lambda number: -(-lengths[number] // _LENGTH_STEP))
        ordered = [ordered[number] for number in order]
    return [ordered[start : start + _BATCH] for start in range(0, len(ordered), _BATCH)]


def lengths_of(captions: Sequence[str], counter: TransformersText | NoText) -> list[int]:
    """Tokens of each caption, not cut."""
    return [reading.num_tokens for reading in read_captions(counter, captions)]


def pays_to_start_ray(work: float, workers: int, on_gpu: bool) -> bool:
    """Whether actors end sooner than this process, the time to start them included.

    Args:
        work: bytes of the encoder's weights times tokens.
        workers: number of actors.
        on_gpu: whether this process has a GPU.
    """
    seconds = work / (_BYTES_TOKENS_PER_S * (_GPU_SPEED if on_gpu else 1))
    return seconds * (1 - 1 / workers) > _START_S


def _device_here(params: TextParams, work: float, num_batches: int) -> str | None:
    """What this process computes on; None if actors are to work."""
    try:
        device = choose_device(params.device, _WHERE)
    except ParamsError:  # a cluster may have the GPU
        return None
    workers = min(params.num_workers, num_batches)
    return None if pays_to_start_ray(work, workers, device.type == "cuda") else device.type


def _encode_here(
    batches: Sequence[_Batch], params: TextParams, dtype: str, device: str
) -> Iterator[list[Encoded]]:
    encoder = CaptionEncoder(params, dtype, device)
    return (encoder.encode(*batch) for batch in batches)


def _encode_on_ray(batches: Sequence[_Batch], params: TextParams, dtype: str) -> Iterator[list[Encoded]]:
    """Encode on the cluster, `resources.text.num_workers` at once; batches in any order."""
    workers = min(params.num_workers, len(batches))
    folder = Path(params.encoder)
    if folder.is_dir():
        params = dataclasses.replace(params, encoder=str(folder.resolve()))
    with ray_cluster(workers):
        import ray

        device, num_gpus = actor_device(params.device, workers, _WHERE)
        options = {"num_cpus": _CPUS, "num_gpus": num_gpus}
        remote = ray.remote(CaptionActor).options(**options, max_restarts=_MAX_RESTARTS, max_task_retries=-1)
        actors = [remote.remote(params, dtype, device) for _ in range(workers)]
        waiting, running = iter(batches), dict[Any, Any]()

        def give(actor: Any) -> None:
            if (batch := next(waiting, None)) is not None:
                running[actor.encode.remote(*batch)] = actor

        for actor in actors * _AHEAD:
            give(actor)
        try:
            while running:
                [done], _ = ray.wait(list(running))
                give(running.pop(done))
                made = ray.get(done)
                if isinstance(made, str):
                    raise DataError(made)
                yield made
        except ray.exceptions.RayActorError:
            got = f"a worker that died {_MAX_RESTARTS + 1} times"
            rule = "it to live; most often memory ran out: lower resources.text.num_workers and run again"
            raise DataError(f"captions: got {got}, expected {rule}") from None
