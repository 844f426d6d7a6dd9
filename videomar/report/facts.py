"""What evaluation.json tells of a run of the suite: what it left out, its time, its fingerprint."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_PHASES = {"sampling": "model", "metrics": "tokenizer", "io": "repeat"}


@dataclass(frozen=True, slots=True)
class Phase:
    """One part of the suite's time, percent of all."""

    name: str
    look: str
    seconds: float
    share: float


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


def _text(value: object) -> str:
    """A value for one line: hashes by their first digits."""
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text
