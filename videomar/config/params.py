"""The whole of params.yaml, and how it is read."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from videomar.config.clips import CurateParams, IngestParams, SamplesParams
from videomar.config.network import EncodeParams, ModelParams, TextParams, TokenizerParams
from videomar.config.runs import GateParams, SampleParams, SuiteParams, TrainParams
from videomar.config.section import require, section
from videomar.errors import ParamsError

if TYPE_CHECKING:
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


def load_params(path: Path) -> Params:
    """Read and check params.yaml.

    Raises:
        ParamsError: the file is missing, no YAML, or wrong; all problems are named at once.
    """
    import yaml  # here, because a bare GPU machine runs the model without yaml and pydantic
    from pydantic import TypeAdapter, ValidationError

    try:
        raw = yaml.safe_load(path.read_text())
        return TypeAdapter(Params).validate_json(json.dumps(raw), strict=True)
    except FileNotFoundError:
        raise ParamsError(
            f"{path}: no such file, expected the parameters; run from the repository root"
        ) from None
    except yaml.YAMLError as error:
        raise ParamsError(f"{path}: no YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        raise ParamsError(f"{path}: " + "; ".join(_problem(item) for item in error.errors())) from None


def _problem(item: "ErrorDetails") -> str:
    """One of pydantic's findings in the house's words: where, got, rule."""
    where = ".".join(str(part) for part in item["loc"]) or "file"
    match item["type"]:
        case "missing":
            return f"{where}: missing, expected a value; take it from the file in git"
        case "unexpected_keyword_argument":
            return f"{where}: unknown key; check its spelling against videomar/config"
        case "value_error":
            return str(item["ctx"]["error"])
        case "float_type" if isinstance(item["input"], str):
            return f"{where}: got the text {item['input']!r}, expected a number; YAML wants 1.0e-4, not 1e-4"
        case _:
            return f"{where}: got {item['input']!r}, expected: {item['msg']}"
