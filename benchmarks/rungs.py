"""The rungs of a ladder: recipes, each with some parameters other than those of the rung before.

A YAML file names them. `base` holds for all of them, and a rung's `changes` are added to those of the rung
that it stands on: the one before it in the file, or the one that `after` names.

    base: {suite: {seeds: 1}}
    rungs:
      - {name: the paper's form, changes: {model: {residual: false}}}
      - {name: residual, changes: {model: {residual: true}}}
      - {name: deeper, after: the paper's form, changes: {model: {depth: 8}}}
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from videomar.config import Params
from videomar.config.edit import with_changes
from videomar.config.params import read_params_file
from videomar.errors import ParamsError

_KEYS = {"name", "after", "changes"}


@dataclasses.dataclass(frozen=True, slots=True)
class Rung:
    """One recipe."""

    name: str
    after: str | None
    """The rung that it stands on and is compared with; None for the first."""
    changes: Mapping[str, Mapping[str, Any]]
    """Its own changes of parameters, by section and key."""
    params: Params
    """All of its parameters."""
    method: str = ""
    """What else it does differently, see `methods.METHODS`; empty = nothing."""
    longer: float = 1.0
    """How many times as long as the others it trains."""


def read_rungs(path: Path, params: Path, chosen: Sequence[str] = ()) -> list[Rung]:
    """Return the rungs of a file in its order.

    Args:
        path: the YAML file.
        params: params.yaml, which `base` and the rungs change.
        chosen: names of rungs; those that they stand on come with them. None named = all.

    Raises:
        ParamsError: a file is missing or damaged, a rung has an unknown key, a name twice, or stands on a
            rung that does not precede it, or a parameter is unknown or invalid.
    """
    content = read_params_file(path)
    listed, base = content.get("rungs"), content.get("base") or {}
    if not isinstance(listed, list) or not listed or set(content) - {"base", "rungs"}:
        rule = "a list `rungs`, and `base` beside it"
        raise ParamsError(f"{path}: got the keys {', '.join(map(str, content)) or 'none'}, expected {rule}")
    found: dict[str, Rung] = {}
    of_rungs: dict[str, Mapping[str, Any]] = {}
    for number, raw in enumerate(listed, start=1):
        where = f"{path}: rung {number}"
        if not isinstance(raw, dict) or not isinstance(raw.get("name"), str) or set(raw) - _KEYS:
            raise ParamsError(f"{where}: got {raw!r}, expected `name`, `changes`, and perhaps `after`")
        name, own = raw["name"], raw.get("changes") or {}
        after = raw.get("after", next(reversed(found), None))
        if name in found:
            raise ParamsError(f"{where}: got a second rung named {name!r}, expected other names")
        if after is not None and after not in found:
            raise ParamsError(f"{where}: after: got {after!r}, expected a rung above it: {', '.join(found)}")
        of_rungs[name] = merged(of_rungs[after] if after else base, own, f"{where} ({name})")
        try:
            found[name] = Rung(name, after, own, with_changes(params, of_rungs[name]))
        except ParamsError as error:
            raise ParamsError(f"{where} ({name}): {str(error).replace('/.', '/')}") from None
    return _with_those_below(found, chosen, path)


def merged(below: Mapping[str, Any], own: Any, where: str) -> dict[str, Any]:
    """Changes by section and key, with further ones added.

    Raises:
        ParamsError: they are no values by section and key.
    """
    if not isinstance(own, dict) or not all(isinstance(keys, dict) for keys in own.values()):
        raise ParamsError(f"{where}: changes: got {own!r}, expected values by section and key")
    return {name: {**below.get(name, {}), **own.get(name, {})} for name in {**below, **own}}


def _with_those_below(found: Mapping[str, Rung], chosen: Sequence[str], path: Path) -> list[Rung]:
    wanted = set(chosen)
    if unknown := sorted(wanted - set(found)):
        raise ParamsError(f"{path}: got the rung {unknown[0]!r}, expected one of: {', '.join(found)}")
    for rung in reversed(found.values()):
        if rung.name in wanted and rung.after is not None:
            wanted.add(rung.after)
    return [rung for rung in found.values() if not wanted or rung.name in wanted]
