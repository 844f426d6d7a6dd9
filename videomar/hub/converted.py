"""The released weights of VideoMAR as a model folder, with a tokenizer and a text encoder beside them."""

import os
import tempfile
from dataclasses import replace
from pathlib import Path

from videomar.checkpoint import export, read_manifest, read_parts
from videomar.checkpoint.manifest import ModelShape, read_shape
from videomar.checkpoint.model_folder import TEXT_ENCODER
from videomar.checkpoint.released import import_released
from videomar.config import Params
from videomar.config.models import NAMED_ENCODERS
from videomar.encoders.load import load_tokenizer, tokenizer_files
from videomar.encoders.text import load_text_encoder, text_encoder_files
from videomar.errors import DataError
from videomar.files import require_new_folder
from videomar.provenance.card import CardFacts, model_card


def import_model(
    source: Path, out: Path, tokenizer: Path, params: Params, patch_size: int = 1, head: str = "auto"
) -> list[str]:
    """Write a released file as a model folder; return a readable summary, line by line.

    Args:
        source: as for `import_released`, which also explains `patch_size` and `head`.
        out: a new folder.
        tokenizer: folder of the video tokenizer that the weights were trained with.
        params: of which `ingest`, `text` and `sample` say how clips are generated; the files of a text
            encoder that is a folder are packed, too.
        patch_size: latent rows and columns in one token.
        head: `ddpm`, `flow`, or `auto`.

    Raises:
        VideomarError: the file cannot be read or is of another layout, or tokenizer, text encoder or clips
            do not fit the weights.
    """
    out = out.resolve()
    require_new_folder(out)
    coder = tokenizer_files(tokenizer)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".draft-", dir=out.parent) as draft:
        weights, model = Path(draft) / "weights", Path(draft) / "model"
        *lines, _ = import_released(source, weights, patch_size, head)  # the last says where the draft is
        manifest = read_manifest(weights)
        shape, origin = read_shape(manifest, weights), manifest["made_with"]["imported"]
        params = _fitted(params, shape)
        _refuse_others(params, shape, tokenizer)
        packed: list[Path] = []
        if params.text.encoder not in NAMED_ENCODERS:
            packed = text_encoder_files(Path(params.text.encoder))
            params = replace(params, text=replace(params.text, encoder=TEXT_ENCODER))
        card = CardFacts(
            name=f"VideoMAR weights imported from {origin['file']}",
            parents=[f"{origin['file']}, sha256 {origin['sha256']}"],
        )
        export(weights, model, read_parts(coder, params, model_card(card), packed))
        os.replace(model, out)
    return [*lines, f"{out}: a whole model; `videomar register {out}` makes it a version"]


def _fitted(params: Params, shape: ModelShape) -> Params:
    """Parameters with the shape of the weights, and without conditions that these do not take."""
    known, sample = shape.params.conditions, params.sample
    sample = replace(
        sample,
        fps=sample.fps if "fps" in known else None,
        motion=sample.motion if "motion" in known else None,
        history_noise=sample.history_noise if "history_noise" in known else 0.0,
    )
    text = replace(params.text, max_tokens=shape.max_text_tokens)
    return replace(params, model=shape.params, sample=sample, text=text)


def _refuse_others(params: Params, shape: ModelShape, folder: Path) -> None:
    """Refuse a tokenizer, a text encoder or clips that do not fit the weights; all problems are named.

    Raises:
        DataError: something does not fit.
    """
    tokenizer, ingest = load_tokenizer(folder), params.ingest
    problems = []
    if tokenizer.channels != shape.latent_channels:
        got = f"{folder} with latents of {tokenizer.channels} channels"
        problems.append(f"--tokenizer: got {got}, expected {shape.latent_channels} as in the weights")
    channels = load_text_encoder(params.text, with_weights=False).channels
    if channels != shape.text_channels and params.text.encoder != "none":
        got = f"{params.text.encoder} with states of {channels} channels"
        problems.append(f"--text-encoder: got {got}, expected {shape.text_channels} as in the weights")
    pixels = tokenizer.space_stride * shape.params.patch_size
    if ingest.size_px % pixels or ingest.side_multiple_px % pixels:
        got = f"size_px {ingest.size_px} and side_multiple_px {ingest.side_multiple_px}"
        problems.append(f"ingest: got {got}, expected multiples of {pixels} pixels, a token's side")
    if (ingest.num_frames - 1) % tokenizer.time_stride:
        rule = f"1 + a multiple of the tokenizer's time stride {tokenizer.time_stride}"
        problems.append(f"ingest.num_frames: got {ingest.num_frames}, expected {rule}")
    if problems:
        raise DataError(
            f"{'; '.join(problems)}; give fitting files, or set the clips in params.yaml "
            "(`videomar use-preset paper` has those of the released weights)"
        )
