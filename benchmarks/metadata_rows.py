"""Simulated candidates for the benchmark `metadata`: all columns, as wide as those of the shipped clips."""

import hashlib

import numpy as np

from videomar.curation.duplicates import FINGERPRINT_BYTES
from videomar.curation.ledger import ClipRow

CLIPS_PER_VIDEO = 10
THUMBNAIL_BYTES, CAPTION_LENGTH = 3066, 64  # means of the shipped clips
# Bits that are set so often share a band of 15 as two shipped clips of different videos do: 1.4e-4.
SET_BITS = 0.655
COPIED = 0.01  # of clips, with three bits and no colour changed


def simulated_candidates(clips: int) -> list[ClipRow]:
    """Rows as ingest leaves them."""
    rng = np.random.default_rng(0)
    marks = rng.integers(0, 256, (clips, FINGERPRINT_BYTES), np.uint8)
    marks[:, :24] = np.packbits(rng.random((clips, 192), np.float32) < SET_BITS, axis=1)
    copies = rng.permutation(clips)[: int(COPIED * clips)]
    marks[copies] = marks[rng.integers(0, clips, len(copies))]
    marks[copies, rng.integers(0, 24, len(copies))] ^= 7
    pool = rng.bytes(2**22)
    scores = rng.lognormal(0, 0.5, (clips, 4))
    videos = [hashlib.sha256(b"%d" % number).hexdigest() for number in range(-(-clips // CLIPS_PER_VIDEO))]
    rows = []
    for n, (mark, score) in enumerate(zip(marks, scores.tolist(), strict=True)):
        number, place = divmod(n, CLIPS_PER_VIDEO)
        start = n * 7919 % (len(pool) - THUMBNAIL_BYTES)
        row = ClipRow(
            video=f"folder_{number % 100:03d}/video_{number:07d}.mp4",
            video_sha256=videos[number],
            clip_id=hashlib.sha256(b"clip %d" % n).hexdigest()[:16],
            start_s=2.125 * place,
            end_s=2.125 * (place + 1),
            caption=f"caption {n} ".ljust(CAPTION_LENGTH, "."),
            group="real" if number % 2 else "simulated",
            width=1280,
            height=720,
            clip_width_px=32,
            clip_height_px=32,
            num_frames=17,
            motion=2 * score[0],
            brightness=100 * score[1] ** 0.2,
            contrast=50 * score[2],
            sharpness=600 * score[3],
            frozen_share=0.0,
            flicker=0.5,
            letterbox_share=0.0,
            fingerprint=mark.tobytes(),
            thumbnail=pool[start : start + THUMBNAIL_BYTES],
        )
        rows.append(row)
    return rows
