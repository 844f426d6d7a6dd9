from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import ladder
from benchmarks.budget import PaceClock, with_seconds, with_steps
from benchmarks.rungs import Rung, read_rungs
from videomar.errors import ParamsError
from videomar.evaluation.bootstrap import PairedScores, interval

ROOT = Path(__file__).parents[2]


def rungs_of(tmp_path, text, chosen=()):
    (tmp_path / "rungs.yaml").write_text(text)
    return read_rungs(tmp_path / "rungs.yaml", ROOT / "params.yaml", chosen)


def test_a_rung_has_the_changes_of_those_it_stands_on(tmp_path):
    text = """
    base: {suite: {seeds: 1}}
    rungs:
      - {name: first}
      - {name: deep, changes: {model: {depth: 7}}}
      - {name: wide, changes: {model: {head_width: 64}}}
      - {name: other, after: first, changes: {train: {learning_rate: 1.0e-4}}}
    """
    first, deep, wide, other = rungs_of(tmp_path, text)
    assert [rung.after for rung in (first, deep, wide, other)] == [None, "first", "deep", "first"]
    assert (wide.params.model.depth, wide.params.model.head_width) == (7, 64)
    assert other.params.model == first.params.model != deep.params.model
    assert other.params.train.learning_rate == 1e-4
    assert {rung.params.suite.seeds for rung in (first, deep, wide, other)} == {1}
    assert [rung.name for rung in rungs_of(tmp_path, text, ["wide"])] == ["first", "deep", "wide"]


@pytest.mark.parametrize(
    ("rungs", "message"),
    [
        ("[]", "expected a list `rungs`"),
        ("[{name: a, chances: {}}]", "rung 1: got .*expected `name`, `changes`"),
        ("[{name: a}, {name: a}]", "rung 2: got a second rung named 'a'"),
        ("[{name: a, after: b}, {name: b}]", "rung 1: after: got 'b', expected a rung above it"),
        ("[{name: a, changes: {model: {depht: 1}}}]", r"rung 1 \(a\): .*model.depht: unknown key"),
        ("[{name: a, changes: {model: 3}}]", r"rung 1 \(a\): changes: got .*by section and key"),
    ],
)
def test_a_wrong_file_of_rungs_is_refused(tmp_path, rungs, message):
    with pytest.raises(ParamsError, match=message):
        rungs_of(tmp_path, f"rungs: {rungs}")
    with pytest.raises(ParamsError, match="got the rung 'z', expected one of: a"):
        rungs_of(tmp_path, "rungs: [{name: a}]", ["z"])


def test_the_ladder_of_the_repository_fits_its_parameters():
    rungs = read_rungs(ROOT / "benchmarks/ladder.yaml", ROOT / "params.yaml")
    assert rungs[0].after is None
    assert len({rung.name for rung in rungs}) == len(rungs) > 1


def test_a_budget_keeps_the_proportions_of_the_curriculum(params):
    train = params.train
    shares = [stage.steps / sum(stage.steps for stage in train.curriculum) for stage in train.curriculum]
    short = with_steps(train, 400)
    assert [stage.steps for stage in short.curriculum] == [round(400 * share) for share in shares]
    assert short.warmup_steps == min(train.warmup_steps, 40)
    pace = [0.5 + number for number in range(len(train.curriculum))]
    timed = with_seconds(train, pace, 1000.0)
    seconds = sum(each * stage.steps for each, stage in zip(pace, timed.curriculum, strict=True))
    assert seconds == pytest.approx(1000.0, rel=0.01)


def test_the_pace_is_that_of_the_first_stage():
    times = iter([0.0, 4.0, 8.0, 100.0])
    clock = PaceClock(lambda: next(times))
    for number in (0, 0, 0, 1):
        clock.log(4, {"stage": number})
    assert clock.seconds_a_step() == 1.0  # logged every fourth step


def scores(gains, shots=("s", "s", "t")):
    """Scores of three clips of one kind."""
    rows = [
        {"clip_id": str(number), "group": "real", "kind": "continuation", "shot": shot, "gain_db": gain}
        for number, (gain, shot) in enumerate(zip(gains, shots, strict=True))
    ]
    return pd.DataFrame(rows).assign(repeat_psnr_db=20.0)


