"""The words at the end of `make run`: what came out, where to look, what to try."""

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.support.pipeline_outputs import REPOSITORY
from videomar.config import load_own_params
from videomar.config.edit import update_params
from videomar.config.layout import Layout
from videomar.curation.ledger import LEDGER_SCHEMA, write_ledger
from videomar.report.closing_words import Outcome, closing_words

BASELINES = "repeat-last", "the untrained model", "a straight line"
HARD_NAME = "it's «mine» #2.mp4"


def refusal(**changes: Any) -> dict[str, Any]:
    figures = [
        {
            "name": f"real continuation over {name}",
            "value": -4.1,
            "low": -5.0,
            "high": -3.2,
            "n": 32,
            "limit": 0.0,
        }
        for name in BASELINES
    ]
    reasons = [f"Not shown to be better: {each['name']} -4.10 dB" for each in figures]
    return {"promote": False, "reasons": reasons, "figures": figures, **changes}


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """A user's folder of three files: two videos, one of them without words, and one that cannot be read."""
    monkeypatch.chdir(tmp_path)
    layout = Layout()
    layout.ledger.parent.mkdir()
    layout.metrics.mkdir()
    shutil.copy(REPOSITORY / "params.yaml", layout.params)
    clip = {"kept": True, "group": "real", "num_frames": 17, "video": "long.mp4", "split": "train"}
    test = {
        **clip,
        "video": HARD_NAME,
        "split": "test",
        "caption": "it's a  cat\nthat runs",
        "caption_from": "a.txt",
    }
    rows = [
        *(
            {**clip, "clip_id": f"a{number}", "start_s": float(number), "end_s": number + 2.0}
            for number in range(4)
        ),
        {**test, "clip_id": "b", "start_s": 0.0, "end_s": 2.0},
        {
            **clip,
            "clip_id": "c",
            "kept": False,
            "split": None,
            "reason": "too_dark",
            "start_s": 9.0,
            "end_s": 11.0,
        },
        {"video": "broken.mp4", "kept": False, "reason": "not_a_video"},
    ]
    write_ledger(layout.ledger, pd.DataFrame(rows, columns=LEDGER_SCHEMA.names))
    for stage, figures in {
        "encode": {"captions": 1.0, "captions_unreadable": 0.0, "captions_cut": 0.0},
        "evaluate": {"real_psnr_gain_db": -4.1, "real_clips": 32.0},
        "train": {"seconds": 754.0},
    }.items():
        (layout.metrics / f"{stage}.json").write_text(json.dumps(figures))
    return layout


def said(
    layout: Layout, decision: dict[str, Any], number: str = "2", champion: str | None = None
) -> dict[str, str]:
    lines = closing_words(layout, Outcome(number=number, decision=decision, champion=champion))
    assert all(line.isprintable() for line in lines)
    return dict(line.split(": ", 1) for line in lines)


def test_first_run_on_own_clips_says_what_came_out_and_what_to_try(layout: Layout) -> None:
    words = said(layout, refusal(), "1")
    assert list(words) == ["clips", "split", "words", "quality", "verdict", "look", "try", "better"]
    assert words["clips"].startswith(
        "5 of 6 kept, from 3 files (4 train, 1 test); not kept: 1 too dark; 1 file could"
    )
    assert words["split"].startswith(f"all real clips in test are of one video ({HARD_NAME}, ")
    assert words["words"] == "4 of 5 kept clips have none"
    assert words["quality"] == (
        "4.1 dB worse than repeating the last picture, continuing held-out real clips "
        "(interval -5.0 to -3.2, 32 clips)"
    )
    assert words["verdict"] == (
        "version 1 is not promoted, there is no champion yet. It is not shown to be better than repeating "
        "the last picture or the untrained model or going on in a straight line."
    )
    assert "ledger show --sheet ledger.png" in words["look"]
    assert "words for the clips without; longer training" in words["better"]
    steps = sum(stage.steps for stage in load_own_params(REPOSITORY / "params.yaml").train.curriculum)
    assert f"{steps:,} steps took 13 min" in words["better"]
    assert words["better"].endswith("use-clips samples --start-from shipped")
    assert not any("make run" in line for line in words.values())


