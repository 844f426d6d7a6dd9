"""What a latent cache was made with, and whether that is what the parameters ask for."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from videomar.config import IngestParams, Params
from videomar.errors import DataError

# Raise it when the bytes of a latent change for the same inputs: all clips are then encoded again.
CODE_VERSION = 1


def pixel_params(params: IngestParams) -> dict[str, Any]:
    """Parameters that change the pixels of a clip; how many processes read it does not."""
    return {key: value for key, value in asdict(params).items() if key in ("size_px", "fps", "num_frames")}


def key_facts(params: Params) -> dict[str, Any]:
    """The facts of a cache that follow from params.yaml alone; all of them are part of a clip's keys."""
    return {
        "code_version": CODE_VERSION,
        "dtype": params.encode.dtype,
        "pixels": pixel_params(params.ingest),
        "text": asdict(params.text),
    }


def check_facts(folder: Path, got: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Refuse a cache that was made with other facts than the expected ones.

    Raises:
        DataError: some differ; all of them are named.
    """
    differing = [
        f"{name} is {found!r}, expected {wanted!r}"
        for name, wanted in _flat(expected).items()
        if (found := _flat(got).get(name)) != wanted
    ]
    if differing:
        raise DataError(f"{folder}: got other latents: {'; '.join(differing)}; run `dvc repro encode`")


def _flat(facts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested facts under dotted names."""
    flat: dict[str, Any] = {}
    for name, value in facts.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
