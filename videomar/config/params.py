"""The whole of params.yaml, and how it is read."""

import json
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videomar.config.clips import CurateParams, IngestParams, SamplesParams
from videomar.config.network import EncodeParams, ModelParams, TextParams, TokenizerParams
from videomar.config.runs import GateParams, SampleParams, SuiteParams
from videomar.config.section import require, section
from videomar.config.sweep import Variant
from videomar.config.training import TrainParams
from videomar.errors import ParamsError

if TYPE_CHECKING:
    from pydantic import TypeAdapter
    from pydantic_core import ErrorDetails


@section
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


# Keys that came later, with values that mean what was before them: the files of registered models lack them,
# and the code stored with a model reads its file by this function.
_CAME_LATER = {"samples": {"ffmpeg": "packaged"}}


def load_params(path: Path, newer: Path | None = None) -> Params:
    """Read and check params.yaml.

    Args:
        path: the file.
        newer: another one, for keys that came after `path` was written, as with a registered model.

    Raises:
        ParamsError: a file is missing, no YAML, or wrong; all problems are named at once.
    """
    raw = _read(path)
    for name, later in _CAME_LATER.items():
        if isinstance(raw, dict) and isinstance(raw.get(name), dict):
            raw[name] = {**later, **raw[name]}
    if newer is not None and isinstance(raw, dict):
        later = _read(newer)
        raw = {name: {**later.get(name, {}), **raw.get(name, {})} for name in {**later, **raw}}
    params = _checked(raw, str(path))
    variants_of(params)
    return params


def _read(path: Path) -> Any:
    """What a YAML file says, unchecked."""
    import yaml  # here, because a bare GPU machine runs the model without yaml and pydantic

    try:
        return yaml.load(path.read_text(encoding="utf-8"), _loader())
    except FileNotFoundError:
        raise ParamsError(
            f"{path}: no such file, expected the parameters; run from the repository root"
        ) from None
    except yaml.YAMLError as error:
        raise ParamsError(f"{path}: no YAML: {' '.join(str(error).split())}") from None


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


def _checked(raw: object, where: str) -> Params:
    """All sections from what a YAML file says.

    Raises:
        ParamsError: something is wrong; all problems are named at once, after `where`.
    """
    from pydantic import ValidationError

    try:
        return _adapter().validate_json(json.dumps(raw), strict=True)
    except ValidationError as error:
        raise ParamsError(f"{where}: " + "; ".join(_problem(item) for item in error.errors())) from None


@cache
def _adapter() -> "TypeAdapter[Params]":
    """Made once: it takes longer than a check."""
    from pydantic import TypeAdapter

    return TypeAdapter(Params)


def _problem(item: "ErrorDetails") -> str:
    """One of pydantic's findings in the house's words: where, got, rule."""
    where = ".".join(str(part) for part in item["loc"]) or "file"
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
