"""What new clips changed: the candidate against the champion, apart on clips of new and of old videos.

A mean over all held-out clips hides it: a model that has learnt new videos and forgotten old ones may have
the same mean as before. A video is new if neither the champion nor a model that it started from was made from
it, and old otherwise. Clips that the champion was trained on count for neither: it would look too good there.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import pandas as pd

from videomar.report.compare import compare_with_champion
from videomar.report.score_table import number_of

_TRAIN, _JUDGED = "train", "psnr"


@dataclass(frozen=True, slots=True)
class ClipsSince:
    """The kept clips of the candidate, and of the champion that it met; tables as the registry keeps them."""

    own: pd.DataFrame
    """`clip_id`, `video_sha256` and `split` of the candidate's."""
    before: pd.DataFrame
    """The same of the champion's, and of those of the models that it started from."""
    seen: Collection[str]
    """Ids of the candidate's held-out clips that one of these models was trained on."""

    @property
    def old_videos(self) -> set[str]:
        """sha256 of each video that the champion's side was made from."""
        return set(self.before["video_sha256"].dropna())

    def apart(self) -> dict[str, set[str]]:
        """Ids of the candidate's kept clips by what they are of: `new videos`, `old videos`."""
        own = self.own[~self.own["clip_id"].isin(list(self.seen))]
        is_old = own["video_sha256"].isin(self.old_videos)
        return {"new videos": set(own.loc[~is_old, "clip_id"]), "old videos": set(own.loc[is_old, "clip_id"])}


@dataclass(frozen=True, slots=True)
class NewClips:
    """What the report's section shows."""

    lines: list[str]
    """What is new, and what it changed, in words: one about the clips, and one for each task."""
    parts: list[dict[str, Any]]
    """For new and for old videos: `name`, and `comparisons` as `compare_with_champion` makes them."""


def changed_by_new_clips(
    since: ClipsSince | None, scores: pd.DataFrame, champion: pd.DataFrame
) -> NewClips | None:
    """Compare both models on clips of new and of old videos; None if there is no new video.

    Args:
        since: Both models' clips; None = the champion's are not known.
        scores: Long table of the candidate, see `long_table`.
        champion: The same of the champion on the same truth; empty if the two cannot be compared.
    """
    if since is None or set(since.own["video_sha256"].dropna()) <= since.old_videos:
        return None
    parts = []
    for name, clips in since.apart().items():
        ours, theirs = (table[table["clip_id"].isin(clips)] for table in (scores, champion))
        compared = compare_with_champion(ours, theirs) if len(ours) and len(theirs) else []
        parts.append({"name": name, "comparisons": compared})
    return NewClips([_what_is_new(since, scores), *_what_changed(parts)], parts)


def _what_is_new(since: ClipsSince, scores: pd.DataFrame) -> str:
    """Counts of the new videos and of their clips, and of the videos that are gone."""
    own = since.own[~since.own["video_sha256"].isin(since.old_videos)]
    videos, judged = own["video_sha256"].nunique(), own["clip_id"].isin(scores["clip_id"]).sum()
    gone = len(since.old_videos - set(since.own["video_sha256"]))
    trained = int((own["split"] == _TRAIN).sum())
    text = f"{number_of(videos, 'new video')}: {number_of(trained, 'clip')} to train on, {judged} judged."
    return f"{text} {number_of(gone, 'video')} of the champion no longer there." if gone else text


def _what_changed(parts: list[dict[str, Any]]) -> list[str]:
    """For each task the difference to the champion, on clips of new and of old videos."""
    by_task: dict[str, list[str]] = {}
    for part in parts:
        for comparison in part["comparisons"]:
            for row in comparison["rows"]:
                if row["metric"].key == _JUDGED:
                    found = f"{part['name']} {row['value']} {row['unit']} ({row['interval']}, {row['count']})"
                    by_task.setdefault(comparison["title"], []).append(found)
    if not by_task:
        return ["No clip was judged for both models under the same conditions."]
    return [f"{title}, PSNR over the champion: {'; '.join(found)}." for title, found in by_task.items()]
