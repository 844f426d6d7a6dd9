import dataclasses
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from videomar.config import GateParams
from videomar.evaluation import gate
from videomar.evaluation.bootstrap import ends_of, interval
from videomar.evaluation.fingerprint import Fingerprint, environment
from videomar.evaluation.gate import Decision, Evidence
from videomar.evaluation.metrics.catalogue import METRICS, Metric

PARAMS = GateParams(min_clips=8, confidence=0.95, margin_db=0.5, margins={"ssim": 0.03}, seed=0)
FINGERPRINT = Fingerprint(
    weights={},
    clips="c" * 64,
    split="test",
    num_clips=24,
    num_frames=17,
    context_frames=(1, 5),
    size_px=(32, 32),
    fps=8.0,
    seeds=(0, 1, 2),
    **environment("cpu"),
)


def decide_promotion(candidate: pd.DataFrame, champion: pd.DataFrame | None, params: GateParams) -> Decision:
    """Both judged in one environment."""
    other = Evidence(champion, FINGERPRINT) if champion is not None else None
    return gate.decide_promotion(Evidence(candidate, FINGERPRINT), other, params)


def evaluation(
    gain_db: float = 6.0,
    spread_db: float = 1.0,
    clips: int = 24,
    group: str = "simulated",
    image_gain_db: float = 5.0,
    seed: int = 0,
) -> pd.DataFrame:
    """Rows of one model; the difficulty of a clip is the same for every model."""
    rng, rows = np.random.default_rng(seed), []
    for index in range(clips):
        difficulty = np.random.default_rng(1000 + index).normal(0, 3)
        gains = {"continuation": gain_db, "continuation_untrained": -5.0, "image": image_gain_db}
        gains |= {"continuation_linear": -1.0}
        for kind, mean in gains.items():
            gain = mean + difficulty + rng.normal(0, spread_db)
            repeat = 18.0 + difficulty
            rows.append((f"{group}{index}", group, kind, repeat + gain, repeat, gain))
    columns = ["clip_id", "group", "kind", "psnr_db", "repeat_psnr_db", "gain_db"]
    # Each clip is a shot of its own.
    return pd.DataFrame(rows, columns=columns).assign(shot=lambda table: table["clip_id"])


def refusal(decision: Decision) -> str:
    assert not decision.promote
    return " ".join(decision.reasons)


def test_gate_passes_a_first_model_above_both_baselines() -> None:
    decision = decide_promotion(evaluation(), None, PARAMS)
    assert decision.promote
    assert [figure.n for figure in decision.figures] == [24, 24, 24]


def test_gate_refuses_a_first_model_no_better_than_repeating() -> None:
    assert "over repeat-last" in refusal(decide_promotion(evaluation(gain_db=0.0), None, PARAMS))


def test_gate_refuses_a_first_model_no_better_than_untrained() -> None:
    rows = evaluation()
    rows.loc[rows["kind"] == "continuation_untrained", "gain_db"] = 20.0
    assert "untrained model" in refusal(decide_promotion(rows, None, PARAMS))


def test_gate_refuses_a_first_model_no_better_than_a_straight_line() -> None:
    rows = evaluation()
    rows.loc[rows["kind"] == "continuation_linear", "gain_db"] = 20.0
    assert "a straight line" in refusal(decide_promotion(rows, None, PARAMS))


def test_gate_refuses_a_first_model_without_its_untrained_self() -> None:
    rows = evaluation()
    rows = rows[rows["kind"] != "continuation_untrained"]
    assert "Too few to rank" in refusal(decide_promotion(rows, None, PARAMS))


def test_gate_passes_a_better_and_refuses_a_worse_challenger() -> None:
    better, worse = evaluation(7.0, 0.5, seed=1), evaluation(6.0, 0.5, seed=2)
    assert decide_promotion(better, worse, PARAMS).promote
    assert "over the champion" in refusal(decide_promotion(worse, better, PARAMS))


