import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from videomar.config import GateParams
from videomar.evaluation.gate import Decision, decide_promotion

PARAMS = GateParams(min_clips=8, confidence=0.95, margin_db=0.5, seed=0)


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
        for kind, mean in gains.items():
            gain = mean + difficulty + rng.normal(0, spread_db)
            repeat = 18.0 + difficulty
            rows.append((f"{group}{index}", group, kind, repeat + gain, repeat, gain))
    columns = ["clip_id", "group", "kind", "psnr_db", "repeat_psnr_db", "gain_db"]
    return pd.DataFrame(rows, columns=columns)


def refusal(decision: Decision) -> str:
    assert not decision.promote
    return " ".join(decision.reasons)


def test_gate_passes_a_first_model_above_both_baselines() -> None:
    decision = decide_promotion(evaluation(), None, PARAMS)
    assert decision.promote
    assert [figure.n for figure in decision.figures] == [24, 24]


def test_gate_refuses_a_first_model_no_better_than_repeating() -> None:
    assert "over repeat-last" in refusal(decide_promotion(evaluation(gain_db=0.0), None, PARAMS))


def test_gate_refuses_a_first_model_no_better_than_untrained() -> None:
    rows = evaluation()
    rows.loc[rows["kind"] == "continuation_untrained", "gain_db"] = 20.0
    assert "untrained model" in refusal(decide_promotion(rows, None, PARAMS))


def test_gate_refuses_a_first_model_without_its_untrained_self() -> None:
    rows = evaluation()
    rows = rows[rows["kind"] != "continuation_untrained"]
    assert "Too few to rank" in refusal(decide_promotion(rows, None, PARAMS))


def test_gate_passes_a_better_and_refuses_a_worse_challenger() -> None:
    better, worse = evaluation(7.0, 0.5, seed=1), evaluation(6.0, 0.5, seed=2)
    assert decide_promotion(better, worse, PARAMS).promote
    assert "over the champion" in refusal(decide_promotion(worse, better, PARAMS))


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
    forth, back = (decide_promotion(*sides, PARAMS).figures[2] for sides in ((a, b), (b, a)))
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
