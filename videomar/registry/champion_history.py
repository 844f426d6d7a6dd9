"""The history of the alias `champion`, kept in MLflow beside the alias, which has none of its own.

MLflow has no transactions, so a move of the alias is three writes, in this order:

    1. tag history.n00000007.5eed    the move itself, by its number; written once and never changed
    2. alias champion                the new version
    3. tag history_settled           the name of the first tag: this move is complete

A process killed after 1 or 2 leaves a history whose last move is not settled. `settled_history` then repeats
2 and 3, which have the same effect twice, before anything else happens. So alias and history agree after the
next use of either.

Moves are numbered, because clocks are set back, and those of two machines differ: `when` is only shown. Two
machines that move the alias at the same moment may use one number twice; the random end then gives the order,
the same for both.

A history that is settled while the alias is elsewhere means that somebody moved the alias with other tools,
as on MLflow's page. Back to an earlier champion is a rollback, which needs no gate. Anything else is recorded
as `found`, and is the champion until the gate judges it (release.py): a move `promote` or `rollback` follows.
Source: mlflow#2169 (aliases and stages keep no record of who moved them).
"""

import contextlib
import json
import platform
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from videomar.tracking.mlflow_store import user_name

if TYPE_CHECKING:
    from mlflow import MlflowClient

MODEL = "videomar"
CHAMPION = "champion"
_PREFIX = "history."
_NUMBERED = f"{_PREFIX}n"
"""Entries of before have a time instead of a number, and digits sort before the letter."""
_SETTLED = "history_settled"
_MORE = "history_more."
_LONGEST = 5000
"""Characters of a registered model's tag in MLflow's tables, and of its description; PostgreSQL refuses more,
SQLite does not."""
_HEADING = "## History of the champion"
_TABLE = "champion_history.json"
"""Artifact of the champion's run, in the form of `mlflow.log_table`."""

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
    """Time of the gate's decision."""
    decision_id: str | None = None
    """Distinguishes several decisions about one version; None in entries of before, which have the time."""
    who: str = field(default_factory=lambda: _who())
    when: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="microseconds"))
    """UTC, ISO 8601."""

    def __str__(self) -> str:
        way = f"{self.before or 'none'} -> {self.after or 'none'}"
        forced = ", forced" if self.forced else ""
        return (
            f"{self.when[:19]}  {self.action}{forced}  {way}  by {self.who}: {self.why or 'no reason given'}"
        )

    @property
    def row(self) -> dict[str, str]:
        """Its row in a table for people."""
        return {
            "when": self.when[:19],
            "move": f"{self.action}{', forced' if self.forced else ''}",
            "from": self.before or "none",
            "to": self.after or "none",
            "by": self.who,
            "why": self.why or "no reason given",
        }


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
    description: str = ""
    """Of the registered model, which shows the history."""

    @property
    def rows(self) -> list[dict[str, str]]:
        """A table of the moves for people, the newest first."""
        return [move.row for move in reversed(self.moves)]

    @property
    def expected(self) -> str | None:
        """Where the alias should be after the last move."""
        return self.moves[-1].after if self.moves else None

    @property
    def is_settled(self) -> bool:
        """Whether the last move is complete."""
        return not self.keys or self.settled == self.keys[-1]

    @property
    def unjudged(self) -> Move | None:
        """The last move, if it was made with other tools and the gate has not judged it."""
        return self.moves[-1] if self.moves and self.moves[-1].action == "found" else None


def read_history(client: "MlflowClient") -> History:
    """Read the history as it is stored; nothing is repaired."""
    from mlflow.exceptions import MlflowException

    try:
        model = client.get_registered_model(MODEL)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return History([], [], None, None)
    keys = sorted(key for key in model.tags if key.startswith(_PREFIX))
    moves = [Move(**json.loads(_entry(model.tags, key))) for key in keys]
    alias = model.aliases.get(CHAMPION)
    settled, where = model.tags.get(_SETTLED), None if alias is None else str(alias)
    return History(moves, keys, settled, where, model.description or "")


def settled_history(client: "MlflowClient") -> History:
    """Complete an interrupted move, record one that was made with other tools, and read the history.

    An alias that has vanished stays so: only a person knows whether its version was deleted by mistake.
    """
    history = read_history(client)
    if history.alias not in (None, history.expected):
        # Tags and alias are not read at once: another process may be moving it.
        history = read_history(client)
    if not history.is_settled:
        return _settle(client, history)
    if history.alias is None or history.alias == history.expected:
        _show(client, history)
        return history
    unjudged = history.unjudged
    before = history.expected if unjudged is None else unjudged.before
    if not history.moves:
        before = _previous_champion(client, history.alias)
    why = "the alias is older than the history" if not history.moves else "moved without videomar"
    action: Action = "rollback" if history.alias in champions(history.moves) else "found"
    return move_champion(client, history, Move(action=action, before=before, after=history.alias, why=why))


