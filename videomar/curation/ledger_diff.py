"""Two ledgers compared: which clips one policy keeps and the other does not, without decoding a frame."""

from dataclasses import dataclass
from pathlib import Path

import pandas

from videomar.config import load_params
from videomar.curation.curate import judge_all
from videomar.curation.ledger import read_candidates, read_ledger
from videomar.curation.takedowns import read_takedowns


@dataclass(frozen=True, slots=True)
class Changes:
    """Changes from one ledger to another, in clips; reasons are codes without details."""

    kept_before: int
    kept_after: int
    newly_kept: dict[str, int]
    """By the reason of their former rejection."""
    newly_rejected: dict[str, int]
    """By the reason of their rejection."""
    other_reason: dict[str, int]
    """Rejected in both, `one -> other`."""
    split_moves: dict[str, int]
    """Kept in both, `one -> other`."""
    appeared: int
    """Rows that only the other ledger has."""
    disappeared: int


def compare_ledgers(before: pandas.DataFrame, after: pandas.DataFrame) -> Changes:
    """Count the changes from one ledger to the other. Pure."""
    both = _by_clip(before).join(_by_clip(after), how="inner", lsuffix="_before", rsuffix="_after")
    was, now = both["kept_before"].astype(bool), both["kept_after"].astype(bool)
    moved, reworded = (
        both[name + "_before"].astype(str) + " -> " + both[name + "_after"].astype(str)
        for name in ("split", "code")
    )
    return Changes(
        kept_before=int(before["kept"].sum()),
        kept_after=int(after["kept"].sum()),
        newly_kept=_counts(both.loc[~was & now, "code_before"]),
        newly_rejected=_counts(both.loc[was & ~now, "code_after"]),
        other_reason=_counts(reworded[~was & ~now & (both["code_before"] != both["code_after"])]),
        split_moves=_counts(moved[was & now & (both["split_before"] != both["split_after"])]),
        appeared=len(after) - len(both),
        disappeared=len(before) - len(both),
    )


def read_policy(other: Path, candidates: Path, takedowns: Path) -> pandas.DataFrame:
    """Return the ledger in a .parquet file, or the one that section `curate` of a .yaml file would make.

    Raises:
        DataError: a table is missing, or not one of ours.
        ParamsError: the parameters are missing or wrong.
    """
    if other.suffix.lower() not in (".yaml", ".yml"):
        return read_ledger(other, thumbnails=False)
    params = load_params(other).curate
    return judge_all(read_candidates(candidates), params, read_takedowns(takedowns))


def _by_clip(ledger: pandas.DataFrame) -> pandas.DataFrame:
    """Verdicts by clip, or by file where a file has no clips."""
    code = ledger["reason"].astype(object).str.split(":").str[0]
    name = ledger["clip_id"].where(ledger["clip_id"].notna(), "file " + ledger["video"].astype(object))
    return ledger[["kept", "split"]].assign(code=code).set_index(name.astype(object))


def _counts(labels: pandas.Series) -> dict[str, int]:
    """How often each label occurs, the commonest first."""
    return {str(label): int(count) for label, count in labels.value_counts().items()}
