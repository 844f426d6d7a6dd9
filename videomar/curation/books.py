"""The books of ingest: every file is counted, and what is considered is kept or rejected."""

from collections import Counter
from collections.abc import Sequence

from videomar.curation.ledger import ClipRow
from videomar.errors import DataError


def count_candidates(videos: Sequence[str], rows: Sequence[ClipRow]) -> dict[str, float]:
    """What came of the files of a folder, in numbers.

    Args:
        videos: Every file that was listed, as the rows name it.
        rows: What ingest found.

    Returns:
        `videos` = `read` + `unreadable`: files; a duplicate counts as not read.
        `clips_considered` = `clips` + `too_short` (+ `rejected_...`, where ingest has other
            reasons): what curate goes on with.
        `uncaptioned`: of `clips`, those without words.

    Raises:
        DataError: a file has no row, or the sums do not add up.
    """
    lost = sorted(set(videos) ^ {row.video for row in rows})
    if lost:
        raise DataError(
            f"ingest: got {len(lost)} files without a row or rows without a file ({lost[0]!r}), "
            "expected every file among the candidates; this is a bug, please report it"
        )
    found = [row for row in rows if row.clip_id is not None]
    clips = [row for row in found if row.reason is None]
    rejected = Counter(str(row.reason).split(":")[0] for row in found if row.reason is not None)
    figures: dict[str, float] = {
        "videos": len(videos),
        "read": len({row.video for row in found}),
        "unreadable": sum(row.clip_id is None and row.reason is not None for row in rows),
        "clips_considered": len(found),
        "clips": len(clips),
        "too_short": rejected.pop("too_short", 0),
        **{f"rejected_{code}": count for code, count in sorted(rejected.items())},
        "uncaptioned": sum(not row.caption for row in clips),
    }
    if figures["videos"] != figures["read"] + figures["unreadable"]:
        raise DataError(
            f"ingest: got {figures['videos']} files, {figures['read']} read, {figures['unreadable']} not, "
            "expected all = read + not read; this is a bug, please report it"
        )
    return figures