def test_baseline_that_neither_beats_does_not_keep_the_champion_of_other_clips() -> None:
    better, worse = evaluation(-3.0, 0.5, seed=1), evaluation(-9.0, 0.5, seed=2)
    decision = decide_promotion(better, worse, PARAMS)
    assert decision.promote
    repeat, untrained, line, best, *_ = decision.reasons
    assert repeat.startswith("Neither is shown to be better: simulated continuation over repeat-last -3.")
    assert "; the champion: simulated continuation over repeat-last -8." in repeat
    assert untrained.startswith("Better: simulated continuation over the untrained model +1.")
    assert line.startswith("Neither is shown to be better")
    assert best.startswith("Better: simulated continuation over the champion +5.")
    assert "over the champion" in refusal(decide_promotion(worse, better, PARAMS))
    assert "over repeat-last" in refusal(decide_promotion(better, None, PARAMS))


def test_baseline_that_the_champion_beats_still_counts() -> None:
    champion = evaluation(2.0, 0.1, seed=1)
    candidate = evaluation(3.0, 0.1, seed=2)
    candidate.loc[candidate["kind"] == "continuation_linear", "gain_db"] = 20.0
    decision = decide_promotion(candidate, champion, PARAMS)
    assert "over a straight line" in refusal(decision)
    few = evaluation(-3.0, clips=5), evaluation(-9.0, clips=5)
    assert "Too few to rank" in refusal(decide_promotion(*few, PARAMS))


def test_gate_pairs_by_clip_so_that_difficulty_cancels() -> None:
    # A difference of 0.3 dB is far below the spread of 3 dB between clips, but sure on every single clip.
    champion = evaluation()
    candidate = champion.assign(gain_db=champion["gain_db"] + 0.3)
    assert decide_promotion(candidate, champion.sample(frac=1, random_state=0), PARAMS).promote


def test_gate_refuses_the_same_model_again() -> None:
    assert "No better: equal" in refusal(decide_promotion(evaluation(), evaluation(), PARAMS))


def test_gate_refuses_luck_on_one_clip() -> None:
    champion = evaluation(spread_db=0.0)
    candidate = champion.copy()
    candidate.loc[candidate.index[candidate["kind"] == "continuation"][0], "gain_db"] += 20.0
    assert "Not shown to be better" in refusal(decide_promotion(candidate, champion, PARAMS))


@pytest.mark.parametrize("clips", [0, 1, 7])
def test_gate_refuses_too_few_clips(clips: int) -> None:
    assert "Too few to rank" in refusal(decide_promotion(evaluation(clips=clips), None, PARAMS))


def test_gate_refuses_models_judged_on_other_clips() -> None:
    other = evaluation().assign(clip_id=lambda rows: "other" + rows["clip_id"])
    assert "0 common clips" in refusal(decide_promotion(evaluation(9.0), other, PARAMS))


def test_gate_refuses_models_judged_against_another_truth() -> None:
    other = evaluation().assign(repeat_psnr_db=lambda rows: rows["repeat_psnr_db"] + 0.1)
    assert "0 common clips" in refusal(decide_promotion(evaluation(9.0), other, PARAMS))


@pytest.mark.parametrize(("image_gain_db", "promoted"), [(5.0, True), (4.0, False)])
def test_gate_holds_the_secondary_figure_within_its_margin(image_gain_db: float, promoted: bool) -> None:
    candidate = evaluation(8.0, spread_db=0.1, image_gain_db=image_gain_db, seed=1)
    assert decide_promotion(candidate, evaluation(spread_db=0.1), PARAMS).promote is promoted


def test_gate_uses_real_clips_where_there_are_no_simulated_ones() -> None:
    decision = decide_promotion(evaluation(group="real"), None, PARAMS)
    assert decision.promote
    assert decision.figures[0].name.startswith("real")


