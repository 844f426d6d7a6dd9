"""The claims of benchmarks/claims.yaml: sides to compare, and statements about them."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.methods import METHODS
from benchmarks.rungs import Rung, merged
from videomar.config import Params
from videomar.config.edit import with_changes
from videomar.config.params import read_params_file
from videomar.errors import ParamsError

GAIN = "gain_db"
_GROUPS, _KINDS, _METRICS = ("simulated", "real"), ("continuation", "image"), (GAIN,)
_CLAIM = {"name", "about", "base", "sides", "statements", "groups", "kinds", "metrics", "drift"}
_SIDE, _STATEMENT = {"changes", "method", "long"}, {"says", "better", "than", "kinds"}

Place = tuple[str, str, str]
"""Group of clips, kind of task, and figure."""


@dataclasses.dataclass(frozen=True, slots=True)
class Statement:
    """One side is better than another."""

    says: str
    better: str
    than: str | None
    """None = repeating the last given picture."""
    decided_by: tuple[Place, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Claim:
    """Sides that learn the same clips for the same seconds, and what is said of them."""

    name: str
    about: str
    sides: Mapping[str, Rung]
    statements: tuple[Statement, ...]
    left_out: tuple[str, ...]
    """Statements about sides that only a long run has."""
    drift: bool = False
    """Whether its long clips are followed frame by frame."""


def read_claims(
    path: Path, params: Path, common: Mapping[str, Any], chosen: Sequence[str] = (), long: bool = False
) -> list[Claim]:
    """Return the claims of a file in its order.

    Args:
        path: the YAML file.
        params: params.yaml, which the sides change.
        common: further changes of parameters for all sides, by section and key.
        chosen: names of claims; none named = all.
        long: with the sides that are marked `long`.

    Raises:
        ParamsError: a file is missing or damaged, a key, method or side is unknown, or a parameter is wrong.
    """
    content = read_params_file(path)
    listed = content.get("claims")
    if not isinstance(listed, list) or set(content) - {"base", "claims"}:
        raise ParamsError(f"{path}: got {', '.join(map(str, content))}, expected `base` and a list `claims`")
    base = merged(content.get("base") or {}, common, f"{path}: base")
    claims = [_claim(raw, base, params, long, str(path)) for raw in listed]
    known = [claim.name for claim in claims]
    if unknown := sorted(set(chosen) - set(known)):
        raise ParamsError(f"{path}: got the claim {unknown[0]!r}, expected one of: {', '.join(known)}")
    return [claim for claim in claims if not chosen or claim.name in chosen]


def _claim(raw: Any, base: Mapping[str, Any], params: Path, long: bool, where: str) -> Claim:
    _refuse_unknown(raw, _CLAIM, {"name", "about", "sides", "statements"}, where)
    where = f"{where}: {raw['name']}"
    own = merged(base, raw.get("base") or {}, f"{where}: base")
    sides = {}
    for name, side in raw["sides"].items():
        _refuse_unknown(side, _SIDE, set(), f"{where}: {name}")
        method, changes = side.get("method", ""), side.get("changes") or {}
        if method and method not in METHODS:
            raise ParamsError(
                f"{where}: {name}: got method {method!r}, expected one of: {', '.join(METHODS)}"
            )
        all_changes = merged(own, changes, f"{where}: {name}")
        if long or not side.get("long"):
            sides[str(name)] = Rung(
                str(name), None, changes, _params(params, all_changes, where, name), method
            )
    statements, left_out = [], []
    for each in raw["statements"]:
        _refuse_unknown(each, _STATEMENT, {"says", "better"}, where)
        named = [side for side in (each["better"], each.get("than")) if side is not None]
        if unknown := [side for side in named if side not in raw["sides"]]:
            raise ParamsError(f"{where}: got the side {unknown[0]!r}, expected one of: {list(raw['sides'])}")
        if not all(side in sides for side in named):
            left_out.append(each["says"])
            continue
        kinds = each.get("kinds") or raw.get("kinds", _KINDS)
        places = tuple(
            (group, kind, metric)
            for group in raw.get("groups", _GROUPS)
            for kind in kinds
            for metric in raw.get("metrics", _METRICS)
        )
        statements.append(Statement(each["says"], each["better"], each.get("than"), places))
    return Claim(raw["name"], raw["about"], sides, tuple(statements), tuple(left_out), bool(raw.get("drift")))


def _params(params: Path, changes: Mapping[str, Any], where: str, name: str) -> Params:
    try:
        return with_changes(params, changes)
    except ParamsError as error:
        raise ParamsError(f"{where}: {name}: {error}") from None


def _refuse_unknown(raw: Any, known: set[str], needed: set[str], where: str) -> None:
    if not isinstance(raw, dict) or set(raw) - known or needed - set(raw):
        rule = f"the keys {', '.join(sorted(needed))}" if needed else "keys"
        raise ParamsError(f"{where}: got {raw!r}, expected {rule}, of {', '.join(sorted(known))}")
