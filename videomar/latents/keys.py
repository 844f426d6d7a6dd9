"""What a latent cache was made with, and whether that is what the parameters ask for."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from videomar.config import Params
from videomar.errors import DataError
from videomar.provenance.code_hash import CAPTIONS, LATENTS, code_hash
from videomar.storage import Location


def cached_sizes(params: Params) -> tuple[int, ...]:
    """Base sizes that each clip is cached at, the largest first."""
    return params.ingest.size_px, *params.encode.smaller_sizes_px


def key_facts(params: Params) -> dict[str, Any]:
    """The facts of a cache that follow from params.yaml alone: its keys, or its clips, hang on each."""
    ingest = params.ingest
    return {
        "code": {"latents": code_hash(LATENTS), "captions": code_hash(CAPTIONS)},
        "dtype": params.encode.dtype,
        "moments": params.encode.moments,
        "pixels": {
            "sizes_px": list(cached_sizes(params)),
            "aspect_ratios": list(ingest.aspect_ratios),
            "side_multiple_px": ingest.side_multiple_px,
            "fps": ingest.fps,
            "num_frames": ingest.num_frames,
            "shorter_clips": list(ingest.shorter_clips),
        },
        "text": asdict(params.text),
    }


def check_facts(folder: Location, got: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
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
