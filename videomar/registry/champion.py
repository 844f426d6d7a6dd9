"""Moves of the alias `champion`: forward by the gate's decision, back by a rollback."""

from videomar.errors import VideomarError
from videomar.registry.champion_history import History, Move, move_champion, settled_history
from videomar.registry.versions import Version, earlier_champion
from videomar.tracking.mlflow_store import open_client


def apply_decision(version: Version, forced_because: str = "") -> None:
    """Move the alias `champion` to a version if the gate's recorded decision allows it.

    A decision is applied once: after a rollback, a repeated release does not promote the version again.

    Args:
        version: One with a decision.
        forced_because: Why it was promoted against the gate; empty if the gate allowed it.

    Raises:
        VideomarError: the version has no decision.
    """
    decision = version.decision
    if decision is None:
        raise VideomarError(f"{version}: got no decision, expected the gate's; run `videomar release`")
    history = settled_history(client := open_client())
    before, found = history.expected, history.unjudged
    if not decision["promote"] or was_applied(version, history):
        return
    if before == version.number:
        # The alias is there already: only a move with other tools needs its decision.
        if found is None:
            return
        before = found.before
    move = Move(
        action="promote",
        before=before,
        after=version.number,
        why=forced_because or " ".join(decision["reasons"]),
        forced=bool(forced_because),
        figures=decision["figures"],
        decided_at=version.tags.get("decided_at"),
        decision_id=decision.get("id"),
    )
    move_champion(client, history, move)


def was_applied(version: Version, history: History) -> bool:
    """Whether the gate's last decision about a version has moved the alias."""
    decision = version.decision or {}
    own = [move for move in history.moves if move.after == version.number and move.action == "promote"]
    if "id" in decision:
        return any(move.decision_id == decision["id"] for move in own)
    return any(move.decided_at == version.tags.get("decided_at") for move in own)


def alias_history() -> History:
    """Every move of the alias `champion`, the oldest first."""
    return settled_history(open_client())


def roll_back(why: str, undo: bool = False) -> list[str]:
    """Move the alias back to the newest earlier champion that still exists.

    If champion and alias are gone and there is no earlier one, the history ends with no champion.

    Args:
        why: Stored in the history.
        undo: Whether the first champion can go, too, which leaves none.

    Returns:
        Lines for the user.

    Raises:
        VideomarError: there is no champion, or none before it.
    """
    client = open_client()
    history = settled_history(client)
    if history.expected is None:
        raise VideomarError("rollback: got no champion, expected one to go back from; see `videomar history`")
    current, (earlier, lines) = history.expected, earlier_champion(history)
    if earlier is None and history.alias is not None and not undo:
        passed = f" ({'; '.join(lines)})" if lines else ""
        raise VideomarError(
            f"rollback: got version {current} as the first champion{passed}, expected one before it; "
            "promote another with `videomar promote NUMBER`"
        )
    after = None if earlier is None else earlier.number
    move_champion(client, history, Move(action="rollback", before=current, after=after, why=why))
    return [*lines, f"champion: {earlier or 'none'} (was version {current})"]
