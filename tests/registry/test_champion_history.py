import itertools
import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR

from flows.watch import unjudged_champion
from videomar.errors import VideomarError
from videomar.registry import champion as alias
from videomar.registry import champion_history as history
from videomar.registry import versions as registry
from videomar.registry.champion_history import MODEL, Move, champions, read_history, settled_history
from videomar.registry.versions import champion, record_decision, version_of
from videomar.tracking.mlflow_store import experiment_id, open_client

YES = {"promote": True, "reasons": ["better"], "figures": [{"name": "gain", "value": 1.0}]}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for the module: making its tables takes seconds."""
    return tmp_path_factory.mktemp("history")


@pytest.fixture
def client(store: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """A registry with three versions that nobody has promoted."""
    monkeypatch.chdir(store)
    client = open_client()
    if client.search_registered_models():
        client.delete_registered_model(MODEL)
    client.create_registered_model(MODEL)
    for _ in range(3):
        run = client.create_run(experiment_id(client))
        client.create_model_version(MODEL, "nowhere", run.info.run_id)
    return client


def test_registry_that_cannot_be_asked_is_not_taken_for_an_empty_one(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.delete_registered_model(MODEL)
    assert read_history(client).alias is None, "there is none"

    def fail(_: str) -> None:
        raise MlflowException("the database is away", error_code=INTERNAL_ERROR)

    monkeypatch.setattr(client, "get_registered_model", fail)
    with pytest.raises(MlflowException, match="the database is away"):
        read_history(client)


def promote(number: str, forced_because: str = "") -> None:
    alias.apply_decision(record_decision(version_of(number), YES), forced_because)


def moves() -> list[tuple[str, str | None, str | None]]:
    return [(move.action, move.before, move.after) for move in alias.alias_history().moves]


def test_history_tells_who_when_why_from_where_to_where_and_the_numbers(client: MlflowClient) -> None:
    promote("1")
    promote("2", "the boss wants it")
    first, second = alias.alias_history().moves
    assert (first.before, first.after, first.why, first.forced) == (None, "1", "better", False)
    assert (second.before, second.after, second.why, second.forced) == ("1", "2", "the boss wants it", True)
    assert second.figures == YES["figures"]
    assert first.when < second.when
    assert "@" in first.who
    best = champion()
    assert best is not None
    assert best.number == "2"


def test_decision_is_carried_out_once_even_if_it_was_rolled_back(client: MlflowClient) -> None:
    promote("1")
    decided = record_decision(version_of("2"), YES)
    alias.apply_decision(decided)
    alias.apply_decision(decided)
    alias.roll_back("it flickers")
    alias.apply_decision(decided)
    assert moves() == [("promote", None, "1"), ("promote", "1", "2"), ("rollback", "2", "1")]


def test_rollbacks_go_back_step_by_step_and_no_further(client: MlflowClient) -> None:
    for number in "123":
        promote(number)
    assert alias.roll_back("a")[-1].startswith("champion: videomar version 2")
    assert alias.roll_back("b")[-1].startswith("champion: videomar version 1")
    with pytest.raises(VideomarError, match="version 1 as the first champion, expected one before it"):
        alias.roll_back("c")
    assert [move.why for move in alias.alias_history().moves][-2:] == ["a", "b"]


def test_rollback_without_a_champion_is_refused(client: MlflowClient) -> None:
    with pytest.raises(VideomarError, match="got no champion"):
        alias.roll_back("")


class Clock:
    """The wall clock of a machine: set to any time, and standing still until it is set again."""

    def __init__(self) -> None:
        self.time = datetime(2026, 11, 30, 12, tzinfo=UTC)

    def now(self, zone: object) -> datetime:
        return self.time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (history, registry):
        monkeypatch.setattr(module, "datetime", clock)
    return clock


def test_clock_that_goes_back_changes_no_order(client: MlflowClient, clock: Clock) -> None:
    for number in "123":
        promote(number)
        clock.time -= timedelta(minutes=1)
        best = champion()
        assert best is not None
        assert best.number == number
    alias.roll_back("too dark")
    assert moves() == [
        ("promote", None, "1"),
        ("promote", "1", "2"),
        ("promote", "2", "3"),
        ("rollback", "3", "2"),
    ]
    assert read_history(client).alias == "2"


def test_moves_of_machines_with_skewed_clocks_keep_their_order(client: MlflowClient, clock: Clock) -> None:
    behind, ahead = clock.time - timedelta(hours=1), clock.time + timedelta(hours=1)
    for number, clock.time in zip("1231", (ahead, behind, ahead, behind), strict=True):
        promote(number)
    assert [after for _, _, after in moves()] == ["1", "2", "3", "1"]
    assert read_history(client).alias == "1"


def test_entries_that_were_ordered_by_time_come_before_numbered_ones(
    client: MlflowClient, clock: Clock
) -> None:
    old = Move(action="promote", before=None, after="1", why="better")
    entry = json.dumps({**vars_of(old), "when": "2031-01-01T00:00:00.000000+00:00"})
    key = "history.2031-01-01T00:00:00.000000.01234567"
    client.set_registered_model_tag(MODEL, key, entry)
    client.set_registered_model_alias(MODEL, "champion", "1")
    client.set_registered_model_tag(MODEL, "history_settled", key)
    promote("2")
    assert moves() == [("promote", None, "1"), ("promote", "1", "2")]
    assert read_history(client).alias == "2"


def vars_of(move: Move) -> dict[str, object]:
    """Fields of an entry as it was written before decisions had ids."""
    return {name: value for name, value in asdict(move).items() if name != "decision_id"}


def test_two_decisions_in_the_same_second_are_two(client: MlflowClient, clock: Clock) -> None:
    promote("1")
    promote("2")
    alias.roll_back("it flickers")
    promote("2")
    assert moves()[-1] == ("promote", "1", "2")


def test_moves_at_the_same_moment_leave_one_champion(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another machine moves the alias between our look at the history and our entry."""
    promote("1")
    ours, theirs = (record_decision(version_of(number), YES) for number in "23")
    look, looks = alias.settled_history, itertools.count()

    def overtaken(client: MlflowClient) -> history.History:
        found = look(client)
        if next(looks) == 0:
            alias.apply_decision(theirs)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(alias, "settled_history", overtaken)
        alias.apply_decision(ours)
    stored = read_history(client)
    assert stored.is_settled
    assert stored.alias == stored.expected
    assert {(move.before, move.after) for move in stored.moves[1:]} == {("1", "2"), ("1", "3")}