def result(params, name, *seeds):
    tables = [ladder.renumbered(rows, number, 1) for number, rows in enumerate(seeds)]
    facts = {"seconds": 1.0, "steps": 5, "weights": 7, "folder": "x", "real_clips_won": 0.25}
    of_seeds = {
        number: dict.fromkeys(("tokenizer", "latents", "run", "scores"), facts)
        for number in range(len(seeds))
    }
    after = None if name == "first" else "first"
    return ladder.Result(Rung(name, after, {}, params), pd.concat(tables), of_seeds)


def test_differences_are_paired_by_clip_and_seed(params):
    first = result(params, "first", scores([-4.0, 0.0, 8.0]), scores([-3.0, 1.0, 9.0]))
    better = result(params, "better", scores([-3.0, 1.0, 9.0]), scores([-2.0, 2.0, 10.0]))
    figure = ladder.difference(better, first, ("real", "continuation", "gain_db"))
    assert (figure.value, figure.low, figure.high, figure.n, figure.shots) == (1.0, 1.0, 1.0, 3, 2)
    alone = ladder.figures_of([first, better])
    assert alone[1]["figures"]["real continuation gain_db"]["value"] == pytest.approx(17 / 6, abs=1e-4)
    assert alone[1]["figures"]["real continuation gain_db"]["low"] < 1.0
    table = ladder.table_of(alone, [first, better])
    assert "<br>step +1.00 (+1.00 to +1.00) | 5 | 1.0 |" in table
    assert "| better | **+2.83** (" in table
    assert "2 seeds of training (real: 3 clips of 2 shots)" in table
    assert "| rung | real, continuation, share of clips won | weights | tokenizer, s |" in table
    assert "| better | +0.25 | 7 | 1.0 |" in table
    verdicts = ladder.verdicts([first, better])
    assert (verdicts["real_continuation_better"], verdicts["real_continuation_above_repeat"]) == (1.0, 0.0)


def test_clips_of_another_truth_are_no_pairs(params):
    first = result(params, "first", scores([0.0, 0.0, 0.0]))
    rows = scores([1.0, 1.0, 1.0])
    rows.loc[2, "repeat_psnr_db"] = 21.0
    figure = ladder.difference(result(params, "other", rows), first, ("real", "continuation", "gain_db"))
    assert (figure.n, figure.shots) == (2, 1)


def test_a_wrong_request_is_one_line(tmp_path, capsys):
    assert ladder.main(["--data", str(tmp_path), "--work", str(tmp_path / "work")]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "params.yaml: no such file" in lines[0]
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    assert ladder.main(["--data", str(tmp_path), "--work", str(tmp_path / "work")]) == 1
    assert "got no data/raw with a ledger beside it" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        ladder.main(["--seeds", "0"])
    assert stopped.value.code == 2


def test_long_clips_of_all_trainings_are_seeds_of_one_kind():
    rows = pd.DataFrame({"kind": ["image_long65", "image", "image_seed1", "truth_long65"], "gain_db": 1.0})
    found = ladder.renumbered(rows, seed=2, sampled=2)
    assert list(found["kind"]) == ["image_long65_seed2", "image_seed4", "image_seed5"]


def drawn(rng, trainings, sampled, of_training, of_clip):
    values = rng.normal(size=(32, trainings * sampled)) * of_clip
    values += np.repeat(rng.normal(size=trainings) * of_training, sampled)
    return PairedScores(values, np.array([f"shot {number}" for number in range(32)], object))


@pytest.mark.parametrize("sampled", [1, 3])
@pytest.mark.parametrize("of_clip", [0.5, 5.0])
def test_intervals_over_few_trainings_hold_the_truth(params, sampled, of_clip):
    """Of differences that are 0 but for chance, one in twenty or fewer has an interval without 0."""
    rng, wrong = np.random.default_rng(0), 0
    for _ in range(200):
        found = ladder.over_trainings("", drawn(rng, 3, sampled, 1.0, of_clip), 3, params.gate)
        assert found.low < found.value < found.high
        wrong += not found.low <= 0 <= found.high
    assert wrong <= 16


def test_an_interval_of_one_training_is_over_shots_alone(params):
    one = drawn(np.random.default_rng(1), 1, 1, 1.0, 1.0)
    assert ladder.over_trainings("", one, 1, params.gate) == interval("", one.values, params.gate, one.shots)
