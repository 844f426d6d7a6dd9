"""What the report says in numbers: differences by clip, scales on which right is better, tables."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from videomar.evaluation.metrics.catalogue import metric
from videomar.report.compare import compare_with_baselines, compare_with_champion, metric_panels
from videomar.report.score_table import long_table, number, of_same_truth
from videomar.report.tables import (
    evaluation_phases,
    fingerprint_lines,
    gate_intervals,
    headlines,
    judged_clips,
    set_metrics,
    skipped_lines,
)

KINDS = {"continuation": 20.0, "continuation_untrained": 10.0, "tokenizer": 30.0}
COLUMNS = {"psnr": 0.0, "ssim": 0.5, "flicker": 2.0, "motion_retained": 0.8, "motion_amount": 3.0}


def scores(kinds: dict[str, float] = KINDS, clips: int = 8, **values: float) -> pd.DataFrame:
    """Rows of evaluation.parquet with PSNR that rises by clip; other metrics as given, equal for all."""
    rows = [
        {
            "clip_id": f"c{clip}",
            "group": "simulated",
            "kind": kind,
            "psnr_db": quality + clip,
            "repeat_psnr_db": 15.0 + clip,
            "gain_db": quality - 15.0,
            **{**COLUMNS, **values},
        }
        for kind, quality in kinds.items()
        for clip in range(clips)
    ]
    return pd.DataFrame(rows)


def against(ours: pd.DataFrame, theirs: pd.DataFrame) -> list[dict[str, Any]]:
    """Differences by task of two models, from their rows of evaluation.parquet."""
    return compare_with_champion(long_table(ours), long_table(of_same_truth(theirs, ours)))


def only(comparisons: list[dict[str, Any]], name: str) -> dict[str, Any]:
    (comparison,) = comparisons
    return next(row for row in comparison["rows"] if row["metric"].name == name)


@pytest.mark.parametrize(
    ("name", "mine", "theirs", "verdict"),
    [
        ("ssim", 0.7, 0.5, "better"),
        ("ssim", 0.5, 0.7, "worse"),
        ("flicker", 1.0, 2.0, "better"),
        ("flicker", 2.0, 1.0, "worse"),
        ("motion_retained", 1.1, 0.5, "better"),
        ("motion_retained", 2.0, 0.9, "worse"),
        ("motion_amount", 9.0, 1.0, "open"),
        ("ssim", 0.5, 0.5, "open"),
    ],
)
def test_difference_knows_which_side_is_better(name: str, mine: float, theirs: float, verdict: str) -> None:
    found = against(scores(**{name: mine}), scores(**{name: theirs}))
    row = only(found, metric(name).name)
    assert row["verdict"] == verdict
    assert row["n"] == 8
    right = all(dot > 50 for dot in row["dots"])
    assert right == (verdict == "better" or name == "motion_amount")
    assert row["wins"] == (8 if verdict == "better" else 0)


def test_difference_shows_each_clip_and_an_interval_that_holds_the_mean() -> None:
    theirs = scores()
    theirs["psnr_db"] -= np.tile([-1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0], len(KINDS))
    row = only(against(scores(), theirs), "PSNR")
    assert row["value"] == "+2.50"
    assert row["wins"] == 6
    assert len(row["dots"]) == 8
    assert max(row["dots"]) == pytest.approx(97)
    assert min(row["dots"]) < 50 < row["left"] < 50 + 47 * 2.5 / 6 < row["left"] + row["width"]


def test_difference_leaves_out_clips_of_another_truth() -> None:
    theirs = scores()
    theirs.loc[theirs["clip_id"] == "c3", "repeat_psnr_db"] += 0.5
    assert only(against(scores(), theirs), "PSNR")["n"] == 7
    assert against(scores(), theirs.assign(repeat_psnr_db=0.0)) == []


def test_first_model_meets_the_baselines_but_not_its_ceiling() -> None:
    (comparison,) = compare_with_baselines(long_table(scores()))
    psnr = {row["rival"]: row["value"] for row in comparison["rows"] if row["metric"].key == "psnr"}
    assert psnr == {"untrained": "+10.00", "repeat last": "+5.00"}


def test_panel_puts_the_better_to_the_right() -> None:
    rows = scores()
    rows.loc[rows["kind"] == "tokenizer", "flicker"] = 1.0
    rows.loc[rows["kind"] == "continuation_untrained", "flicker"] = 3.0
    (panel,) = metric_panels(long_table(rows))
    for name in ("PSNR", "Flicker"):
        (row,) = (row for row in panel["rows"] if row["metric"].name == name)
        place = {mark["look"]: mark["place"] for mark in row["marks"]}
        assert place["untrained"] < place["model"] < place["tokenizer"]
        assert row["marks"][-1]["look"] == "model"  # drawn over the others


def test_panel_has_no_text_where_a_kind_has_no_value() -> None:
    rows = scores()
    rows.loc[rows["kind"] == "tokenizer", "ssim"] = float("nan")
    (panel,) = metric_panels(long_table(rows))
    (row,) = (row for row in panel["rows"] if row["metric"].key == "ssim")
    assert "tokenizer" in panel["looks"]
    assert "tokenizer" not in row["texts"]
    assert row["texts"]["model"] == "0.500"


def test_panel_leaves_out_what_the_model_was_not_judged_by() -> None:
    (panel,) = metric_panels(long_table(scores(ssim=float("nan"))))
    assert "SSIM" not in [row["metric"].name for row in panel["rows"]]


@pytest.mark.parametrize(
    ("value", "text"), [(0.1234, "0.123"), (-3.694, "−3.69"), (0.9999, "1.00"), (1459.54, "1459.5")]
)
def test_number_has_digits_by_its_size(value: float, text: str) -> None:
    assert number(value) == text


def test_numbers_beside_each_other_have_as_many_digits() -> None:
    assert number(0.6, signed=True, beside=(1.12,)) == "+0.60"


def test_gate_figures_of_two_units_have_two_scales() -> None:
    figure = {"name": "a", "value": 5.0, "low": 4.0, "high": 6.0, "n": 9}
    small = {**figure, "name": "b", "value": 0.05, "low": 0.04, "high": 0.06, "unit": ""}
    decibels, plain = gate_intervals({"figures": [figure, small]})
    assert decibels["dot"] == pytest.approx(plain["dot"])
    assert (decibels["unit"], plain["unit"]) == ("dB", "")


def test_gate_figures_against_the_champion_have_a_scale_of_their_own_and_show_their_margin() -> None:
    figure = {"name": "over the model untrained", "value": 14.0, "low": 13.0, "high": 15.0, "n": 9}
    close = {"name": "real over the champion", "value": 0.1, "low": -0.1, "high": 0.3, "n": 9, "limit": -0.5}
    far, near = gate_intervals({"figures": [figure, close]})
    assert near["width"] > far["width"]
    assert near["limit"] < near["left"] < near["zero"] < near["dot"]
    assert far["limit"] == far["zero"]


def test_headlines_are_of_simulated_clips_with_the_real_ones_beside() -> None:
    figures = {"sim_clips": 4, "real_clips": 3, "sim_psnr_gain_db": 7.656, "real_psnr_gain_db": -3.694}
    (tile,) = headlines(figures)
    assert (tile["value"], tile["beside"]) == ("+7.66", "real −3.69")
    (alone,) = headlines({"real_clips": 3, "real_psnr_gain_db": -3.694})
    assert (alone["value"], alone["beside"]) == ("−3.69", "")


def test_figures_say_of_how_many_clips_and_shots_they_are() -> None:
    metrics = {"sim_clips": 8, "sim_shots": 8, "sim_psnr_gain_db": 2.0, "real_clips": 17, "real_shots": 5}
    metrics |= {"real_psnr_gain_db": -4.4, "real_psnr_gain_db_low": -6.0, "real_psnr_gain_db_high": -3.0}
    assert judged_clips(metrics) == " Judged: 8 clips, simulated; 17 clips of 5 shots, real."
    assert judged_clips({"sim_clips": 8}) == ""
    assert headlines(metrics)[0]["beside"] == "real −4.40 (−6.00 to −3.00)"
    real = {key: value for key, value in metrics.items() if key.startswith("real")}
    assert headlines(real)[0]["beside"] == "(−6.00 to −3.00)"
    figure = {"name": "a", "value": 1.0, "low": 0.5, "high": 2.0, "n": 17}
    counts = [gate_intervals({"figures": [figure | shots]})[0]["count"] for shots in ({"shots": 5}, {})]
    assert counts == ["17 clips of 5 shots", "17 clips"]


def test_difference_on_clips_of_few_shots_is_less_sure() -> None:
    ours = scores(ssim=0.5)
    ours.loc[ours["kind"] == "continuation", "ssim"] += np.tile([0.1, 0.1, 0.1, 0.1, -0.02, 0.1, 0.1, 0.1], 1)
    by_clip = only(against(ours, scores(ssim=0.5)), "SSIM")
    shot = ours["clip_id"].map(dict(zip([f"c{n}" for n in range(8)], "aaaabccc", strict=True)))
    by_shot = only(against(ours.assign(shot=shot), scores(ssim=0.5)), "SSIM")
    assert (by_clip["verdict"], by_shot["verdict"]) == ("better", "open")
    assert (by_shot["n"], by_shot["shots"]) == (8, 3)
    assert by_shot["width"] > by_clip["width"]


def test_set_metrics_say_when_they_are_of_too_few_clips() -> None:
    score = {"value": 3.2, "low": 2.5, "high": 4.0, "n_real": 9, "n_generated": 8, "extractor": "x"}
    details = {"frechet": {"sim_frechet": {**score, "too_few_to_rank": True}}}
    frechet, diversity = set_metrics({"sim_frechet": 3.2, "real_diversity": 0.25}, details)
    assert (frechet["clips"], frechet["too_few"]) == ("Simulated, continued", True)
    assert "8 clips" in frechet["notes"]
    assert "2.50 to 4.00" in frechet["notes"]
    assert (diversity["clips"], diversity["value"], diversity["too_few"]) == ("Real", "0.250", False)


def test_details_are_shown_with_or_without_the_file() -> None:
    assert (evaluation_phases({}), skipped_lines({}), fingerprint_lines({})) == ([], [], [])
    phases = evaluation_phases({"seconds": {"sampling": 8.0, "metrics": 1.0, "io": 1.0}})
    assert [phase["share"] for phase in phases] == [80.0, 10.0, 10.0]
    assert skipped_lines({"skipped": {"ssim": "ssim: too small"}}) == [("ssim", "too small")]
    lines = fingerprint_lines(
        {"fingerprint": {"code": "a" * 64, "libraries": {"torch": "2"}, "seeds": [0, 1]}}
    )
    assert lines == [("code", "aaaaaaaaaaaa…"), ("libraries.torch", "2"), ("seeds", "0 1")]
