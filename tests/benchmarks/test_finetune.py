import json

import pandas as pd
import pytest

from benchmarks import finetune
from videomar.config import SamplesParams
from videomar.curation.ledger import read_ledger
from videomar.errors import DataError
from videomar.media.mp4 import find_ffmpeg
from videomar.sources.simulate import draw_simulated


def ledger(*shots: list[float]) -> pd.DataFrame:
    """Kept clips of one video that begin at these times, shot by shot."""
    starts = [start for shot in shots for start in shot]
    frame = pd.DataFrame({"video": "a.mp4", "start_s": starts, "group": "simulated", "split": "val"})
    return frame.assign(kept=True)


def test_clips_of_a_shot_are_never_on_both_sides(params):
    dealt = finetune.deal_shots(ledger([0.0, 1.0, 2.0], [3.375, 4.375], [6.5], [8.75, 9.75]), params)
    by_split = {split: sorted(rows["start_s"]) for split, rows in dealt.groupby("split")}
    assert by_split == {"train": [0.0, 1.0, 2.0, 6.5], "test": [3.375, 4.375, 8.75, 9.75]}
    assert set(dealt["group"]) == {"real"}
    with pytest.raises(DataError, match="got 3 to train on and 0 of other shots"):
        finetune.deal_shots(ledger([0.0, 1.0, 2.0]), params)


def test_runs_differ_in_start_steps_and_schedule_alone(tmp_path):
    setting = finetune.make_setting("shipped", 1500, 1, tmp_path)
    scratch, tuned = finetune.runs_of(setting).values()
    assert (scratch.start_from, tuned.start_from) == (None, str(setting.model.checkpoint))
    assert (scratch.curriculum[0].steps, tuned.curriculum[0].steps) == (1500, 150)
    different = {
        name for name in scratch.__dataclass_fields__ if getattr(scratch, name) != getattr(tuned, name)
    }
    schedule = {"learning_rate", "final_learning_rate_share", "ema_decay", "warmup_steps"}
    assert different <= {"start_from", "curriculum", "checkpoint_every"} | schedule


@pytest.mark.slow
def test_comparison_runs_and_continues_from_what_is_there(tmp_path, capsys):
    drawing = SamplesParams(
        source="",
        simulated_videos=2,
        clips_per_video=8,
        simulated_size_px=64,
        film_seconds=0.0,
        ffmpeg="packaged",
        seed=5,
    )
    draw_simulated(tmp_path / "clips", drawing, find_ffmpeg())
    words = [
        "--quick",
        "--threads",
        "1",
        "--clips",
        str(tmp_path / "clips"),
        "--work",
        str(tmp_path / "work"),
    ]
    finetune.main(words)
    first = json.loads(capsys.readouterr().out.splitlines()[-1])["figures"]
    assert first["steps_tuned"] == 1
    assert first["continuation gain_db"]["n"] >= 2
    [work] = (tmp_path / "work/clips").iterdir()
    assert (work / "finetune.png").is_file()
    assert (work / "finetune.webp").is_file()
    splits = read_ledger(work / "ledger.parquet").groupby("split").size()
    assert splits["train"] >= 2
    finetune.main(words)
    again = json.loads(capsys.readouterr().out.splitlines()[-1])["figures"]
    costs = {"seconds"}
    assert {key: value for key, value in again.items() if key not in costs} == {
        key: value for key, value in first.items() if key not in costs
    }
