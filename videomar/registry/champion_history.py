"""The history of the alias `champion`, kept in MLflow beside the alias, which has none of its own.

MLflow has no transactions, so a move of the alias is three writes, in this order:

    1. tag history.TIME.RANDOM   the move itself; written once and never changed
    2. alias champion            the new version
    3. tag history_settled       the name of the first tag: this move is complete

A process killed after 1 or 2 leaves a history whose last move is not settled. `settled_history` then repeats
2 and 3, which have the same effect twice, before anything else happens. So alias and history agree after the
next use of either. A history that is settled while the alias is elsewhere means that somebody moved the alias
with other tools, which is recorded as a move `found`.
Source: mlflow#2169 (aliases and stages keep no record of who moved them).
"""

import getpass
import json
import platform
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from mlflow import MlflowClient

MODEL = "videomar"
CHAMPION = "champion"
_PREFIX = "history."
_SETTLED = "history_settled"
_MORE = "history_more."
_LONGEST = 5000
"""Characters of a registered model's tag in MLflow's tables; PostgreSQL refuses more, SQLite does not."""

Action = Literal["promote", "rollback", "found"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Move:
    """One change of the alias `champion`."""

    action: Action
    """`found`: somebody moved the alias with other tools, which was noticed at `when`."""
    before: str | None
    """Number of the version that was champion; None if there was none."""
    after: str | None
    why: str
    forced: bool = False
    """Whether it went against the gate."""
    figures: Sequence[Mapping[str, Any]] = ()
    """The gate's numbers."""
    decided_at: str | None = None
    """Time of the gate's decision: distinguishes several decisions about one version."""
    who: str = field(default_factory=lambda: _who())
    when: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="microseconds"))
    """UTC, ISO 8601."""

    def __str__(self) -> str:
        way = f"{self.before or 'none'} -> {self.after or 'none'}"
        forced = ", forced" if self.forced else ""
        return (
            f"{self.when[:19]}  {self.action}{forced}  {way}  by {self.who}: {self.why or 'no reason given'}"
        )


@dataclass(frozen=True, slots=True)
class History:
    """All moves, the oldest first, and the present alias."""

    moves: Sequence[Move]
    keys: Sequence[str]
    """Names of the moves' tags."""
    settled: str | None
    """Name of the last move that is complete."""
    alias: str | None
    """Number of the version that the alias names."""

    @property
    def expected(self) -> str | None:
        """Where the alias should be after the last move."""
        return self.moves[-1].after if self.moves else None

    @property
    def is_settled(self) -> bool:
        """Whether the last move is complete."""
        return not self.keys or self.settled == self.keys[-1]


def read_history(client: "MlflowClient") -> History:
    """Read the history as it is stored; nothing is repaired."""
    from mlflow.exceptions import MlflowException

    try:
        model = client.get_registered_model(MODEL)
    except MlflowException:
        return History([], [], None, None)
    keys = sorted(key for key in model.tags if key.startswith(_PREFIX))
    moves = [Move(**json.loads(_entry(model.tags, key))) for key in keys]
    alias = model.aliases.get(CHAMPION)
    return History(moves, keys, model.tags.get(_SETTLED), None if alias is None else str(alias))


def settled_history(client: "MlflowClient") -> History:
    """Complete an interrupted move, record one that was made with other tools, and read the history.

    An alias that has vanished stays so: only a person knows whether its version was deleted by mistake.
    """
    history = read_history(client)
    if not history.is_settled:
        _set_alias(client, history.keys[-1], history.expected)
        return read_history(client)
    if history.alias is None or history.alias == history.expected:
        return history
    before = history.expected if history.moves else _previous_champion(client, history.alias)
    why = "the alias is older than the history" if not history.moves else "moved without videomar"
    move_champion(client, Move(action="found", before=before, after=history.alias, why=why))
    return read_history(client)


def champions(moves: Sequence[Move]) -> list[str]:
    """Versions that a rollback can go back to, the present champion last.

    Promotions push, rollbacks pop: a second rollback goes back one more version, not to the one just left.
    """
    stack: list[str] = []
    for move in moves:
        if move.action == "rollback":
            while stack and stack[-1] != move.after:
                stack.pop()
        if not stack:
            stack = [move.before] if move.before is not None and move.action != "rollback" else []
        if move.after is not None and stack[-1:] != [move.after]:
            stack.append(move.after)
    return stack


def move_champion(client: "MlflowClient", move: Move) -> None:
    """Write a move into a settled history, then set the alias."""
    # Tags are sorted by name, so the time gives the order; the random end keeps two processes apart.
    key = f"{_PREFIX}{move.when.removesuffix('+00:00')}.{uuid.uuid4().hex[:8]}"
    entry = json.dumps(asdict(move))
    first, *more = (entry[start : start + _LONGEST] for start in range(0, len(entry), _LONGEST))
    for number, part in enumerate(more):
        client.set_registered_model_tag(MODEL, f"{_MORE}{key}.{number:03}", part)
    client.set_registered_model_tag(MODEL, key, first)  # last: where it exists, the entry is complete
    _set_alias(client, key, move.after)


def _entry(tags: Mapping[str, str], key: str) -> str:
    """Text of an entry, put together from its tags."""
    return tags[key] + "".join(tags[name] for name in sorted(tags) if name.startswith(f"{_MORE}{key}."))


def _set_alias(client: "MlflowClient", key: str, after: str | None) -> None:
    """Set the alias and mark the move with this key as complete. May be repeated."""
    if after is not None:
        client.set_registered_model_alias(MODEL, CHAMPION, after)
    else:
        client.delete_registered_model_alias(MODEL, CHAMPION)
    client.set_registered_model_tag(MODEL, _SETTLED, key)


def _previous_champion(client: "MlflowClient", number: str) -> str | None:
    """The champion that the gate compared a version with."""
    before = client.get_model_version(MODEL, number).tags.get("previous_champion", "none")
    return None if before == "none" else before


def _who() -> str:
    try:
        name = getpass.getuser()
    except (OSError, KeyError):  # no such user: a container that runs under a bare number
        name = "unknown"
    return f"{name}@{platform.node()}"
