"""Clips and curves as pictures: data: addresses, which the pages show with no network."""

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image
from prefect.artifacts import create_image_artifact

from videomar.evaluation.generated import read_generated

_CLIPS, _FRAMES = 4, 6
_KINDS = ("truth", "continuation")
_MAX_WIDTH_PX = 1536


def show_clips(generated: Path) -> None:
    """Some frames of the first held-out clips: each truth with the model's continuation below it."""
    clips = [kinds for kinds in read_generated(generated) if all(kind in kinds for kind in _KINDS)]
    if not clips:
        return
    rows = [_row(kinds[kind].frames) for kinds in clips[:_CLIPS] for kind in _KINDS]
    width = max(row.width for row in rows)
    sheet = Image.new("RGB", (width, sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    scale = min(1.0, _MAX_WIDTH_PX / width)
    sheet = sheet.resize((round(width * scale), round(sheet.height * scale)))
    _show(sheet, "clips", "Held-out clips: the truth, and below it the model's continuation")


def show_curves(picture: Path) -> None:
    """The curves of runs side by side."""
    _show(Image.open(picture).convert("RGB"), "curves", "The runs' curves")


def _show(picture: Image.Image, key: str, told: str) -> None:
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=80)
    address = "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
    create_image_artifact(image_url=address, key=key, description=told)


def _row(frames: np.ndarray) -> Image.Image:
    """Frames (F, H, W, 3) from the first to the last, side by side."""
    chosen = np.linspace(0, len(frames) - 1, min(_FRAMES, len(frames))).round().astype(int)
    return Image.fromarray(np.concatenate(list(frames[chosen]), axis=1))
