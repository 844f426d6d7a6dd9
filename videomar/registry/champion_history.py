"""The history of the alias `champion`, kept in MLflow beside the alias, which has none of its own.

Every move is a tag of the registered model, written once and never changed. It is written before the alias
moves, and a last tag says which move has been carried out: a process that ends between the three leaves a
move that is carried out at the next use, so history and alias never say different things for long.
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
    """`found`: somebody moved the alias without us, which was noticed at `when`."""
    before: str | None
    """Number of the version that was champion; None where there was none."""
    after: str | None
    why: str
    forced: bool = False
    """Whether it went against the gate."""
    figures: Sequence[Mapping[str, Any]] = ()
    """The gate's numbers."""
    decided_at: str | None = None
    """When the gate decided; tells one decision about a version from the next."""
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
    """All moves, the oldest first, and where the alias is."""

    moves: Sequence[Move]
    keys: Sequence[str]
    """Names of the moves' tags."""
    settled: str | None
    """Name of the last move that was carried out."""
    alias: str | None
    """Number of the version that the alias names."""

    @property
    def expected(self) -> str | None:
        """Where the alias should be after the last move."""
        return self.moves[-1].after if self.moves else None

    @property
    def is_settled(self) -> bool:
        """Whether the last move was carried out."""
        return not self.keys or self.settled == self.keys[-1]


def read_history(client: "MlflowClient") -> History:
    """The history as it is stored; nothing is mended."""
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
    """The history after a broken-off move has been carried out and a foreign one has been noted.

    An alias that has vanished is left so: whether its version was deleted by mistake is for a person to say.
    """
    history = read_history(client)
    if not history.is_settled:
        _carry_out(client, history.keys[-1], history.expected)
        return read_history(client)
    if history.alias is None or history.alias == history.expected:
        return history
    before = history.expected if history.moves else _told_before(client, history.alias)
    why = "the alias was there before the history" if not history.moves else "moved without videomar"
    _append(client, Move(action="found", before=before, after=history.alias, why=why))
    return read_history(client)


def move_champion(client: "MlflowClient", move: Move) -> None:
    """Note a move, then carry it out."""
    settled_history(client)
    _append(client, move)


def champions(moves: Sequence[Move]) -> list[str]:
    """Versions that a rollback can go back to, the present champion last: a rollback undoes a promotion."""
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


def _append(client: "MlflowClient", move: Move) -> None:
    # Its time puts it in order; the random end keeps two processes from writing over one another.
    key = f"{_PREFIX}{move.when.removesuffix('+00:00')}.{uuid.uuid4().hex[:8]}"
    entry = json.dumps(asdict(move))
    first, *more = (entry[start : start + _LONGEST] for start in range(0, len(entry), _LONGEST))
    for number, part in enumerate(more):
        client.set_registered_model_tag(MODEL, f"{_MORE}{key}.{number:03}", part)
    client.set_registered_model_tag(MODEL, key, first)  # the last, so that no entry is ever a part of one
    _carry_out(client, key, move.after)


def _entry(tags: Mapping[str, str], key: str) -> str:
    """The entry with what did not fit into its first tag."""
    return tags[key] + "".join(tags[name] for name in sorted(tags) if name.startswith(f"{_MORE}{key}."))


def _carry_out(client: "MlflowClient", key: str, after: str | None) -> None:
    if after is not None:
        client.set_registered_model_alias(MODEL, CHAMPION, after)
    else:
        client.delete_registered_model_alias(MODEL, CHAMPION)
    client.set_registered_model_tag(MODEL, _SETTLED, key)


def _told_before(client: "MlflowClient", number: str) -> str | None:
    """The champion before, as the gate's decision about a version tells it."""
    before = client.get_model_version(MODEL, number).tags.get("previous_champion", "none")
    return None if before == "none" else before


def _who() -> str:
    try:
        name = getpass.getuser()
    except (OSError, KeyError):  # no such user: a container that runs under a bare number
        name = "unknown"
    return f"{name}@{platform.node()}"
