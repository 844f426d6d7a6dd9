import dataclasses
import json
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import claims, methods
from benchmarks.budget import Budget
from benchmarks.claims_file import read_claims
from benchmarks.claims_page import page_of, picture_name
from benchmarks.drift import DRIFT_FILE, drift_of, mean_drift, write_drift
from benchmarks.ladder_work import LadderWork
from benchmarks.methods import METHODS
from benchmarks.rungs import Rung
from videomar.config import load_params
from videomar.errors import DataError, ParamsError
from videomar.media.mp4 import find_ffmpeg
from videomar.sources.simulate import draw_simulated, scene_of

ROOT = Path(__file__).parents[2]
CLAIMS, PARAMS = ROOT / "benchmarks/claims.yaml", ROOT / "params.yaml"


def figure(low, high, shots=8):
    return {"value": (low + high) / 2, "low": low, "high": high, "n": 8, "shots": shots}


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ([(0.1, 1)], "holds"),
        ([(-1, -0.1)], "does not hold"),
        ([(-1, 1)], "too close to call"),
        ([(0.1, 1), (-1, 1)], "holds"),
        ([(-0.1, 1), (-1, -0.5)], "does not hold"),
        ([(0.1, 1), (-1, -0.5)], "differs by clips"),
        ([], "not measured"),
    ],
)
def test_a_verdict_is_that_of_the_intervals(ends, expected):
    lead = [figure(*each) for each in ends]
    assert claims.verdict(lead, trainings=3) == expected
    assert claims.verdict(lead, trainings=1) == "not measured"
    assert claims.verdict([{**each, "shots": 1} for each in lead], trainings=3) == "not measured"


def test_the_claims_of_the_repository_fit_its_parameters():
    found = read_claims(CLAIMS, PARAMS, {})
    assert all(claim.statements for claim in found)
    longer = {claim.name: claim.longer for claim in found}
    assert longer["small to large"] == 1 < longer["small to large at 64 px"]


def claims_in(tmp_path, text, chosen=()):
    (tmp_path / "claims.yaml").write_text(text)
    return read_claims(tmp_path / "claims.yaml", PARAMS, {"suite": {"seeds": 2}}, chosen)


def test_a_side_has_the_changes_of_its_claim_and_of_all(tmp_path):
    (claim,) = claims_in(
        tmp_path,
        """
        base: {model: {depth: 2}}
        claims:
          - name: one
            about: it
            base: {train: {learning_rate: 1.0e-4}}
            longer: 2.5
            groups: [real]
            sides: {plain: {}, deep: {changes: {model: {depth: 7}}}, hidden: {method: whole_clip}}
            statements: [{says: deeper is better, better: deep, than: plain, kinds: [image]}]
        """,
    )
    plain, deep, hidden = claim.sides.values()
    assert [side.params.model.depth for side in (plain, deep, hidden)] == [2, 7, 2]
    assert {side.params.train.learning_rate for side in claim.sides.values()} == {1e-4}
    assert {side.params.suite.seeds for side in claim.sides.values()} == {2}
    assert [side.method for side in (plain, deep, hidden)] == ["", "", "whole_clip"]
    assert claim.statements[0].decided_by == (("real", "image", "gain_db"),)
    assert {side.longer for side in claim.sides.values()} == {claim.longer} == {2.5}
    assert Budget(steps=5).times(2.5) == Budget(steps=12)
    assert Budget(seconds=4.0).times(2.5) == Budget(seconds=10.0)


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        ("{name: a}", "expected the keys about, name, sides, statements"),
        ("{name: a, about: b, sides: {c: {chances: {}}}, statements: []}", "a: c: got .*expected keys"),
        (
            "{name: a, about: b, sides: {c: {method: magic}}, statements: []}",
            "a: c: method: got 'magic', expected one",
        ),
        ("{name: a, about: b, sides: {c: {}}, statements: [{says: d, better: e}]}", "a: sides: got 'e'"),
        (
            "{name: a, about: b, longer: 0, sides: {}, statements: []}",
            "longer: got 0, expected a number above",
        ),
        ("{name: a, about: b, sides: [c], statements: []}", "expected `sides` by name"),
        ("{name: a, about: b, sides: {c: {}}, statements: null}", "expected `sides` by name"),
        (
            "{name: a, about: b, kinds: image, sides: {c: {}}, statements: [{says: d, better: c}]}",
            "kinds: .*list",
        ),
        (
            "{name: a, about: b, groups: [rael], sides: {c: {}}, statements: [{says: d, better: c}]}",
            "got 'rael'",
        ),
        (
            "{name: a, about: b, metrics: [vgg], sides: {c: {}}, statements: [{says: d, better: c}]}",
            "gain_db alone",
        ),
        (
            "{name: a, about: b, drift: [d], sides: {c: {}}, statements: []}",
            "a: drift: got 'd', expected one of: c",
        ),
        (
            "{name: a, about: b, sides: {c: {changes: {model: {depht: 1}}}}, statements: []}",
            "a: c: .*model.depht: unknown key",
        ),
    ],
)
def test_a_wrong_file_of_claims_is_refused(tmp_path, claim, message):
    with pytest.raises(ParamsError, match=message):
        claims_in(tmp_path, f"claims: [{claim}]")