def test_gate_holds_the_other_group_too() -> None:
    champion = pd.concat([evaluation(), evaluation(group="real")])
    candidate = pd.concat([evaluation(9.0), evaluation(2.0, group="real", seed=1)])
    assert "real continuation" in refusal(decide_promotion(candidate, champion, PARAMS))


def test_gate_mirrors_its_figures_when_the_sides_are_swapped() -> None:
    a, b = evaluation(6.2, seed=1), evaluation(6.0, seed=2)
    forth, back = (decide_promotion(*sides, PARAMS).figures[3] for sides in ((a, b), (b, a)))
    assert (forth.value, forth.low, forth.high) == pytest.approx((-back.value, -back.high, -back.low))


@pytest.mark.parametrize("seed", range(5))
def test_gate_never_prefers_both_sides(seed: int) -> None:
    a, b = evaluation(seed=seed), evaluation(seed=seed + 50)
    assert not (decide_promotion(a, b, PARAMS).promote and decide_promotion(b, a, PARAMS).promote)


def test_gate_gives_the_same_decision_again() -> None:
    sides = evaluation(7.0, seed=1), evaluation()
    assert decide_promotion(*sides, PARAMS) == decide_promotion(*sides, PARAMS)


def test_gate_imports_no_torch() -> None:
    code = "import sys, videomar.evaluation.gate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def seeded(gains_db: tuple[float, ...], noise_db: float = 0.3, seed: int = 0) -> pd.DataFrame:
    """Rows of a model with a mean gain for each seed."""
    rng, rows = np.random.default_rng(seed), evaluation(gains_db[0], noise_db, seed=seed)
    made = [rows]
    for number, gain in enumerate(gains_db[1:], 1):
        of_seed = rows[rows["kind"] == "continuation"].copy()
        of_seed["gain_db"] += gain - gains_db[0] + rng.normal(0, noise_db, len(of_seed))
        made.append(of_seed.assign(kind=f"continuation_seed{number}"))
    return pd.concat(made, ignore_index=True)


def test_gate_refuses_a_lucky_model_that_is_better_on_one_seed_only() -> None:
    champion, lucky = seeded((6.0, 6.0, 6.0)), seeded((9.0, 5.9, 5.9), seed=1)
    # Its mean over clips and seeds is clearly better, and so is its first seed alone.
    assert lucky["gain_db"].mean() > champion["gain_db"].mean() + 0.3
    alone = (rows[~rows["kind"].str.contains("_seed")] for rows in (lucky, champion))
    assert decide_promotion(*alone, PARAMS).promote
    reasons = refusal(decide_promotion(lucky, champion, PARAMS))
    assert "not better from every seed" in reasons
    assert "3 seeds each" in reasons


def test_gate_passes_a_model_that_is_better_on_every_seed() -> None:
    decision = decide_promotion(seeded((6.5, 6.6, 6.4), seed=1), seeded((6.0, 6.0, 6.0)), PARAMS)
    assert decision.promote
    assert "3 seeds each" in decision.reasons[3]


def test_gate_refuses_a_first_model_that_beats_repeating_by_one_seed() -> None:
    assert "not better from every seed" in refusal(decide_promotion(seeded((9.0, -3.0, -3.0)), None, PARAMS))


def test_interval_of_one_seed_is_the_bootstrap_over_clips() -> None:
    from scipy.stats import bootstrap

    values = np.random.default_rng(0).normal(1, 2, 40)
    ours = interval("", values[:, None], PARAMS)
    theirs = bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(1))
    assert (ours.low, ours.high) == pytest.approx(theirs.confidence_interval, abs=0.05)


