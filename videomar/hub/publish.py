"""A model that leaves: exported to a folder that holds everything, and from there to a hub."""

import os
import tempfile
from dataclasses import replace
from pathlib import Path

from videomar.checkpoint import ModelFolder, export, read_parts
from videomar.checkpoint.model_folder import CARD, TEXT_ENCODER
from videomar.config import load_params
from videomar.config.layout import Layout
from videomar.config.models import NAMED_ENCODERS
from videomar.encoders.load import tokenizer_files
from videomar.encoders.text import text_encoder_files
from videomar.files import require_new_folder
from videomar.hub.find import find_model, is_registered
from videomar.hub.repository import upload
from videomar.provenance.card import CardFacts, model_card

_HERE = Layout()


def export_model(model: str, out: Path, pack_text_encoder: bool = False) -> list[str]:
    """Write a model to a new folder, with all that it needs; return lines for the user.

    Args:
        model: as in `videomar.load`.
        out: a new folder.
        pack_text_encoder: copy the text encoder's files, too, if its parameters name a folder.

    Raises:
        VideomarError: there is no such model, it is damaged, or `out` is in use.
    """
    out = out.resolve()
    require_new_folder(out)
    found = find_model(model)
    params = load_params(found.params, _HERE.params if _HERE.params.is_file() else None)
    text_encoder, note = found.text_encoder, ""
    if text_encoder is None and params.text.encoder not in NAMED_ENCODERS:
        if pack_text_encoder:
            text_encoder = Path(params.text.encoder)
        else:
            note = (
                f"text encoder: {params.text.encoder}, by name alone; --with-text-encoder copies its files, "
                "else give videomar.load(..., text_encoder=DIR) where it lies elsewhere"
            )
    if text_encoder is not None:  # by its place in the folder, wherever that is copied to
        params = replace(params, text=replace(params.text, encoder=TEXT_ENCODER))
    packed = text_encoder_files(text_encoder) if text_encoder else ()
    parts = read_parts(tokenizer_files(found.tokenizer), params, _card(model, found), packed)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".draft-", dir=out.parent) as draft:
        export(found.checkpoint, Path(draft) / "model", parts)
        os.replace(Path(draft) / "model", out)
    size_mb = sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / 1e6
    lines = [f"{out}: the whole model, {size_mb:.1f} MB; `videomar.load({str(out)!r})` takes it anywhere"]
    return [*lines, note] if note else lines


def push_model(model: str, repository: str, private: bool, pack_text_encoder: bool = False) -> list[str]:
    """Export a model and upload it to a repository of a hub; return lines for the user.

    Args:
        model: as in `videomar.load`.
        repository: OWNER/NAME; created if it does not exist.
        private: whether a new repository can be read by its owner alone.
        pack_text_encoder: as in `export_model`.

    Raises:
        VideomarError: there is no such model, or the hub does not take it.
    """
    with tempfile.TemporaryDirectory() as folder:
        _, *notes = export_model(model, Path(folder) / "model", pack_text_encoder)
        address = upload(Path(folder) / "model", repository, private)
    return [f"{address}: `videomar.load({repository!r})` takes it anywhere", *notes]


def _card(model: str, found: ModelFolder) -> str:
    """The card of a registered version as its evidence has it now, else that of the folder."""
    if is_registered(model):
        from videomar.registry.model_card import card_of
        from videomar.registry.versions import find_model as find_version

        return card_of(find_version(model))
    card = found.checkpoint / CARD
    if not card.is_file():
        return model_card(CardFacts(name=f"videomar, {found.checkpoint.name}"))
    return card.read_text(encoding="utf-8")
