import dataclasses
import json

import numpy as np
import pytest
import yaml

from benchmarks import training
from benchmarks.record import ROOT
from tests.support.imports import loaded_by


@pytest.mark.parametrize("name", sorted(training.PRESETS))
def test_presets_are_those_of_the_files(name):
    written = yaml.safe_load((ROOT / "presets" / f"{name}.yaml").read_text())
    preset = training.PRESETS[name]
    shape = dataclasses.asdict(preset.model)
    assert {
        key: list(value) if isinstance(value, tuple) else value for key, value in shape.items()
    } == written["model"]
    assert preset.objective == written["train"]["objective"]
    assert preset.size_px == written["ingest"]["size_px"]
    assert preset.space_stride == written["tokenizer"]["space_stride"]
    frames = 1 + (written["ingest"]["num_frames"] - 1) // written["tokenizer"]["time_stride"]
    assert (preset.latent_frames, preset.caption[0]) == (frames, written["text"]["max_tokens"])


def test_both_parts_run_and_their_figures_agree(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training, "POINTS", 2)
    monkeypatch.setattr(training, "VAL_CLIPS", 4)
    options = "--preset small --depth 1 --seconds 0.2 --batches 2 --rates 1e-3"
    training.main([*options.split(), "--out", str(tmp_path)])
    result = json.loads((tmp_path / "training.json").read_text())
    assert json.loads(capsys.readouterr().out) == result
    figures, ratios = result["figures"], result["ratios"]
    assert figures["depth"] == 1
    share = figures["step_tflop_per_s"] / figures["matmul_tflop_per_s"]
    assert 0 < share < 1.2
    assert ratios["matmul_share"] == pytest.approx(share)
    assert 0 < ratios["data_wait_share"] < 1
    paper, ours = figures["single_frame_s"], figures["all_frames_s"]
    assert ratios["time_to_loss_vs_paper"] == pytest.approx(paper / ours)
    assert figures["target_loss"] >= max(
        figures["single_frame_lowest_loss"], figures["all_frames_lowest_loss"]
    )


def test_time_to_a_loss_is_the_first_point_below_it():
    curve = [(1.0, 3.0), (2.0, 1.5), (3.0, 1.8)]
    assert [training.time_to(curve, target) for target in (2.0, 1.5, 1.0)] == [2.0, 2.0, float("inf")]


def test_simulated_clips_follow_from_two_of_their_frames():
    """A wave of known speed: frame t is a linear mixture of the two before it, by channel and clip."""
    clips = training.moving_waves(3, 0).astype(float)
    assert clips.shape == (3, 16, training.FRAMES, 4, 4)
    assert clips.std() == pytest.approx(1, abs=0.1)
    for clip in clips.reshape(-1, training.FRAMES, 16):
        twice_cosine = (clip[1] * (clip[0] + clip[2])).sum() / (clip[1] ** 2).sum()
        assert np.abs(clip[2:] + clip[:-2] - twice_cosine * clip[1:-1]).max() < 0.05


def test_benchmark_needs_only_the_bare_libraries():
    heavy = ("ray", "mlflow", "prefect", "dvc", "pydantic", "yaml", "cv2", "pandas", "psutil")
    assert loaded_by("import benchmarks.training", *heavy) == []