def test_an_unknown_claim_is_refused(tmp_path):
    claim = "{name: a, about: b, sides: {}, statements: []}"
    with pytest.raises(ParamsError, match="got 'z', expected one of: a"):
        claims_in(tmp_path, f"claims: [{claim}]", ["z"])
    with pytest.raises(ParamsError, match="got two claims named 'a'"):
        claims_in(tmp_path, f"claims: [{claim}, {claim}]")


def test_sides_share_a_training_unless_something_of_it_differs(tmp_path):
    params = load_params(PARAMS)
    work = LadderWork(tmp_path / "work", tmp_path, tmp_path / "ledger", params, 1)
    by_name = {claim.name: claim.sides for claim in read_claims(CLAIMS, PARAMS, {})}
    keys = {
        (claim, name): claims.trained_by(side, work)
        for claim, sides in by_name.items()
        for name, side in sides.items()
    }
    default = keys["ours", "default"]
    shared = {place for place, key in keys.items() if key == default}
    assert ("ours", "nothing carried") in shared
    assert ("extrapolation", "64 px") in shared  # a method of sampling alone
    assert {claim for claim, _ in shared} > {"progressive temperature", "parallel reveals", "extrapolation"}
    loss = [keys["next-frame loss", name] for name in by_name["next-frame loss"]]
    assert len(set(loss)) == len(loss)
    sides = [side for sides in by_name.values() for side in sides.values()]
    scored = [claims.scored_by(side, work) for side in sides]
    assert len(set(keys.values())) < len(set(scored)) < len(sides)
    large = by_name["extrapolation"]
    assert len({claims.scored_by(side, work) for side in large.values()}) == 3


@pytest.mark.parametrize("name", [name for name in METHODS if name])
def test_folders_depend_on_the_method_and_its_code(tmp_path, monkeypatch, params, name):
    """Nothing is made here: a folder stands for what it depends on."""
    monkeypatch.setattr(
        LadderWork,
        "_made",
        lambda self, kind, params, sections, basis, make, code="": (
            tmp_path / f"{kind} {' '.join(map(str, basis))}".replace("/", "|")[-200:]
        ),
    )
    plain = dataclasses.replace(
        params, model=dataclasses.replace(params.model, residual=False, feed_previous=False, conditions=())
    )
    work = LadderWork(tmp_path / "work", tmp_path, tmp_path / "ledger", params, 1)
    monkeypatch.setattr(LadderWork, "ledger_of", lambda *_: ROOT / "params.yaml")
    budget = Budget(steps=4)

    def folders(method):
        by = work.by(method)
        return by.run_of(plain, budget), by.scores_of(plain, budget, keep_clips=False)

    (own_run, own_scores), (run, scores) = folders(""), folders(name)
    assert (run != own_run) is METHODS[name].learns
    assert scores != own_scores
    monkeypatch.setattr(methods, "__file__", str(ROOT / "README.md"))
    assert folders(name)[1] != scores
    assert folders("") == (own_run, own_scores)


def test_a_method_refuses_a_model_that_it_does_not_know(tmp_path, monkeypatch, params):
    work = LadderWork(tmp_path / "work", tmp_path, tmp_path / "ledger", params, 1)
    monkeypatch.setattr(LadderWork, "latents_of", lambda *_: tmp_path)
    residual = dataclasses.replace(params, model=dataclasses.replace(params.model, residual=True))
    with pytest.raises(DataError, match="got residual True, .*expected false, false and no conditions"):
        work.by("whole_clip").run_of(residual, Budget(steps=4))


def test_a_process_refuses_code_that_has_changed(tmp_path, params):
    work = LadderWork(tmp_path / "work", tmp_path, tmp_path / "ledger", params, 1)
    work.refuse_other_code()
    work.code["run"] = ["other"]
    with pytest.raises(DataError, match="code of run: got files that changed"):
        work.refuse_other_code()


def test_a_folder_without_a_finished_run_is_refused(tmp_path, capsys):
    assert claims.main(["--data", str(tmp_path), "--work", str(tmp_path / "work")]) == 1
    assert "expected that of a finished run; `make run` there" in capsys.readouterr().err


