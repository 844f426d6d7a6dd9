"""Check the folder of `tokenizer.pretrained` before any clip is decoded."""

import json
from pathlib import Path
from typing import NamedTuple

from videomar.config import Params
from videomar.encoders.load import load_tokenizer
from videomar.encoders.tokenizer import VariationalTokenizer, VideoTokenizer
from videomar.errors import ParamsError
from videomar.files import write_json
from videomar.provenance.made_with import content_sha256


class TokenizerFacts(NamedTuple):
    """What parameters have to fit."""

    channels: int
    time_stride: int
    space_stride: int
    has_moments: bool


def check_pretrained(params: Params, record: Path) -> None:
    """Load the folder of `tokenizer.pretrained`, if it names one, and refuse one that clips do not fit.

    A folder with the contents that the file `record` describes is not loaded again.

    Raises:
        CheckpointError: the folder holds no tokenizer that can be loaded.
        ParamsError: parameters do not fit it.
    """
    if params.tokenizer.pretrained is None:
        return
    folder = Path(params.tokenizer.pretrained)
    contents = content_sha256(folder) if folder.is_dir() else None
    try:
        stored = json.loads(record.read_text("utf-8"))
        facts = TokenizerFacts(**stored["facts"]) if stored["contents"] == contents else None
    except (OSError, ValueError, KeyError, TypeError):
        facts = None
    if facts is None:
        facts = facts_of(load_tokenizer(folder))
        write_json(record, {"contents": contents, "facts": facts._asdict()})
    refuse_misfit(facts, folder, params)


def facts_of(tokenizer: VideoTokenizer) -> TokenizerFacts:
    """Return what parameters have to fit."""
    has_moments = isinstance(tokenizer, VariationalTokenizer)
    return TokenizerFacts(tokenizer.channels, tokenizer.time_stride, tokenizer.space_stride, has_moments)


def refuse_misfit(facts: TokenizerFacts, folder: Path, params: Params) -> None:
    """Refuse parameters that do not fit a pretrained tokenizer.

    Raises:
        ParamsError: sections `tokenizer`, `ingest` or `encode` ask for what it does not have.
    """
    ingest = params.ingest
    for key in ("channels", "time_stride", "space_stride"):
        stated, own = getattr(params.tokenizer, key), getattr(facts, key)
        rule = f"{own}, as the tokenizer in {folder} has; set it"
        _require(stated == own, f"tokenizer.{key}", stated, rule)
    lengths = {"num_frames": (ingest.num_frames,), "shorter_clips": ingest.shorter_clips}
    for key, frames in lengths.items():
        fits = all((count - 1) % facts.time_stride == 0 for count in frames)
        rule = f"1 + a multiple of {facts.time_stride}, the time stride of {folder}"
        _require(fits, f"ingest.{key}", list(frames), rule)
    multiple = ingest.side_multiple_px
    rule = f"a multiple of {facts.space_stride}, the space stride of {folder}"
    _require(multiple % facts.space_stride == 0, "ingest.side_multiple_px", multiple, rule)
    rule = f"false, because the tokenizer in {folder} is a plain autoencoder"
    _require(facts.has_moments or not params.encode.moments, "encode.moments", True, rule)


def _require(fits: bool, where: str, got: object, rule: str) -> None:
    if not fits:
        raise ParamsError(f"{where}: got {got}, expected {rule}")
