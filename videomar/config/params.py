"""Read and check params.yaml."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videomar.config.data import IngestParams
from videomar.config.evaluation import SampleParams
from videomar.config.models import TextParams
from videomar.config.schema import (
    LATER_RESOURCES,
    RESOURCE_KEYS,
    SECTIONS,
    Params,
    absent,
    in_sections,
    misplaced,
    refuse_moved,
    set_keys,
)
from videomar.config.search import Variant
from videomar.config.section import RESOURCES, require
from videomar.errors import ParamsError

if TYPE_CHECKING:
    from pydantic import TypeAdapter
    from pydantic_core import ErrorDetails

# Keys added later, each with the value that keeps the earlier behaviour: the files of registered models lack
# them, and the code stored with a model reads its file with this function. Checkpoints lack them, too.
CAME_LATER: Mapping[str, Mapping[str, object]] = {
    "samples": {"ffmpeg": "packaged"},
    "ingest": {"still_pictures": False},
    "curate": {"test_videos": []},
    "model": {"residual": False, "feed_previous": False},
    "train": {"start_from": None, "lora": None},
    "sample": {"carry": 0.0},
}


def load_params(path: Path, newer: Path | None = None) -> Params:
    """Read and check parameters in the present or the old layout, which files of registered models may have.

    Both are accepted by default because the code stored with a model calls this with its file alone.

    Args:
        path: the file.
        newer: another file, for keys that were added after `path` was written.

    Raises:
        ParamsError: a file is missing, not YAML, or invalid; all problems are named at once.
    """
    return _load(read_params_file(path), path, newer)


def load_own_params(path: Path) -> Params:
    """Read and check the user's own file, which DVC reads, too; it must have the present layout.

    Raises:
        ParamsError: as `load_params`, or the file has the old layout, see `refuse_moved`.
    """
    raw = read_params_file(path)
    refuse_moved(raw, path)
    return _load(raw, path)


def _load(raw: dict[str, Any], path: Path, newer: Path | None = None) -> Params:
    """Check the content of a file, see `load_params`."""
    sections, problems = _completed(in_sections(raw), CAME_LATER), misplaced(raw)
    if newer is None:
        problems = {**absent(raw), **problems}
    else:
        later = _completed(in_sections(read_params_file(newer)), CAME_LATER)
        sections = {name: {**later.get(name, {}), **sections.get(name, {})} for name in {**later, **sections}}
    params = _checked(_completed(sections, LATER_RESOURCES), str(path), problems)
    variants_of(params)
    return params


@dataclass(frozen=True, slots=True)
class GenerationParams:
    """The sections of a model's parameters that say how it makes a clip."""

    ingest: IngestParams
    text: TextParams
    sample: SampleParams


def load_generation_params(path: Path) -> GenerationParams:
    """Read the sections that generation needs, also where neither pydantic nor yaml is installed.

    Raises:
        ParamsError: the file is missing, or lacks a section or a key, or has an impossible value.
    """
    raw = in_sections(read_params_file(path))
    sections = _completed(_completed(raw, CAME_LATER), LATER_RESOURCES)
    made = {}
    for field in fields(GenerationParams):
        values = sections.get(field.name)
        if not isinstance(values, dict):
            raise ParamsError(f"{path}: {field.name}: got {values!r}, expected a section of keys")
        try:
            made[field.name] = SECTIONS[field.name](
                **{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
            )
        except TypeError as error:
            raise ParamsError(f"{path}: {field.name}: {error}, expected the keys of this section") from None
    return GenerationParams(**made)


def params_text(params: Params) -> str:
    """Return all sections as the text of a params.yaml: JSON, so that it can be read without yaml, too."""
    content: dict[str, Any] = {}
    set_keys(content, asdict(params))
    return _json(content) + "\n"


def _json(value: object, indent: str = "") -> str:
    """JSON that is YAML as well, which wants a dot in every float: `1.0e-05`."""
    if isinstance(value, Mapping):
        deeper = f"{indent}  "
        lines = [f"{deeper}{json.dumps(key)}: {_json(item, deeper)}" for key, item in value.items()]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}" if lines else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_json(item, indent) for item in value)}]"
    text = json.dumps(value)
    return text.replace("e", ".0e") if isinstance(value, float) and "e" in text and "." not in text else text


