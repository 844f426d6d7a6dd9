"""Captions: the same bytes wherever and in whatever number of tries they are encoded."""

import dataclasses
import os
import threading
from itertools import chain

import numpy as np
import psutil
import pytest
import torch

from tests.encoders.test_text import write_model
from tests.support.deadlines import within
from videomar.encoders.text import NoText, load_text_encoder
from videomar.errors import DataError
from videomar.latents import encode_captions as captions_module
from videomar.latents.encode_captions import (
    CaptionActor,
    CaptionEncoder,
    batches_of,
    encode_captions,
    pays_to_start_ray,
)

WORDS = ("red", "blue", "ball", "boxes", "rolls", "fall")
CAPTIONS = [" ".join(WORDS[(7 * n + k) % 6] for k in range(1 + (5 * n) % 12)) + f" {n}" for n in range(150)]
KEYS = {caption: f"key of {caption}" for caption in ["", *CAPTIONS]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("qwen2"), "qwen2")


@pytest.fixture
def text(params, folder):
    return dataclasses.replace(params.text, encoder=str(folder), max_tokens=64, num_workers=2, device="cpu")


@pytest.fixture(autouse=True)
def deadline():
    with within(120):
        yield


def encoded(text, known=()):
    counter = load_text_encoder(text, with_weights=False)
    found = chain.from_iterable(encode_captions(KEYS, known.__contains__, counter, text, "float16"))
    return {array.key: array for array in found}


@pytest.fixture
def ray_pays(monkeypatch):
    monkeypatch.setattr(captions_module, "pays_to_start_ray", lambda *_: True)


def test_every_caption_has_the_states_of_its_encoder(text):
    made = encoded(text)
    assert set(made) == set(KEYS.values())
    encoder = load_text_encoder(text)
    for caption in ("", CAPTIONS[0], CAPTIONS[70]):
        [states] = encoder.encode([caption])
        array = made[KEYS[caption]]
        assert tuple(array.shape) == states.shape
        stored = np.frombuffer(array.data, "float16").reshape(states.shape)
        assert np.allclose(stored, states.numpy(), atol=2e-3)  # of another batch, and rounded
        assert array.made_on == "cpu"


def test_run_that_was_killed_anywhere_continues_to_the_same_bytes(text):
    whole = encoded(text)
    for finished in (1, 40, 133):
        known = {key: whole[key] for key in list(whole)[:finished]}
        rest = encoded(text, known)
        assert set(rest) == set(whole) - set(known)
        assert {**known, **rest} == whole


def test_nothing_is_read_where_nothing_is_missing(text, monkeypatch):
    monkeypatch.setattr(captions_module, "CaptionEncoder", None)
    assert encoded(text, set(KEYS.values())) == {}


def test_batches_have_about_one_length_and_short_captions_keep_their_order(text):
    counter = load_text_encoder(text, with_weights=False)
    long = [f"{caption} {caption} {caption}" for caption in CAPTIONS]
    mixed = [caption for pair in zip(long, CAPTIONS, strict=True) for caption in pair]
    batches = batches_of(mixed, counter, 64)
    assert sorted(chain.from_iterable(batches)) == sorted(mixed)
    assert all(len(batch) <= 32 for batch in batches)
    lengths = [counter.num_tokens(batch) for batch in batches]
    padded = sum(len(counts) * max(counts) for counts in lengths)
    assert padded < 1.5 * sum(map(sum, lengths))
    short = [caption for caption in CAPTIONS if counter.num_tokens([caption]) <= [32]]
    ordered = list(chain.from_iterable(batches_of(CAPTIONS, counter, 64)))
    assert ordered[: len(short)] == short
    assert list(chain.from_iterable(batches_of(mixed, NoText(), 32))) == mixed


def test_actors_pay_for_a_language_model_and_not_for_minilm():
    minilm, qwen2 = 91e6, 3.1e9
    assert not pays_to_start_ray(minilm * 300 * 24, 8, on_gpu=False)
    assert pays_to_start_ray(minilm * 100_000 * 24, 8, on_gpu=False)
    assert pays_to_start_ray(qwen2 * 100 * 300, 2, on_gpu=False)
    assert not pays_to_start_ray(qwen2 * 100 * 300, 1, on_gpu=False)
    assert not pays_to_start_ray(qwen2 * 100 * 300, 2, on_gpu=True)


def test_damaged_encoder_is_a_text_of_the_actor(text, folder, tmp_path):
    actor = CaptionActor(dataclasses.replace(text, encoder=str(tmp_path)), "float16", "cpu")
    assert str(actor.encode(["key"], ["a ball"])).startswith(f"text.encoder: {tmp_path} lacks")
    assert "resources.text.device: got cuda" in str(
        CaptionActor(text, "float16", "cuda").encode(["key"], ["a"])
    )
    good = CaptionActor(text, "float16", "cpu")
    assert good.encode(["key"], ["a ball"]) == CaptionEncoder(text, "float16", "cpu").encode(
        ["key"], ["a ball"]
    )


def test_batch_without_room_on_the_gpu_is_halved(text, monkeypatch):
    encoder = CaptionEncoder(text, "float16", "cpu")
    compute, room = encoder._encoder.encode_silently, [5]

    def encode(captions):
        if len(captions) > room[0]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return compute(captions)

    monkeypatch.setattr(encoder._encoder, "encode_silently", encode)
    keys = [KEYS[caption] for caption in CAPTIONS[:32]]
    assert [array.key for array in encoder.encode(keys, CAPTIONS[:32])] == keys
    room[0] = 0
    with pytest.raises(DataError, match=r"^resources\.text\.device: got a GPU whose memory is full"):
        encoder.encode(keys, CAPTIONS[:32])


def test_gpu_that_only_a_cluster_may_have_is_left_to_actors(text, monkeypatch):
    asked = []
    monkeypatch.setattr(
        captions_module, "_encode_on_ray", lambda batches, *_: asked.append(len(batches)) or []
    )
    encoded(dataclasses.replace(text, device="cuda"))
    assert asked == [-(-len(KEYS) // 32)]


@pytest.mark.slow
def test_actors_make_the_same_bytes_also_where_one_is_killed(text, ray_pays, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with monkeypatch.context() as patch:
        patch.setattr(captions_module, "pays_to_start_ray", lambda *_: False)
        here = encoded(text)
    assert encoded(text) == here
    counter = load_text_encoder(text, with_weights=False)
    batches = encode_captions(KEYS, set().__contains__, counter, text, "float16")
    first = next(batches)
    assert kill_actors()
    assert {array.key: array for array in chain(first, *batches)} == here


@pytest.mark.slow
def test_actor_that_dies_again_and_again_is_one_clear_error(text, ray_pays, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    over = threading.Event()

    def kill():
        while not over.wait(0.05):
            kill_actors()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with pytest.raises(
            DataError, match=r"^captions: got a worker that died 5 times.*lower resources\.text"
        ):
            encoded(text)
    finally:
        over.set()
        killer.join()


def kill_actors() -> int:
    """SIGKILL the actors of this process's cluster; how many they were."""
    killed = 0
    for process in psutil.Process(os.getpid()).children(recursive=True):
        try:
            if "CaptionActor" in " ".join(process.cmdline()):
                process.kill()
                killed += 1
        except psutil.Error:
            continue
    return killed
