"""Moves of the alias `champion`: forward by the gate's decision, back by a rollback."""

from videomar.errors import VideomarError
from videomar.registry.champion_history import History, Move, champions, move_champion, settled_history
from videomar.registry.versions import Version, require_run, version_of
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
        raise VideomarError(f"{version}: got no decision, expected the gate's; run `python -m flows.release`")
    client, decided_at = open_client(), version.tags.get("decided_at")
    history = settled_history(client)
    applied = any((move.after, move.decided_at) == (version.number, decided_at) for move in history.moves)
    if decision["promote"] and not applied and history.expected != version.number:
        move = Move(
            action="promote",
            before=history.expected,
            after=version.number,
            why=forced_because or " ".join(decision["reasons"]),
            forced=bool(forced_because),
            figures=decision["figures"],
            decided_at=decided_at,
        )
        move_champion(client, move)


def alias_history() -> History:
    """Every move of the alias `champion`, the oldest first."""
    return settled_history(open_client())


def roll_back(why: str) -> list[str]:
    """Move the alias back to the newest earlier champion that still exists.

    If champion and alias are gone and there is no earlier one, the history ends with no champion.

    Returns:
        Lines for the user.

    Raises:
        VideomarError: there is no champion, or none before it.
    """
    client = open_client()
    history = settled_history(client)
    if history.expected is None:
        raise VideomarError("rollback: got no champion, expected one to go back from; see `videomar history`")
    *earlier, current = champions(history.moves)
    lines = []
    for number in reversed(earlier):
        try:
            after: str | None = require_run(version_of(number)).number
            break
        except VideomarError as error:
            lines.append(f"passed over: {error}")
    else:
        after = None
    if after is None and history.alias is not None:
        passed = f" ({'; '.join(lines)})" if lines else ""
        raise VideomarError(
            f"rollback: got version {current} as the first champion{passed}, expected one before it; "
            "promote another with `videomar promote NUMBER`"
        )
    move_champion(client, Move(action="rollback", before=current, after=after, why=why))
    return [*lines, f"champion: {version_of(after) if after is not None else 'none'} (was version {current})"]
