"""The claims of benchmarks/claims.yaml: sides to compare, and statements about them."""

import dataclasses
import itertools
import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.methods import METHODS
from benchmarks.rungs import Rung, merged
from videomar.config import Params
from videomar.config.edit import with_changes
from videomar.config.params import read_params_file
from videomar.errors import ParamsError
from videomar.evaluation.metrics.catalogue import METRICS

GAIN = "gain_db"
_GROUPS, _KINDS = ("simulated", "real"), ("continuation", "image")
_WORLDS = re.compile(r"image_(long|large)\d+")
_METRICS = (GAIN, *(metric.key for metric in METRICS if metric.better != "neither" and metric.per != "set"))
_CLAIM = {"name", "about", "base", "longer", "sides", "statements", "groups", "kinds", "metrics", "drift"}
_SIDE, _STATEMENT = {"changes", "method"}, {"says", "better", "than", "kinds"}

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
    drift: tuple[str, ...]
    """Sides whose long clips are drawn frame by frame."""
    longer: float
    """How many times as long as those of other claims its sides train."""


def read_claims(
    path: Path, params: Path, common: Mapping[str, Any], chosen: Sequence[str] = ()
) -> list[Claim]:
    """Return the claims of a file in its order.

    Args:
        path: the YAML file.
        params: params.yaml, which the sides change.
        common: further changes of parameters for all sides, by section and key.
        chosen: names of claims; none named = all.

    Raises:
        ParamsError: a file is missing or damaged; a key, method, side, group, kind or metric is unknown; two
            claims have one name; or a parameter is wrong.
    """
    content = read_params_file(path)
    listed = content.get("claims")
    if not isinstance(listed, list) or set(content) - {"base", "claims"}:
        raise ParamsError(f"{path}: got {', '.join(map(str, content))}, expected `base` and a list `claims`")
    base = merged(content.get("base") or {}, common, f"{path}: base")
    claims = [_claim(raw, base, params, str(path)) for raw in listed]
    known = [claim.name for claim in claims]
    if twice := [name for name in known if known.count(name) > 1]:
        raise ParamsError(f"{path}: got two claims named {twice[0]!r}, expected other names")
    _among(chosen, known, f"{path}: claims")
    return [claim for claim in claims if not chosen or claim.name in chosen]


def _claim(raw: Any, base: Mapping[str, Any], params: Path, where: str) -> Claim:
    _check_keys(raw, _CLAIM, {"name", "about", "sides", "statements"}, where)
    where = f"{where}: {raw['name']}"
    if not isinstance(raw["sides"], dict) or not isinstance(raw["statements"], list):
        raise ParamsError(f"{where}: got {raw['sides']!r}, expected `sides` by name and a list `statements`")
    own = merged(base, raw.get("base") or {}, f"{where}: base")
    names = [str(name) for name in raw["sides"]]
    longer = raw.get("longer", 1)
    if not isinstance(longer, int | float) or isinstance(longer, bool) or not 0 < longer < math.inf:
        raise ParamsError(f"{where}: longer: got {longer!r}, expected a number above 0")
    sides = {}
    for name, side in zip(names, raw["sides"].values(), strict=True):
        place = f"{where}: {name}"
        _check_keys(side, _SIDE, set(), place)
        changes = merged(own, side.get("changes") or {}, place)
        method = side.get("method", "")
        _among([method], METHODS, f"{place}: method")
        own_changes = side.get("changes") or {}
        sides[name] = Rung(name, None, own_changes, _params(params, changes, place), method, longer)
    statements = []
    for each in raw["statements"]:
        _check_keys(each, _STATEMENT, {"says", "better"}, where)
        named = [side for side in (each["better"], each.get("than")) if side is not None]
        _among(named, names, f"{where}: sides")
        decided_by = _places(raw | each, where)
        if len(named) == 1 and {metric for _, _, metric in decided_by} != {GAIN}:
            rule = f"{GAIN} alone, which is over repeating the picture; or name `than`"
            raise ParamsError(f"{where}: {each['says']}: got other metrics, expected {rule}")
        statements.append(Statement(each["says"], each["better"], each.get("than"), decided_by))
    drift = raw.get("drift", [])
    _among(drift, sides, f"{where}: drift")
    return Claim(raw["name"], raw["about"], sides, tuple(statements), tuple(drift), longer)


def _places(raw: Mapping[str, Any], where: str) -> tuple[Place, ...]:
    """What decides a statement, by its own keys or those of its claim."""
    groups, kinds = raw.get("groups", _GROUPS), raw.get("kinds", _KINDS)
    metrics = raw.get("metrics", (GAIN,))
    _among(groups, _GROUPS, f"{where}: groups")
    _among(metrics, _METRICS, f"{where}: metrics")
    worlds = [kind for kind in kinds if _WORLDS.fullmatch(kind)]
    _among(kinds, (*_KINDS, *worlds), f"{where}: kinds")
    return tuple(itertools.product(groups, kinds, metrics))


def _params(params: Path, changes: Mapping[str, Any], where: str) -> Params:
    try:
        return with_changes(params, changes)
    except ParamsError as error:
        raise ParamsError(f"{where}: {error}") from None


def _among(found: Any, known: Collection[str], where: str) -> None:
    if isinstance(found, str) or not isinstance(found, Sequence):
        raise ParamsError(f"{where}: got {found!r}, expected a list")
    if unknown := [name for name in found if name not in known]:
        raise ParamsError(f"{where}: got {unknown[0]!r}, expected one of: {', '.join(filter(None, known))}")


def _check_keys(raw: Any, known: set[str], needed: set[str], where: str) -> None:
    if not isinstance(raw, dict) or set(raw) - known or needed - set(raw):
        rule = f"the keys {', '.join(sorted(needed))}" if needed else "keys"
        raise ParamsError(f"{where}: got {raw!r}, expected {rule}, of {', '.join(sorted(known))}")