@pytest.mark.parametrize("broken_call", [1, 2, 3])
def test_move_that_was_killed_half_way_is_whole_at_the_next_use(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch, broken_call: int
) -> None:
    promote("1")
    with monkeypatch.context() as patch:
        die_at(broken_call, patch)
        with pytest.raises(KeyboardInterrupt):
            promote("2")
    best = champion()
    assert best is not None
    after = "1" if broken_call == 1 else "2"
    assert best.number == after
    stored = read_history(client)
    assert (stored.alias, stored.expected, stored.is_settled) == (after, after, True)
    assert len(stored.moves) == (1 if broken_call == 1 else 2)


def die_at(number: int, patch: pytest.MonkeyPatch) -> None:
    """The n-th call that writes the model's tags or alias ends the process, as far as a test can."""
    calls = itertools.count(1)

    def mortal(write: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: object) -> None:
            if next(calls) == number:
                raise KeyboardInterrupt
            write(*arguments)

        return call

    for name in ("set_registered_model_tag", "set_registered_model_alias"):
        patch.setattr(MlflowClient, name, mortal(getattr(MlflowClient, name)))


def test_alias_that_was_moved_by_hand_is_noted_and_can_be_rolled_back(client: MlflowClient) -> None:
    promote("1")
    client.set_registered_model_alias(MODEL, "champion", "3")
    assert moves()[-1] == ("found", "1", "3")
    alias.roll_back("")
    assert moves()[-1] == ("rollback", "3", "1")