def test_example_is_a_command_that_a_shell_takes_as_it_is(layout: Layout) -> None:
    parts = shlex.split(said(layout, refusal(), "1")["try"])
    assert parts[1:] == [
        "generate",
        f"data/raw/{HARD_NAME}",
        "--prompt",
        "it's a cat that runs",
        "--out",
        "clip.mp4",
    ]
    assert shutil.which(parts[0]) is not None
    assert shlex.split(said(layout, refusal(), "2", champion="1")["try"])[-2:] == ["--model", "2"]
    assert "--model" not in said(layout, refusal(promote=True), "2", champion="2")["try"]


def test_refused_candidate_beside_a_champion_may_be_trained_on_from_it(layout: Layout) -> None:
    words = said(
        layout, refusal(reasons=["Too few to rank: x has 2 common clips, expected at least 8."]), champion="1"
    )
    assert words["verdict"] == (
        "version 2 is not promoted, version 1 stays champion. "
        "Too few to rank: x has 2 common clips, expected at least 8."
    )
    assert "use-preset finetune" in words["better"]
    update_params(layout.params, {"train": {"start_from": "1"}})
    assert "finetune" not in said(layout, refusal(), champion="1")["better"]


def test_weights_that_training_started_from_are_named_with_what_they_have_seen(layout: Layout) -> None:
    update_params(layout.params, {"train": {"start_from": "shipped"}})
    assert said(layout, refusal())["start"] == "from the model of the package"
    assert "--start-from" not in said(layout, refusal())["better"]
    (layout.metrics / "sample.json").write_text('{"clips_left_out_as_seen": 3.0}')
    assert said(layout, refusal())["start"] == (
        "from the model of the package; 3 held-out clips were left out, as it has seen them"
    )


def test_promotion_is_told_by_the_comparison_that_decided(layout: Layout) -> None:
    reasons = ["Neither is shown to be better: a.", "Better: real continuation over the champion +2.00 dB."]
    shots = [{**figure, "shots": 1} for figure in refusal()["figures"]]
    words = said(layout, refusal(promote=True, reasons=reasons, figures=shots), champion="2")
    assert words["verdict"] == "version 2 is promoted. Better: real continuation over the champion +2.00 dB."
    assert words["quality"].endswith("(interval -5.0 to -3.2, 32 clips of 1 shot)")
    assert "finetune" not in words["better"]
    first = said(
        layout, refusal(promote=True, reasons=["Better: real continuation over repeat-last."]), champion="2"
    )
    assert first["verdict"] == "version 2 is promoted. Better: real continuation over repeat-last."


def test_too_few_clips_to_judge_and_captions_that_are_lost_are_told(layout: Layout) -> None:
    (layout.metrics / "evaluate.json").write_text('{"real_psnr_gain_db": 1.25, "real_clips": 2.0}')
    (layout.metrics / "encode.json").write_text(
        '{"captions": 9.0, "captions_unreadable": 7.0, "captions_cut": 1.0}'
    )
    lines = closing_words(layout, Outcome(number="1", decision=refusal(figures=[]), champion=None))
    assert (
        "words: of 9 captions the text encoder cannot read 7 and cuts short 1; the report names some" in lines
    )
    words = said(layout, refusal(figures=[]))
    assert words["quality"] == (
        "1.2 dB better than repeating the last picture, continuing held-out real clips "
        "(too few for an interval)"
    )
    assert words["better"].startswith("more videos: the gate compares at least 8 held-out clips, and has 2; ")
    (layout.metrics / "evaluate.json").write_text("{}")
    assert said(layout, refusal(figures=[]))["quality"] == "nothing was judged"
