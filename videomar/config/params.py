"""The whole of params.yaml, and how it is read."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videomar.config.schema import (
    RESOURCE_KEYS,
    Params,
    absent,
    in_sections,
    misplaced,
    refuse_moved,
)
from videomar.config.search import Variant
from videomar.config.section import RESOURCES, require
from videomar.errors import ParamsError

if TYPE_CHECKING:
    from pydantic import TypeAdapter
    from pydantic_core import ErrorDetails

# Keys that came later, with values that mean what was before them: the files of registered models lack them,
# and the code stored with a model reads its file by this function.
_CAME_LATER = {"samples": {"ffmpeg": "packaged"}}


def load_params(path: Path, newer: Path | None = None) -> Params:
    """Read and check parameters, of today's layout or of before: files of registered models stay as they are.

    Accepting both is the default, because the code stored with a model calls it with its file alone.

    Args:
        path: the file.
        newer: another one, for keys that came after `path` was written, as with a registered model.

    Raises:
        ParamsError: a file is missing, no YAML, or wrong; all problems are named at once.
    """
    raw = read_params_file(path)
    sections, problems = _completed(raw), misplaced(raw)
    if newer is None:
        problems = {**absent(raw), **problems}
    else:
        later = _completed(read_params_file(newer))
        sections = {name: {**later.get(name, {}), **sections.get(name, {})} for name in {**later, **sections}}
    params = _checked(sections, str(path), problems)
    variants_of(params)
    return params


def load_own_params(path: Path) -> Params:
    """Read and check the user's own file, the one that DVC reads, too: it must be of today's layout.

    Raises:
        ParamsError: as `load_params`; or the file is of the old layout, see `refuse_moved`.
    """
    refuse_moved(read_params_file(path), path)
    return load_params(path)


def read_params_file(path: Path) -> dict[str, Any]:
    """What a file of parameters says, unchecked.

    Raises:
        ParamsError: it is missing, no YAML, or no mapping.
    """
    import yaml  # here, because a bare GPU machine runs the model without yaml and pydantic

    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _loader())
    except FileNotFoundError:
        raise ParamsError(
            f"{path}: no such file, expected the parameters; run from the repository root"
        ) from None
    except yaml.YAMLError as error:
        raise ParamsError(f"{path}: no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise ParamsError(f"{path}: got {raw!r}, expected sections of keys")
    return raw


def _completed(raw: Mapping[str, Any]) -> dict[str, Any]:
    """What a file says, each key in its section, with the keys that came later."""
    sections = in_sections(raw)
    for name, later in _CAME_LATER.items():
        if isinstance(sections.get(name), dict):
            sections[name] = {**later, **sections[name]}
    return sections


def _loader() -> type:
    """PyYAML's safe loader, to which `1:1` is text: `dvc exp run --set-param` writes it without quotes."""
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
            tag = super().resolve(kind, value, implicit)
            base_sixty = kind is yaml.ScalarNode and implicit[0] and ":" in value and tag.endswith(":int")
            return "tag:yaml.org,2002:str" if base_sixty else tag

    return Loader


def variants_of(params: Params) -> dict[str, tuple[Variant, Params]]:
    """Parameters of every run of `train.runs` and `train.search`, by name; empty where there is just one run.

    Raises:
        ParamsError: two runs have one name, or a run has a wrong value or a key that there is not.
    """
    train = params.train
    variants = [*train.runs, *train.search.variants(train.num_samples, train.seed)]
    found: dict[str, tuple[Variant, Params]] = {}
    for variant in variants:
        where = f"train.runs: run {variant.name}"
        require(variant.name not in found, where, "two runs of this name", "one")
        nested = sorted({"runs", "search"} & set(variant.train))
        require(not nested, where, f"train.{' and train.'.join(nested)}", "keys that a single run has")
        raw = asdict(params)
        raw["train"] |= {"runs": [], "search": {}, **variant.train}
        raw["model"] |= variant.model
        found[variant.name] = variant, _checked(raw, where)
    return found


def _checked(raw: object, where: str, layout: Mapping[str, str] | None = None) -> Params:
    """All sections from what a YAML file says.

    Args:
        raw: each key in its section.
        where: what the message begins with.
        layout: problems of the file's layout, by place.

    Raises:
        ParamsError: something is wrong; all problems are named at once.
    """
    from pydantic import ValidationError

    layout = layout or {}
    problems = [f"{place}: {said}" for place, said in layout.items()]
    try:
        params = _adapter().validate_json(json.dumps(raw), strict=True)
    except ValidationError as error:
        # Keys that are missing because their section is are one problem.
        found = [item for item in error.errors() if not layout.keys() & {*_places(_place(item["loc"]))}]
        problems += [_problem(item) for item in found]
    if problems:
        raise ParamsError(f"{where}: {'; '.join(problems)}")
    return params


@cache
def _adapter() -> "TypeAdapter[Params]":
    """Made once: it takes longer than a check."""
    from pydantic import TypeAdapter

    return TypeAdapter(Params)


def _problem(item: "ErrorDetails") -> str:
    """One of pydantic's findings in the house's words: where, got, rule."""
    where = _place(item["loc"])
    match item["type"]:
        case "missing":
            return f"{where}: missing, expected a value; take it from the file in git"
        case "unexpected_keyword_argument":
            return f"{where}: unknown key; check its spelling against videomar/config"
        case "value_error":
            # The rule names a list; what is read here knows which of its entries.
            said, key = str(item["ctx"]["error"]), ".".join(x for x in item["loc"] if isinstance(x, str))
            return where + said.removeprefix(key) if said.startswith(f"{key}.") else said
        case "float_type" if isinstance(item["input"], str):
            return f"{where}: got the text {item['input']!r}, expected a number; YAML wants 1.0e-4, not 1e-4"
        case _:
            return f"{where}: got {item['input']!r}, expected: {item['msg']}"


def _place(loc: Sequence[int | str]) -> str:
    """Where in the file a finding of pydantic is."""
    resource = len(loc) > 1 and loc[1] in RESOURCE_KEYS.get(str(loc[0]), ())
    return ".".join(str(part) for part in ([RESOURCES, *loc] if resource else loc)) or "file"


def _places(place: str) -> Iterator[str]:
    """The places that hold this one, and itself."""
    return accumulate(place.split("."), "{}.{}".format)