@pytest.mark.parametrize("shots", [2, 5, 30])
def test_interval_of_few_shots_is_students(shots: int) -> None:
    """The spread of resamples is that around their own mean, which has one degree of freedom less."""
    from scipy.stats import norm, t

    spread = 3.0  # of the shots, as a sample
    resampled = spread * np.sqrt((shots - 1) / shots) / np.sqrt(shots)
    means = 1 + resampled * norm.ppf((np.arange(100_000) + 0.5) / 100_000)
    half = t.ppf(0.975, shots - 1) * spread / np.sqrt(shots)
    assert ends_of(means, 1.0, shots, 0.95) == pytest.approx([1 - half, 1 + half], rel=1e-3)


def test_scores_that_are_all_equal_have_no_interval_however_many_clips_a_shot_has() -> None:
    labels = np.repeat(["a", "b", "c"], [1, 2, 9]).astype(object)
    figure = interval("", np.ones((12, 2)), PARAMS, labels)
    assert (figure.low, figure.high) == pytest.approx((1, 1))


def of_shots(
    shots: int, clips: int, rng: np.random.Generator, alike: float = 0.9
) -> tuple[np.ndarray, np.ndarray]:
    """Scores (n, 1) of mean 0, and their shots: `alike` is the share of the spread that is between shots."""
    labels = np.repeat([f"shot {number}" for number in range(shots)], clips)
    own = np.sqrt(alike) * rng.normal(size=(shots, 1)) + np.sqrt(1 - alike) * rng.normal(size=(shots, clips))
    return own.reshape(-1, 1), labels.astype(object)


@pytest.mark.parametrize("shots", [3, 5, 12])
def test_interval_by_shots_covers_the_mean_and_one_by_clips_does_not(shots: int) -> None:
    """Of 95 % intervals, where four overlapping clips of a shot are alike."""
    rng, covered = np.random.default_rng(0), {"shots": 0, "clips": 0}
    for _ in range(100):
        values, labels = of_shots(shots, 4, rng)
        for name, given in (("shots", labels), ("clips", None)):
            figure = interval("", values, PARAMS, given)
            covered[name] += figure.low <= 0 <= figure.high
    assert 90 <= covered["shots"] <= 99
    assert covered["clips"] <= 80


def test_interval_of_shots_of_one_clip_each_is_that_of_clips() -> None:
    values = np.random.default_rng(0).normal(1, 2, (40, 3))
    by_clip, by_shot = (interval("", values, PARAMS, shots) for shots in (None, np.arange(40).astype(object)))
    assert (by_clip.low, by_clip.high) == (by_shot.low, by_shot.high)
    assert (by_clip.shots, by_shot.shots) == (None, 40)


def test_interval_depends_on_no_names_and_weighs_clips_alike() -> None:
    values, labels = of_shots(6, 4, np.random.default_rng(1))
    uneven = np.concatenate([values, values[:1] + 5.0]), np.append(labels, labels[0])
    figure = interval("", uneven[0], PARAMS, uneven[1])
    assert (figure.n, figure.shots, figure.value) == (25, 6, pytest.approx(uneven[0].mean()))
    renamed = interval("", uneven[0], PARAMS, np.array([f"x{label}" for label in uneven[1]], object))
    assert renamed == figure
    mirrored = interval("", -uneven[0], PARAMS, uneven[1])
    assert (mirrored.low, mirrored.high) == pytest.approx((-figure.high, -figure.low))


def test_gate_refuses_luck_on_one_shot() -> None:
    """Half of the clips are of one shot, on which the candidate happens to be much better."""
    champion = evaluation(spread_db=0.0)
    names = [f"simulated{number}" for number in range(12)]
    gain = champion["gain_db"] + np.where(champion["clip_id"].isin(names), 1.0, -0.1)
    candidate = champion.assign(gain_db=gain.where(champion["kind"] == "continuation", champion["gain_db"]))
    assert decide_promotion(candidate, champion, PARAMS).promote, "as independent clips"
    shot = np.where(candidate["clip_id"].isin(names), "one", candidate["clip_id"])
    reasons = refusal(decide_promotion(candidate.assign(shot=shot), champion, PARAMS))
    assert "24 clips of 13 shots" in reasons
    assert "Not shown to be better" in reasons


