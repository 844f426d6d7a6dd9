"""The layout of params.yaml: its sections, and which of their keys stand below `resources`.

`Params` has each key in its section. The file has resources separately, so that no stage of DVC depends on
them. In the old layout, which files of registered models may have, they stand in their sections.
"""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from shlex import quote
from typing import Any

from videomar.config.data import CurateParams, IngestParams, SamplesParams
from videomar.config.evaluation import GateParams, SampleParams, SuiteParams
from videomar.config.models import EncodeParams, ModelParams, TextParams, TokenizerParams
from videomar.config.section import RESOURCES, Mark, keys_marked, require, section
from videomar.config.training import TrainParams
from videomar.errors import OldLayoutError, ParamsError


@section("")
class Params:
    """The whole of params.yaml."""

    samples: SamplesParams
    ingest: IngestParams
    curate: CurateParams
    tokenizer: TokenizerParams
    text: TextParams
    encode: EncodeParams
    model: ModelParams
    train: TrainParams
    sample: SampleParams
    suite: SuiteParams
    gate: GateParams

    def __post_init__(self) -> None:
        multiple, largest = self.ingest.side_multiple_px, self.ingest.size_px
        sizes = self.encode.smaller_sizes_px
        rule = f"multiples of ingest.side_multiple_px {multiple} below ingest.size_px {largest}"
        fits = all(size < largest and size % multiple == 0 for size in sizes)
        require(fits, "encode.smaller_sizes_px", list(sizes), rule)
        served = self.encode.moments or not self.train.draw_latents
        require(served, "train.draw_latents", "true, and encode.moments false", "both true")


SECTIONS: Mapping[str, Any] = {field.name: field.type for field in fields(Params)}
"""The class of each section."""
RESOURCE_KEYS: Mapping[str, tuple[str, ...]] = {
    name: keys for name, cls in SECTIONS.items() if (keys := keys_marked(cls, Mark.RESOURCE))
}
"""Keys that stand below `resources`, by section."""

LATER_RESOURCES: Mapping[str, Mapping[str, object]] = {
    "ingest": {"device": "auto"},
    "tokenizer": {"device": "auto", "checkpoint_every": 500},
    "text": {"num_workers": 2, "device": "auto"},
    "encode": {"device": "auto", "batch_clips": 8},
    "suite": {"device": "auto"},
}
"""Resources that files of before lack, with the value each then has."""


def in_sections(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Move each key of a file to its section; unknown keys below `resources` are left out."""
    found = raw.get(RESOURCES)
    below = {
        name: {key: values[key] for key in values if key in RESOURCE_KEYS[name]}
        for name, values in (found.items() if isinstance(found, Mapping) else ())
        if name in RESOURCE_KEYS and isinstance(values, Mapping)
    }
    sections = {name: values for name, values in {**below, **raw}.items() if name != RESOURCES}
    return {
        name: {**values, **below.get(name, {})} if isinstance(values, Mapping) else values
        for name, values in sections.items()
    }


def misplaced(raw: Mapping[str, Any]) -> dict[str, str]:
    """Problems of `resources` itself by place: unknown sections and keys, keys that occur twice."""
    found = raw.get(RESOURCES, {})
    if not isinstance(found, Mapping):
        return {RESOURCES: f"got {found!r}, expected the sections {', '.join(RESOURCE_KEYS)}"}
    problems = {}
    for name, values in found.items():
        where, known = f"{RESOURCES}.{name}", RESOURCE_KEYS.get(name)
        if known is None:
            problems[where] = f"unknown section, expected {' or '.join(RESOURCE_KEYS)}"
        elif not isinstance(values, Mapping):
            problems[where] = f"got {values!r}, expected the keys {', '.join(known)}"
        else:
            rule = f"expected {' or '.join(known)}"
            problems |= {f"{where}.{key}": f"no such resource, {rule}" for key in values if key not in known}
            twice = [key for section, key in moved_keys(raw) if section == name and key in values]
            problems |= {f"{where}.{key}": f"{name}.{key} exists as well; remove one" for key in twice}
    return problems


def refuse_misplaced(raw: Mapping[str, Any], path: Path) -> None:
    """Refuse a file with problems in `resources`.

    Raises:
        ParamsError: see `misplaced`; all problems are named.
    """
    if problems := misplaced(raw):
        raise ParamsError(
            f"{path}: {'; '.join(f'{place}: {problem}' for place, problem in problems.items())}"
        )


def absent(raw: Mapping[str, Any]) -> dict[str, str]:
    """Sections that a file lacks, by place; a file of the old layout needs no `resources`."""
    where = "take it from the file in git"
    lacking = {name: f"missing, expected a section; {where}" for name in SECTIONS if name not in raw}
    found = raw.get(RESOURCES, {})
    there = {name for name, _ in moved_keys(raw)}
    there |= {*found} if isinstance(found, Mapping) else {*RESOURCE_KEYS}
    if not there:
        return lacking | {RESOURCES: f"missing, expected the sections {', '.join(RESOURCE_KEYS)}; {where}"}
    return lacking | {
        f"{RESOURCES}.{name}": f"missing, expected the keys {', '.join(keys)}; {where}"
        for name, keys in RESOURCE_KEYS.items()
        if name not in there and set(keys) - set(LATER_RESOURCES.get(name, ()))
    }


def moved_keys(raw: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Section and key of each resource that stands in its section, as in the old layout."""
    return [
        (name, key)
        for name, keys in RESOURCE_KEYS.items()
        if isinstance(raw.get(name), Mapping)
        for key in raw[name]
        if key in keys
    ]


def refuse_moved(raw: Mapping[str, Any], path: Path) -> None:
    """Refuse a file of the old layout.

    Raises:
        OldLayoutError: keys are at their old places; each is named with its new place.
    """
    if moved := [f"{name}.{key}: moved to {RESOURCES}.{name}.{key}" for name, key in moved_keys(raw)]:
        file = "" if path == Path("params.yaml") else f" {quote(str(path))}"
        remedy = f"`videomar migrate{file}` moves them and keeps comments"
        raise OldLayoutError(f"{path}: {'; '.join(moved)}; {remedy}")


def set_keys(content: dict[str, Any], changes: Mapping[str, Mapping[str, object]]) -> None:
    """Set keys in the content of a file, each at its place.

    Args:
        content: of the present layout; may be empty.
        changes: new values by section and key.
    """
    for name, values in changes.items():
        for key, value in values.items():
            home = content.setdefault(RESOURCES, {}) if key in RESOURCE_KEYS.get(name, ()) else content
            home.setdefault(name, {})[key] = value
