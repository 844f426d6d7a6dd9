"""Views of real training clips: other cuts of the same shot, encoded beside the clip as rows of their own.

A few hundred real clips are learnt by heart within minutes. Views are crops, zooms, mirrors, speeds and start
times that the same films hold as well, cut from the pixels before they are encoded:

    shot          |------------------------------ kept, train ------------------------------|
    clip                        |============|
    view 1               |============|                 shifted by up to half a clip
    view 2                     |=======|                at 0.6 of the speed, zoomed into a corner
    view 3             |=========================|      at twice the speed, mirrored

What a view is follows from the clip's id, the view's number and the seed, and from nothing else but this: it
is moved, and slowed down, until it shows no moment that kept training clips of its shot do not show. So it
never leaves its shot, and has no frame of another split or of a rejected clip. A clip that comes or goes in
the same shot changes those views of its neighbours that ran into the end.

Clips of validation and test, simulated clips and still pictures have no views.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas

from videomar.config import EncodeParams, Params
from videomar.media.shapes import View

_MS = 1000
_FPS_DIGITS = 1000
# Mirrored they would be wrong. A clip whose caption has one of them by chance is not mirrored either.
_SIDES = re.compile(
    r"\b(left|right|leftmost|rightmost|leftwards?|rightwards?|clockwise|counter-?clockwise|anti-?clockwise"
    r"|links|rechts|gauche|droite|izquierda|derecha|sinistra|destra)\b|[左右]",
    re.IGNORECASE,
)


class _Span(NamedTuple):
    """First and last moment that a clip may show, seconds."""

    first_s: float
    last_s: float


def with_views(clips: pandas.DataFrame, params: Params) -> pandas.DataFrame:
    """Return the kept clips of a ledger, and after each its views, with columns `view` and `cut`.

    Args:
        clips: rows of the ledger, in any order.
        params: sections `ingest` and `encode`.

    Returns:
        A row for each clip, `view` 0 and `cut` None, and for each view, `view` from 1, `cut` a `View` and
        `start_s` its own.
    """
    rows = clips.assign(view=0, cut=None)
    if not params.encode.views:
        return rows
    shown = clips[have_views(clips)]
    spans, found, columns = _spans(shown, params.ingest.fps), [rows], list(shown.columns)
    for number in range(1, params.encode.views + 1):
        drawn = [
            _draw(dict(zip(columns, values, strict=True)), number, span, params)
            for values, span in zip(shown.itertuples(index=False, name=None), spans, strict=True)
        ]
        starts, cuts = ([one[part] for one in drawn] for part in (0, 1))
        found.append(shown.assign(view=number, cut=cuts, start_s=starts))
    together = pandas.concat([part for part in found if len(part)])
    return together.sort_values(["video", "start_s", "clip_id", "view"], ignore_index=True)


def have_views(clips: pandas.DataFrame) -> "pandas.Series[bool]":
    """Whether each kept clip of a ledger has views, if any has: real ones for training that move."""
    return (clips["group"] != "simulated") & (clips["split"] == "train") & (clips["num_frames"] > 1)


def mirrors_wrongly(caption: str) -> bool:
    """Whether a caption names a side, so that it does not describe the mirrored clip."""
    return bool(_SIDES.search(caption))


def _spans(clips: pandas.DataFrame, fps: float) -> list[_Span]:
    """What the views of each clip may show: all that clips show, of its shot and without a gap to it."""
    spans: dict[int, _Span] = {}
    begin_s = clips["shot_s"].astype(np.float64).fillna(clips["start_s"])
    last_s = clips["start_s"] + (clips["num_frames"] - 1) / fps
    table = pandas.DataFrame({"first": clips["start_s"], "last": last_s}).reset_index(drop=True)
    for _, rows in table.groupby([clips["video"].to_numpy(), begin_s.to_numpy()], sort=False):
        for numbers, span in _runs(rows.sort_values("first"), fps):
            spans |= dict.fromkeys(numbers, span)
    return [spans[number] for number in range(len(clips))]


def _runs(rows: pandas.DataFrame, fps: float) -> Iterator[tuple[list[int], _Span]]:
    """Clips of a shot, by time, in runs: from one to the next no more than a frame is missing."""
    numbers: list[int] = []
    first_s = last_s = 0.0
    for number, start_s, end_s in rows.itertuples(name=None):
        if numbers and start_s > last_s + 1.5 / fps:
            yield numbers, _Span(first_s, last_s)
            numbers = []
        first_s, last_s = (first_s, max(last_s, end_s)) if numbers else (start_s, end_s)
        numbers.append(number)
    yield numbers, _Span(first_s, last_s)


def _draw(clip: dict[str, object], number: int, span: _Span, params: Params) -> tuple[float, View]:
    """Start and cut of a view."""
    encode, fps, steps = params.encode, params.ingest.fps, _number(clip["num_frames"]) - 1
    speed, shift, zoom, left, top, turn = _rng(str(clip["clip_id"]), number, encode).random(6).tolist()
    slowest, fastest = encode.view_speeds
    shown_fps = fps / (slowest * (fastest / slowest) ** speed)
    # No faster than the shot is long; rounded so that the view gets shorter.
    least_fps = steps / (span.last_s - span.first_s)
    shown_fps = math.ceil(max(shown_fps, least_fps) * _FPS_DIGITS - 1e-6) / _FPS_DIGITS
    length_s, own_s = steps / shown_fps, steps / fps
    start_s = _number(clip["start_s"]) + (own_s - length_s) / 2 + (shift - 0.5) * own_s
    start_s = max(span.first_s, min(start_s, span.last_s - length_s))
    # A small video is not zoomed into beyond its own pixels.
    sides = (
        (_number(clip["width"]) / _number(clip["clip_width_px"])),
        (_number(clip["height"]) / _number(clip["clip_height_px"])),
    )
    most = min(encode.view_zoom, max(1.0, min(sides)))
    mirrored = encode.view_mirror and turn < 0.5 and not mirrors_wrongly(str(clip["caption"]))
    cut = View(shown_fps, round(most**zoom, 4), round(left, 4), round(top, 4), mirrored)
    return max(span.first_s, math.floor(start_s * _MS) / _MS), cut


def _rng(clip_id: str, number: int, encode: EncodeParams) -> np.random.Generator:
    """The draws of one view: the same whatever other clips there are."""
    source = json.dumps([clip_id, number, encode.view_seed]).encode()
    return np.random.default_rng(int.from_bytes(hashlib.sha256(source).digest()[:16]))


def _number(value: object) -> float:
    return float(value)  # type: ignore[arg-type]