@pytest.mark.parametrize(("shots", "promoted"), [(1, False), (2, False), (3, True), (12, True)])
def test_gate_ranks_on_three_shots_at_least(shots: int, promoted: bool) -> None:
    rows = evaluation(9.0, spread_db=0.1)
    number = rows["clip_id"].str.removeprefix("simulated").astype(int) % shots
    decision = decide_promotion(rows.assign(shot=number.astype(str)), None, PARAMS)
    assert decision.promote is promoted
    if not promoted:
        assert f"24 common clips of {shots} shots, expected at least 8 of 3" in refusal(decision)


def test_gate_compares_no_secondary_figure_on_few_shots() -> None:
    champion = pd.concat([evaluation(), evaluation(group="real")], ignore_index=True)
    candidate = pd.concat([evaluation(9.0), evaluation(2.0, group="real", seed=1)], ignore_index=True)
    assert "May be worse: real continuation" in refusal(decide_promotion(candidate, champion, PARAMS))
    few = candidate["shot"].where(
        candidate["group"] == "simulated", candidate["clip_id"].str[-1].astype(int) % 5
    )
    decision = decide_promotion(candidate.assign(shot=few.astype(str)), champion, PARAMS)
    assert decision.promote
    assert any(
        "Not compared: real continuation" in reason and "of 5 shots" in reason for reason in decision.reasons
    )


def test_gate_notes_that_scores_from_before_name_no_shots() -> None:
    new, old = evaluation(7.0, 0.5, seed=1), evaluation(6.0, 0.5, seed=2).drop(columns="shot")
    assert "Shots are not recorded" not in " ".join(decide_promotion(new, old, PARAMS).reasons)
    decision = decide_promotion(new.drop(columns="shot"), old, PARAMS)
    assert decision.promote
    assert "Shots are not recorded" in decision.reasons[-1]
    assert decision.figures[0].shots is None


def test_interval_that_draws_seeds_passes_far_fewer_models_that_are_lucky() -> None:
    """Of models that are no better, where seeds differ as much as clips do; three seeds cannot do it all."""
    rng, passed = np.random.default_rng(0), {"both": 0, "clips": 0}
    for _ in range(100):
        values = rng.normal(0, 1, (1, 3)) + rng.normal(0, 1, (24, 3))
        passed["both"] += interval("", values, PARAMS).low > 0
        passed["clips"] += interval("", values.mean(axis=1, keepdims=True), PARAMS).low > 0
    assert passed["both"] <= 16
    assert passed["clips"] >= 30


@pytest.mark.parametrize(("ssim", "promoted"), [(0.79, True), (0.70, False)])
def test_gate_holds_a_metric_within_its_margin(ssim: float, promoted: bool) -> None:
    champion, candidate = (
        evaluation(spread_db=0.1).assign(ssim=0.8),
        evaluation(7.0, 0.1, seed=1).assign(ssim=ssim),
    )
    decision = decide_promotion(candidate, champion, PARAMS)
    assert decision.promote is promoted
    assert any("simulated ssim over the champion" in reason for reason in decision.reasons)


def test_gate_compares_a_metric_on_the_clips_that_have_it() -> None:
    champion, candidate = (
        evaluation(spread_db=0.1).assign(ssim=0.8),
        evaluation(7.0, 0.1, seed=1).assign(ssim=0.5),
    )
    few = candidate["clip_id"].isin([f"simulated{number}" for number in range(7)])
    candidate.loc[~few, "ssim"] = np.nan
    assert "Not compared: simulated ssim" in " ".join(decide_promotion(candidate, champion, PARAMS).reasons)


