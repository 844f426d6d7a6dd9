"""What a registry says, looked at from outside between two runs: champion, alias, history, versions."""

import os
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from videomar.registry.candidate import input_example
from videomar.registry.champion_history import History, read_history
from videomar.registry.versions import all_versions
from videomar.tracking.mlflow_store import open_client


@dataclass(frozen=True, slots=True)
class Registry:
    """One look."""

    history: History
    champion_works: bool
    """Whether the champion was loaded and made a clip."""
    decided: dict[str, bool]
    """What the gate decided, by version."""
    locks: list[str]
    """dvc.lock of each version."""

    @property
    def alias(self) -> str | None:
        """Number of the version that is champion."""
        return self.history.alias


def look(folder: Path) -> Registry:
    """Read the registry of a checkout and repair nothing; load its champion and make a clip with it."""
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / '.local/mlflow.db'}"
    history, versions = read_history(open_client()), all_versions()
    return Registry(
        history=history,
        champion_works=history.alias is None or makes_a_clip(history.alias),
        decided={version.number: version.decision["promote"] for version in versions if version.decision},
        locks=[version.tags["lock_sha256"] for version in versions],
    )


def makes_a_clip(number: str) -> bool:
    """Whether MLflow loads a version and it animates a picture."""
    import mlflow

    model = mlflow.pyfunc.load_model(f"models:/videomar/{number}")
    return len(model.predict(input_example())["video"][0]) > 100


def broken_rules(before: Registry, struck: Registry, after: Registry) -> list[str]:
    """What must hold and does not: before a round, right after the kill, and after the next schedule."""
    newest = max(after.decided, key=int)
    promoted = after.decided[newest]
    moves = after.history.moves
    rules = {
        "after the kill the alias is where it was or where it goes": struck.alias in (before.alias, newest),
        "the round has a version with a decision": newest not in before.decided,
        "the alias follows the decision": after.alias == (newest if promoted else before.alias),
        "the last move is carried out": after.history.is_settled and after.history.expected == after.alias,
        "no move is lost": list(moves[: len(before.history.moves)]) == list(before.history.moves),
        "one entry for one move": len(moves) - len(before.history.moves) == promoted,
        "each move starts where the last ended": all(one.after == two.before for one, two in pairwise(moves)),
        "one version for one state of the pipeline": max(Counter(after.locks).values()) == 1,
    }
    return [rule for rule, holds in rules.items() if not holds]
