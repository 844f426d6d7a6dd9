"""Metadata of a latent cache that follows from params.yaml, and the check of a cache against it."""

from collections.abc import Mapping
from typing import Any

from videomar.config import EncodeParams, Params
from videomar.config.section import fixed_keys
from videomar.errors import DataError
from videomar.provenance.code_hash import CAPTIONS, LATENTS, code_hash
from videomar.provenance.made_with import flatten
from videomar.storage import Location


def cached_sizes(params: Params) -> tuple[int, ...]:
    """Return the base sizes that each clip is cached at, the largest first."""
    return params.ingest.size_px, *params.encode.smaller_sizes_px


def expected_metadata(params: Params) -> dict[str, Any]:
    """Return the metadata of a cache that params.yaml decides, and that its keys or clips depend on."""
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
        "views": _views(params.encode),
        "text": fixed_keys(params.text),
    }


def _views(encode: EncodeParams) -> dict[str, Any]:
    """What views follow from; nothing but their number if there are none."""
    if not encode.views:
        return {"number": 0}
    return {
        "number": encode.views,
        "zoom": encode.view_zoom,
        "speeds": list(encode.view_speeds),
        "mirror": encode.view_mirror,
        "seed": encode.view_seed,
    }


def check_metadata(folder: Location, got: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Refuse a cache whose metadata differs from the expected one.

    Raises:
        DataError: they differ; the message names every difference.
    """
    found_metadata = flatten(got)
    differing = [
        f"{name} is {found!r}, expected {wanted!r}"
        for name, wanted in flatten(expected).items()
        if (found := found_metadata.get(name)) != wanted
    ]
    if differing:
        raise DataError(f"{folder}: got other latents: {'; '.join(differing)}; run `dvc repro encode`")
