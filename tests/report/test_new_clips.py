"""What new clips changed: on clips of new videos and on those of old ones, apart."""

import pandas as pd
import pytest

from videomar.report.new_clips import ClipsSince, changed_by_new_clips

TASK = "Real, continued"


def table(values: dict[str, float]) -> pd.DataFrame:
    """A long table of PSNR by clip; clips are of a shot each."""
    rows = [
        {"task": TASK, "look": "model", "metric": "psnr", "clip_id": clip, "shot": clip, "value": value}
        for clip, value in values.items()
    ]
    return pd.DataFrame(rows, columns=["task", "look", "metric", "clip_id", "shot", "value"])


def lineage(clips: dict[str, tuple[str, str]]) -> pd.DataFrame:
    """Video and split by clip, as the registry keeps them."""
    rows = [
        {"clip_id": clip, "video_sha256": video, "split": split} for clip, (video, split) in clips.items()
    ]
    return pd.DataFrame(rows, columns=["clip_id", "video_sha256", "split"])


BEFORE = lineage(
    {"t0": ("old", "train"), "o0": ("old", "test"), "o1": ("old", "test"), "g": ("gone", "train")}
)
OWN = lineage(
    {
        **{"t0": ("old", "train"), "o0": ("old", "test"), "o1": ("old", "test"), "was": ("old", "test")},
        **{f"n{number}": ("new", "test") for number in range(3)},
        **{"t1": ("new", "train"), "t2": ("other", "train")},
    }
)
OURS = table({"o0": 20.0, "o1": 21.0, "n0": 25.0, "n1": 26.0, "n2": 27.0, "was": 10.0})
THEIRS = table({"o0": 21.0, "o1": 22.0, "n0": 23.0, "n1": 24.0, "n2": 25.0, "was": 30.0})


def test_gain_on_new_videos_and_loss_on_old_ones_do_not_cancel() -> None:
    found = changed_by_new_clips(ClipsSince(OWN, BEFORE, {"was"}), OURS, THEIRS)
    assert found is not None
    values = {
        part["name"]: (row["value"], row["n"], row["verdict"])
        for part in found.parts
        for comparison in part["comparisons"]
        for row in comparison["rows"]
    }
    assert values == {"new videos": ("+2.00", 3, "better"), "old videos": ("−1.00", 2, "worse")}
    assert found.lines == [
        "2 new videos: 2 clips to train on, 3 judged. 1 video of the champion no longer there.",
        f"{TASK}, PSNR over the champion: new videos +2.00 dB (+2.00 to +2.00, 3 clips); "
        "old videos −1.00 dB (−1.00 to −1.00, 2 clips).",
    ]


def test_clip_that_the_champion_was_trained_on_counts_for_neither() -> None:
    apart = ClipsSince(OWN, BEFORE, {"was"}).apart()
    assert apart["new videos"] == {"n0", "n1", "n2", "t1", "t2"}
    assert apart["old videos"] == {"t0", "o0", "o1"}
    assert "was" in ClipsSince(OWN, BEFORE, ()).apart()["old videos"]


def test_nothing_is_said_without_a_new_video_or_without_the_champion_s_clips() -> None:
    old = OWN[OWN["video_sha256"] == "old"]
    assert changed_by_new_clips(ClipsSince(old, BEFORE, ()), OURS, THEIRS) is None
    assert changed_by_new_clips(None, OURS, THEIRS) is None


@pytest.mark.parametrize("theirs", [table({}), table({"someone": 1.0})])
def test_models_that_cannot_be_compared_still_say_what_is_new(theirs: pd.DataFrame) -> None:
    found = changed_by_new_clips(ClipsSince(OWN, BEFORE, {"was"}), OURS, theirs)
    assert found is not None
    assert [part["comparisons"] for part in found.parts] == [[], []]
    assert found.lines[1:] == ["No clip was judged for both models under the same conditions."]


def test_new_videos_of_which_none_is_held_out_leave_the_old_ones_to_compare() -> None:
    own = OWN[OWN["split"].eq("train") | OWN["video_sha256"].eq("old")]
    found = changed_by_new_clips(ClipsSince(own, BEFORE, {"was"}), OURS, THEIRS)
    assert found is not None
    assert found.lines[0].startswith("2 new videos: 2 clips to train on, 0 judged.")
    assert [len(part["comparisons"]) for part in found.parts] == [0, 1]