def test_watch_of_make_up_sees_a_move_by_hand_until_it_is_judged(
    client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert unjudged_champion() is None
    promote("1")
    assert unjudged_champion() is None
    client.set_registered_model_alias(MODEL, "champion", "3")
    key = unjudged_champion()
    assert key == read_history(client).keys[-1]
    assert unjudged_champion() == key  # one run for one move, however often it is seen
    promote("3")
    assert moves()[-1] == ("promote", "1", "3")
    assert unjudged_champion() is None
    client.set_registered_model_alias(MODEL, "champion", "1")  # an earlier champion
    assert unjudged_champion() is None
    assert moves()[-1] == ("rollback", "3", "1")
    monkeypatch.chdir(tmp_path)
    assert unjudged_champion() is None
    assert not any(tmp_path.iterdir())  # to look makes no store


def test_version_that_was_left_before_it_was_judged_never_was_champion(client: MlflowClient) -> None:
    promote("1")
    for number in "23":
        client.set_registered_model_alias(MODEL, "champion", number)
        assert moves()[-1] == ("found", "1", number)
    alias.roll_back("")
    assert moves()[-1] == ("rollback", "3", "1")


def test_champion_from_before_the_history_can_be_rolled_back(client: MlflowClient) -> None:
    client.set_model_version_tag(MODEL, "2", "previous_champion", "1")
    client.set_registered_model_alias(MODEL, "champion", "2")
    assert moves() == [("found", "1", "2")]
    alias.roll_back("")
    assert moves()[-1] == ("rollback", "2", "1")


def test_deleted_version_behind_the_alias_is_refused_and_rollback_mends_it(client: MlflowClient) -> None:
    promote("1")
    promote("2")
    client.delete_model_version(MODEL, "2")
    with pytest.raises(VideomarError, match="expected version 2, which was deleted.*`videomar rollback`"):
        champion()
    assert alias.roll_back("")[-1] == "champion: videomar version 1 (checkpoint step unknown) (was version 2)"
    client.delete_model_version(MODEL, "1")
    assert alias.roll_back("") == ["champion: none (was version 1)"]
    assert champion() is None


def test_deleted_run_behind_the_alias_is_refused_and_rollback_passes_it_over(client: MlflowClient) -> None:
    for number in "123":
        promote(number)
    for number in "23":
        client.delete_run(version_of(number).run_id)
    with pytest.raises(VideomarError, match="version 3 .*: got a deleted run"):
        registry.find_model("champion")
    passed_over, now = alias.roll_back("")
    assert passed_over.startswith("passed over: videomar version 2")
    assert now.startswith("champion: videomar version 1")


def test_history_is_append_only(client: MlflowClient) -> None:
    promote("1")
    before = {key: value for key, value in client.get_registered_model(MODEL).tags.items() if "." in key}
    promote("2")
    alias.roll_back("")
    settled_history(client)
    after = client.get_registered_model(MODEL).tags
    assert before.items() <= after.items()
    assert json.loads(next(iter(before.values())))["after"] == "1"


@pytest.mark.parametrize(
    ("moved", "expected"),
    [
        ("", []),
        ("p1", ["1"]),
        ("p1 p2", ["1", "2"]),
        ("p1 p2 r1", ["1"]),
        ("p1 p2 r1 p3", ["1", "3"]),
        ("p1 p2 p3 r1", ["1"]),
        ("p1 p1", ["1"]),
        ("p1 f2 p2 f3", ["1", "2", "3"]),
        ("p1 f2 f3", ["1", "3"]),
        ("p1 f2 f3 r1", ["1"]),
    ],
)
def test_champions_are_undone_like_a_stack(moved: str, expected: list[str]) -> None:
    actions: dict[str, history.Action] = {"p": "promote", "r": "rollback", "f": "found"}
    told = [Move(action=actions[word[0]], before=None, after=word[1:], why="") for word in moved.split()]
    assert champions(told) == expected