def champions(moves: Sequence[Move]) -> list[str]:
    """Versions that a rollback can go back to, the present champion last.

    Promotions push, rollbacks pop: a second rollback goes back one more version, not to the one just left. A
    version that was made champion with other tools, and left before the gate judged it, never was one.
    """
    stack: list[str] = []
    unjudged = False
    for move in moves:
        if move.action == "rollback":
            while stack and stack[-1] != move.after:
                stack.pop()
        if move.action == "found" and unjudged:
            stack.pop()
        unjudged = move.action == "found"
        if not stack:
            stack = [move.before] if move.before is not None and move.action != "rollback" else []
        if move.after is not None and stack[-1:] != [move.after]:
            stack.append(move.after)
    return stack


def move_champion(client: "MlflowClient", history: History, move: Move) -> History:
    """Write a move into a settled history, then set the alias; return the history with it."""
    # The random end keeps apart two processes that have read the same history.
    key = f"{_NUMBERED}{_last_number(history.keys) + 1:08}.{uuid.uuid4().hex[:8]}"
    entry = json.dumps(asdict(move))
    first, *more = (entry[start : start + _LONGEST] for start in range(0, len(entry), _LONGEST))
    for number, part in enumerate(more):
        client.set_registered_model_tag(MODEL, f"{_MORE}{key}.{number:03}", part)
    client.set_registered_model_tag(MODEL, key, first)  # last: where it exists, the entry is complete
    return _settle(client, read_history(client))


def _last_number(keys: Sequence[str]) -> int:
    """Number of the last entry; of one with a time, its place."""
    if not keys or not keys[-1].startswith(_NUMBERED):
        return len(keys)
    return int(keys[-1].removeprefix(_NUMBERED).partition(".")[0])


def _entry(tags: Mapping[str, str], key: str) -> str:
    """Text of an entry, put together from its tags."""
    return tags[key] + "".join(tags[name] for name in sorted(tags) if name.startswith(f"{_MORE}{key}."))


def _settle(client: "MlflowClient", history: History) -> History:
    """Set the alias where the last move went, and mark that move as complete. May be repeated."""
    if history.expected is not None:
        client.set_registered_model_alias(MODEL, CHAMPION, history.expected)
    else:
        client.delete_registered_model_alias(MODEL, CHAMPION)
    client.set_registered_model_tag(MODEL, _SETTLED, history.keys[-1])
    settled = read_history(client)
    _show(client, settled)
    return settled


def _show(client: "MlflowClient", history: History) -> None:
    """Show the history on MLflow's pages: in the model's description, and as a table of the champion's run.

    Only a view, so a store that refuses it, as for a user who may only read, stops nothing.
    """
    text = _described(history)
    if not history.moves or history.description == text:
        return
    with contextlib.suppress(Exception):
        if history.expected is not None:
            _log_table(client, str(client.get_model_version(MODEL, history.expected).run_id), history.rows)
    with contextlib.suppress(Exception):  # last: a description that is up to date ends the work
        client.update_registered_model(MODEL, text)


def _log_table(client: "MlflowClient", run_id: str, rows: Sequence[Mapping[str, str]]) -> None:
    """Replace the table of a run; `MlflowClient.log_table` would add the rows to those that are there."""
    from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS

    table = {"columns": [*rows[0]], "data": [[*row.values()] for row in rows]}
    client.log_dict(run_id, table, _TABLE)
    known = json.loads(client.get_run(run_id).data.tags.get(MLFLOW_LOGGED_ARTIFACTS, "[]"))
    entry = {"path": _TABLE, "type": "table"}
    if entry not in known:
        client.set_tag(run_id, MLFLOW_LOGGED_ARTIFACTS, json.dumps([*known, entry]))


def _described(history: History) -> str:
    """The model's description with its table of moves as it should be; a user's text above it stays."""
    above = history.description.partition(_HEADING)[0].strip()
    lines = [_HEADING, "", "| when | move | from | to | by | why |", "|---|---|---|---|---|---|"]
    left = _LONGEST - len("\n".join([above, "", *lines]))
    for row in history.rows:
        line = f"| {' | '.join(' '.join(cell.split()).replace('|', '/') for cell in row.values())} |"
        left -= len(line) + 1
        if left < 0:
            break
        lines.append(line)
    return "\n".join([*([above, ""] if above else []), *lines])


def _previous_champion(client: "MlflowClient", number: str) -> str | None:
    """The champion that the gate compared a version with."""
    before = client.get_model_version(MODEL, number).tags.get("previous_champion", "none")
    return None if before == "none" else before


def _who() -> str:
    return f"{user_name()}@{platform.node()}"
