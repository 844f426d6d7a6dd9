"""What evaluation.json tells of a run of the suite: what it left out, its time, its fingerprint."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videomar.errors import DataError
from videomar.evaluation.fingerprint import recorded_in, what_forbids

_PHASES = {"sampling": "model", "metrics": "tokenizer", "io": "repeat"}


@dataclass(frozen=True, slots=True)
class Phase:
    """One part of the suite's time, percent of all."""

    name: str
    look: str
    seconds: float
    share: float


def read_facts(path: Path) -> dict[str, Any]:
    """The file's content; nothing if it is not there.

    Raises:
        DataError: the file is damaged.
    """
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{path}: got {error}, expected the suite's facts; run `dvc repro evaluate`"
        ) from None


def phases_of(facts: Mapping[str, Any]) -> list[Phase]:
    """Seconds of sampling, metrics and IO, with their shares."""
    seconds = {
        name: float(facts["seconds"][name])
        for name in _PHASES
        if (facts.get("seconds") or {}).get(name) is not None
    }
    whole = sum(seconds.values()) or 1.0
    return [Phase(name, _PHASES[name], value, 100 * value / whole) for name, value in seconds.items()]


def skipped_lines(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was left out, and why."""
    skipped = facts.get("skipped", {}).items()
    return [(key.replace("_", " "), str(reason).removeprefix(f"{key}: ")) for key, reason in skipped]


def fingerprint_lines(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Every key of the fingerprint as text, mappings by `key.part`."""
    lines: list[tuple[str, str]] = []
    for key, value in facts.get("fingerprint", {}).items():
        parts = value.items() if isinstance(value, Mapping) else [("", value)]
        lines += [(f"{key}.{part}" if part else key, _text(of_part)) for part, of_part in parts]
    return lines


def unlike(facts: Mapping[str, Any], others: Mapping[str, Any]) -> list[str]:
    """What makes two runs of the suite incomparable, in words; nothing where either has no fingerprint.

    A fingerprint of other keys, as another version of this code may have made, is a reason too.
    """
    if "fingerprint" not in facts or "fingerprint" not in others:
        return []
    try:
        mine, theirs = recorded_in(facts), recorded_in(others)
    except DataError as error:
        return [str(error)]
    return what_forbids(mine, theirs) if mine is not None and theirs is not None else []


def _text(value: object) -> str:
    """A value for one line: hashes by their first digits."""
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text