def test_scenes_shorter_than_the_clips_are_drawn_again_at_their_length(tmp_path, params):
    raw = tmp_path / "raw"
    samples = dataclasses.replace(params.samples, simulated_videos=1, clips_per_video=2)
    draw_simulated(raw, samples, find_ffmpeg())
    (raw / "mine").mkdir()
    (raw / "mine/a.mp4").write_text("kept as it is")
    work = LadderWork(tmp_path / "work", raw, tmp_path / "ledger", params, 1)
    plan = claims.Plan(work, (), Budget(steps=1), jobs=1)
    longer = dataclasses.replace(params, ingest=dataclasses.replace(params.ingest, num_frames=33))
    assert plan.work_of(Rung("as long", None, {}, params)).raw == raw
    drawn = plan.work_of(Rung("longer", None, {}, longer)).raw
    assert (drawn / "mine/a.mp4").read_text() == "kept as it is"
    short, long = raw / "simulated/sim_0000.mp4", drawn / "simulated/sim_0000.mp4"
    with av.open(str(long)) as video:
        assert sum(1 for _ in video.decode(video=0)) == 2 * 33
    for number in range(2):
        (scene, over), found = scene_of(short, number * 17 / 8), scene_of(long, number * 33 / 8 + 2)
        assert over == 0
        assert found == (scene, 16)
    before = long.stat().st_mtime_ns
    assert plan.work_of(Rung("longer", None, {}, longer)).raw == drawn
    assert long.stat().st_mtime_ns == before
    draw_simulated(raw, dataclasses.replace(samples, seed=1), find_ffmpeg())
    assert plan.work_of(Rung("of other scenes", None, {}, longer)).raw != drawn


def clip_row(kind, frames, clip_id="a"):
    row = {"clip_id": clip_id, "group": "simulated", "kind": kind, "shot": "s", "caption": "", "prompt": ""}
    row |= {"context_frames": 1, "fps": 8.0, "shape": list(frames.shape), "frames": frames.tobytes()}
    return row


def test_long_clips_are_followed(tmp_path):
    """A body that moves as in the truth for 16 frames, and then is gone."""
    truth = np.full((33, 32, 32, 3), 20, np.uint8)
    for number, frame in enumerate(truth):
        frame[4:10, number // 2 : number // 2 + 6] = (240, 60, 60)
    made = truth.copy()
    made[17:] = 20
    rows = [clip_row("truth", truth[:17]), clip_row("truth_long", truth), clip_row("image_long", made)]
    empty = np.full_like(truth, 20)  # without a body
    rows += [clip_row(kind, empty, "b") for kind in ("truth", "truth_long", "image_long")]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "clips.parquet")
    for seed in ("0", "1"):
        (tmp_path / seed).mkdir()
        write_drift(tmp_path / "clips.parquet", tmp_path / seed / DRIFT_FILE)
    found = mean_drift([tmp_path / "0", tmp_path / "1"])
    assert [row["frames"] for row in found] == [5, 9, 13, 17, 21, 25, 29, 33]
    assert [row["lost"] for row in found] == [0, 0, 0, 0, 1, 1, 1, 1]
    gains = [row["gain_db"] for row in found]
    assert min(gains[:4]) > 20 > max(gains[4:])


def test_without_long_clips_nothing_is_followed():
    assert drift_of([]) == []


@pytest.fixture(scope="module")
def stored():
    return json.loads((ROOT / "benchmarks/results/claims.json").read_text())


def test_the_page_shows_the_stored_figures(stored):
    assert (ROOT / "docs/claims.md").read_text() == page_of(stored)
    assert stored["figures"]["seeds"] >= 3
    for claim in stored["figures"]["claims"]:
        assert (ROOT / "docs/images" / picture_name(claim)).is_file()


def test_a_page_without_figures_says_so(stored):
    bare = json.loads(json.dumps(stored))
    for claim in bare["figures"]["claims"]:
        for statement in claim["statements"]:
            statement |= {"lead": {}, "verdict": claims.verdict([], 3)}
    page = page_of(bare)
    assert "| **not measured** |" in page
    assert ".webp" not in page


def test_verdicts_are_those_of_the_stored_intervals(stored):
    for claim in stored["figures"]["claims"]:
        for statement in claim["statements"]:
            verdict = claims.verdict(statement["lead"].values(), stored["figures"]["seeds"])
            assert verdict == statement["verdict"]


def test_one_process_per_job_makes_all_parts_or_names_what_failed(tmp_path):
    params = load_params(PARAMS)
    work = LadderWork(tmp_path / "work", tmp_path, tmp_path / "ledger", params, 1)
    plan = claims.Plan(work, (), Budget(steps=1), jobs=2)
    side = read_claims(CLAIMS, PARAMS, {})[0].sides["one frame"]
    claims.spread(plan, make_note, [(side, seed) for seed in range(3)])
    assert {path.name for path in work.root.glob("note-*")} == {"note-0", "note-1", "note-2"}
    with pytest.raises(DataError, match="no such seed: 7"):
        claims.spread(plan, make_note, [(dataclasses.replace(side), 7)])


def make_note(work, _params, seed, _budget):
    if seed == 7:
        raise DataError("no such seed: 7")
    (work.root / f"note-{seed}").touch()