@pytest.mark.parametrize("metric", [each for each in METRICS if each.per != "set"], ids=lambda each: each.key)
def test_gate_knows_which_way_metrics_of_the_catalogue_are_better(metric: Metric) -> None:
    good, bad = {"lower": (1.0, 3.0), "nearer 1": (0.9, 1.5)}.get(metric.better, (3.0, 1.0))
    params = dataclasses.replace(PARAMS, margins={metric.key: 0.1})
    rows, champion = evaluation(7.0, 0.1, seed=1), evaluation(spread_db=0.1)
    better, worse = {metric.key: good}, {metric.key: bad}
    assert decide_promotion(rows.assign(**better), champion.assign(**worse), params).promote
    assert f"May be worse: simulated {metric.key}" in refusal(
        decide_promotion(rows.assign(**worse), champion.assign(**better), params)
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"split": "val"}, "split val against test"),
        ({"clips": "d" * 64}, "clips ddd"),
        ({"seeds": (0,)}, "seeds"),
        ({"weights": {"backbone": "a" * 64}}, "weights.backbone"),
    ],
)
def test_gate_refuses_unlike_fingerprints_and_shows_what_differs(change: dict, told: str) -> None:
    better = Evidence(evaluation(9.0), dataclasses.replace(FINGERPRINT, **change))
    reasons = refusal(gate.decide_promotion(better, Evidence(evaluation(), FINGERPRINT), PARAMS))
    assert "Not comparable with the champion" in reasons
    assert told in reasons


def test_gate_says_why_scores_that_may_be_compared_are_not_to_be_had() -> None:
    other = Evidence(evaluation(), dataclasses.replace(FINGERPRINT, split="val"))
    sides = Evidence(evaluation(9.0), FINGERPRINT), other
    why = "It could not be judged again: its files are gone."
    decision = gate.decide_promotion(*sides, PARAMS, why)
    assert decision.reasons == (f"Not comparable with the champion: split test against val. {why}",)
    assert not decision.promote


def test_gate_refuses_a_fingerprint_that_it_cannot_read() -> None:
    old = Evidence(evaluation(), None, "fingerprint: got the key colour")
    reasons = refusal(gate.decide_promotion(Evidence(evaluation(9.0), FINGERPRINT), old, PARAMS))
    assert reasons.startswith("Not comparable with the champion: fingerprint: got the key colour.")


def test_gate_notes_what_moves_scores_by_rounding_and_who_was_judged_again() -> None:
    elsewhere = dataclasses.replace(FINGERPRINT, processor="arm64", threads=FINGERPRINT.threads + 1)
    told = {"folder": "evidence/judged_again/a", "again": "today"}
    champion = Evidence(evaluation(), elsewhere, **told)
    decision = gate.decide_promotion(
        Evidence(evaluation(9.0), FINGERPRINT, folder="evidence"), champion, PARAMS
    )
    assert decision.promote
    assert decision.reasons[-2:] == (
        "The champion was judged again (today).",
        f"Judged on another kind of processor ({FINGERPRINT.processor}, not arm64) and number of threads "
        f"({FINGERPRINT.threads}, not {elsewhere.threads}): differences of rounding size.",
    )
    evidence = decision.candidate_evidence, decision.champion_evidence
    assert evidence == ("evidence", "evidence/judged_again/a")


def test_gate_compares_with_a_champion_from_before_fingerprints_and_says_so() -> None:
    old = evaluation()
    old = Evidence(old[old["kind"] != "continuation_linear"])
    decision = gate.decide_promotion(Evidence(seeded((9.0, 9.0)), FINGERPRINT), old, PARAMS)
    assert decision.promote
    assert decision.reasons[-1].startswith("Fingerprint of the champion not recorded")


def test_gate_judges_a_candidate_from_before_the_straight_line() -> None:
    rows = evaluation()
    rows = rows[rows["kind"] != "continuation_linear"]
    assert gate.decide_promotion(Evidence(rows), None, PARAMS).promote
    assert "Too few to rank" in refusal(decide_promotion(rows, None, PARAMS))
