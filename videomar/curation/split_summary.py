"""Which video is in which split, in seconds of film, and what is unfair about it."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas

from videomar.curation.ledger import SPLITS, kept_clips
from videomar.curation.splits import seconds_of_film

_MOST_TEST = 1 / 3


@dataclass(frozen=True, slots=True)
class VideoSplit:
    """Where the kept clips of one video are."""

    group: str
    video: str
    seconds: tuple[float, float, float]
    """In train, val and test."""
    clips: int

    @property
    def split(self) -> str:
        """The splits that have some of it, as `train` or `train, test`."""
        return ", ".join(name for name, seconds in zip(SPLITS, self.seconds, strict=True) if seconds)


@dataclass(frozen=True, slots=True)
class SplitSummary:
    """What a reader of the ledger should know about the splits."""

    videos: Sequence[VideoSplit]
    """Those with kept clips, the longest first."""
    seconds: tuple[float, float, float]
    """In train, val and test."""
    test_videos: int
    test_shots: int
    warnings: Sequence[str]
    """Sentences, one for each group and fault."""


def summarise_splits(ledger: pandas.DataFrame) -> SplitSummary:
    """Count the seconds of each video by split. Pure; rejected clips and still pictures are left out."""
    kept = kept_clips(ledger)
    kept = kept[kept["num_frames"] != 1]
    kept = kept.assign(seconds=seconds_of_film(kept), video=kept["video"].astype(object))
    table = kept.pivot_table(index=["group", "video"], columns="split", values="seconds", aggfunc="sum")
    table = table.reindex(columns=list(SPLITS)).fillna(0.0)
    table["clips"] = kept.groupby(["group", "video"]).size()
    table["all"] = table[list(SPLITS)].sum(axis=1)
    table = table.reset_index().sort_values(["group", "all", "video"], ascending=[True, False, True])
    videos = [
        VideoSplit(str(row["group"]), str(row["video"]), _of_splits(row), int(row["clips"]))
        for row in table.to_dict("records")
    ]
    test = kept[kept["split"] == "test"]
    return SplitSummary(
        videos=videos,
        seconds=_of_splits(table[list(SPLITS)].sum().to_dict()),
        test_videos=test["video"].nunique(),
        test_shots=test["shot"].nunique(),
        warnings=[line for group in sorted(kept["group"].unique()) for line in _faults(group, table, test)],
    )


def _of_splits(seconds: dict[str, float]) -> tuple[float, float, float]:
    train_s, val_s, test_s = (round(float(seconds[name]), 3) for name in SPLITS)
    return train_s, val_s, test_s


def _faults(group: str, table: pandas.DataFrame, test: pandas.DataFrame) -> list[str]:
    """Sentences about the test split of a group that does not allow a fair verdict."""
    own, judged = table[table["group"] == group], test[test["group"] == group]
    test_s, whole_s = float(own["test"].sum()), float(own["all"].sum())
    if judged.empty:
        return [f"no {group} clip is in test: nothing can be judged on them; add videos"]
    lines = []
    if test_s > _MOST_TEST * whole_s:
        lines.append(
            f"{100 * test_s / whole_s:.0f} % of the seconds of {group} clips are test, more than a third: "
            "little is left to train on; add videos, or lower curate.test_share"
        )
    if judged["video"].nunique() == 1:
        shots = judged["shot"].nunique()
        lines.append(
            f"all {group} clips in test are of one video ({judged['video'].iloc[0]}, {shots} "
            f"{'shot' if shots == 1 else 'shots'}): figures hold for that video alone; add others"
        )
    return lines