def read_params_file(path: Path) -> dict[str, Any]:
    """Return the content of a parameter file, unchecked.

    Raises:
        ParamsError: it is missing, not YAML, or not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ParamsError(
            f"{path}: no such file, expected the parameters; run from the repository root"
        ) from None
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path}: no text: {error}") from None
    try:
        # The file of a model folder is JSON: a bare GPU machine, which has no yaml, reads it.
        raw = json.loads(text)
    except ValueError:
        raw = _parsed_yaml(text, path)
    if not isinstance(raw, dict):
        raise ParamsError(f"{path}: got {raw!r}, expected sections of keys")
    return raw


def _completed(sections: Mapping[str, Any], later: Mapping[str, Mapping[str, object]]) -> dict[str, Any]:
    """Add the keys that came later to the sections that lack them."""
    return {
        name: {**later.get(name, {}), **keys} if isinstance(keys, dict) else keys
        for name, keys in sections.items()
    }


def _parsed_yaml(text: str, path: Path) -> object:
    import yaml  # here: a bare GPU machine runs the model without yaml and pydantic

    try:
        return yaml.load(text, _loader())
    except yaml.YAMLError as error:
        raise ParamsError(f"{path}: no YAML: {' '.join(str(error).split())}") from None


@cache
def _loader() -> type:
    """PyYAML's safe loader that reads `1:1` as text: `dvc exp run --set-param` writes it without quotes."""
    import yaml

    # That in C, where PyYAML was built with it, takes a tenth of the time.
    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
            tag = super().resolve(kind, value, implicit)
            base_sixty = kind is yaml.ScalarNode and implicit[0] and ":" in value and tag.endswith(":int")
            return "tag:yaml.org,2002:str" if base_sixty else tag

    return Loader


def variants_of(params: Params) -> dict[str, tuple[Variant, Params]]:
    """Parameters of every run of `train.runs` and `train.search`, by name; empty for a single run.

    Raises:
        ParamsError: two runs have the same name, or a run has an invalid value or an unknown key.
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


def names_of_starts(params: Params) -> list[str]:
    """Return the different names in `train.start_from`, of all runs."""
    runs = [run for _, run in variants_of(params).values()] or [params]
    return list(dict.fromkeys(str(run.train.start_from) for run in runs if run.train.start_from is not None))


def _checked(raw: object, where: str, layout: Mapping[str, str] | None = None) -> Params:
    """Check the content of a YAML file and return all sections.

    Args:
        raw: each key in its section.
        where: start of the message.
        layout: problems of the file's layout by place.

    Raises:
        ParamsError: something is invalid; all problems are named at once.
    """
    from pydantic import ValidationError

    layout = layout or {}
    problems = [f"{place}: {problem}" for place, problem in layout.items()]
    try:
        params = _adapter().validate_json(json.dumps(raw), strict=True)
    except ValidationError as error:
        # A missing section is one problem, not one for each of its keys.
        found = [item for item in error.errors() if not layout.keys() & {*_places(_place(item["loc"]))}]
        problems += [_problem(item) for item in found]
    if problems:
        raise ParamsError(f"{where}: {'; '.join(problems)}")
    return params


@cache
def _adapter() -> "TypeAdapter[Params]":
    """Build the adapter once: that takes longer than a check."""
    from pydantic import TypeAdapter

    return TypeAdapter(Params)


def _problem(item: "ErrorDetails") -> str:
    """Format one pydantic error as `<key>: got <value>, expected <rule>`."""
    where = _place(item["loc"])
    match item["type"]:
        case "missing":
            return f"{where}: missing, expected a value; take it from the file in git"
        case "unexpected_keyword_argument":
            return f"{where}: unknown key; check its spelling against videomar/config"
        case "value_error":
            message, key = str(item["ctx"]["error"]), ".".join(x for x in item["loc"] if isinstance(x, str))
            if message.startswith("got "):  # the rule of one key, which does not know its place
                return f"{where}: {message}"
            # A rule across keys names the list `train.curriculum`; pydantic knows the entry in it.
            return where + message.removeprefix(key) if message.startswith(f"{key}.") else message
        case "float_type" if isinstance(item["input"], str):
            return f"{where}: got the text {item['input']!r}, expected a number; YAML wants 1.0e-4, not 1e-4"
        case _:
            return f"{where}: got {item['input']!r}, expected: {item['msg']}"


def _place(loc: Sequence[int | str]) -> str:
    """Place in the file of a pydantic error."""
    resource = len(loc) > 1 and loc[1] in RESOURCE_KEYS.get(str(loc[0]), ())
    return ".".join(str(part) for part in ([RESOURCES, *loc] if resource else loc)) or "file"


def _places(place: str) -> Iterator[str]:
    """A place and all places that contain it."""
    return accumulate(place.split("."), "{}.{}".format)
