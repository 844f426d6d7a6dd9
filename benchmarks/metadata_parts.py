"""The parts of the benchmark `metadata`, and the simulated clips that they work on.

A part is a function that prepares files for a number of clips in a folder, and returns a function without
arguments: the work to be measured. Latents have 80 bytes; nothing is decoded.
"""

import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.record import ROOT
from videomar.config import Params, load_params
from videomar.curation.curate import curate_clips
from videomar.curation.duplicates import FINGERPRINT_BYTES, find_clusters
from videomar.curation.ingest import count_candidates
from videomar.curation.ledger import ClipRow, read_ledger, write_candidates, write_ledger
from videomar.curation.ledger_diff import compare_ledgers, read_policy
from videomar.curation.splits import assign_split
from videomar.latents.clip_encoder import Encoded, Video
from videomar.latents.dataset import BatchSpec, LatentDataset
from videomar.latents.encode import encode_clips

CLIPS_PER_VIDEO = 10
THUMBNAIL_BYTES, CAPTION_LENGTH = 3066, 64  # means of the shipped clips
# With this share of bits set, two fingerprints share a band of 15 bits as often as shipped clips of different
# videos do: 1.4e-4.
SET_BITS = 0.655
COPIED = 0.01  # share of clips that are near-duplicates: three bits and no colour changed
SHAPE = [2, 5, 2, 2]
DRAW = BatchSpec(batch_size=16, simulated_share=0.5, seed=0)
BATCHES = 20

Part = Callable[[Path, int], Callable[[], object]]


def write_settings(folder: Path) -> None:
    """Write parameters, a second file with other limits, an empty list of takedowns, and a tokenizer."""
    from videomar.compute.seeding import step_generator
    from videomar.encoders.causal import CausalTokenizer, save_tokenizer

    values = yaml.safe_load((ROOT / "params.yaml").read_text("utf-8"))
    values["text"]["encoder"] = "none"
    (folder / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    values["curate"] |= {"min_motion": 1.0, "min_sharpness": 200.0}
    (folder / "other.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    (folder / "takedowns.csv").write_text("video_sha256,video,reason,removed_at\n", encoding="utf-8")
    small = dataclasses.replace(_params(folder).tokenizer, hidden_size=8, depth=1)
    save_tokenizer(CausalTokenizer(small).initialise(step_generator(0, 0)), folder / "tokenizer")


def candidates(folder: Path, clips: int) -> Callable[[], object]:
    """Ingest's end: its counts, and its rows into a file."""
    rows = simulated_candidates(clips)
    names = sorted({row.video for row in rows})
    path = folder / "candidates.parquet"
    return lambda: (count_candidates(names, rows), write_candidates(path, rows))


def curate(folder: Path, _: int) -> Callable[[], object]:
    """The whole stage curate: read, judge, find near-duplicates, split, write."""
    paths = [folder / name for name in ("candidates.parquet", "takedowns.csv", "ledger.parquet")]
    return lambda: curate_clips(*paths, _params(folder).curate)


def duplicates(folder: Path, _: int) -> Callable[[], object]:
    """Finding near-duplicates alone."""
    ledger = read_ledger(folder / "ledger.parquet")
    return lambda: find_clusters(ledger, _params(folder).curate)


def splits(folder: Path, _: int) -> Callable[[], object]:
    """Assigning splits alone."""
    ledger = read_ledger(folder / "ledger.parquet")
    return lambda: assign_split(ledger, _params(folder).curate)


def ledger_diff(folder: Path, _: int) -> Callable[[], object]:
    """`videomar ledger diff other.yaml`: judge with other limits and compare."""

    def compare() -> None:
        other = read_policy(folder / "other.yaml", folder / "candidates.parquet", folder / "takedowns.csv")
        ledger = read_ledger(folder / "ledger.parquet", thumbnails=False)
        assert compare_ledgers(ledger, other).newly_rejected

    return compare


def ledger_show(folder: Path, _: int) -> Callable[[], object]:
    """`videomar ledger show`."""
    from videomar.report.ledger_sheet import summarise_ledger

    return lambda: summarise_ledger(folder / "ledger.parquet")


def encode(folder: Path, clips: int) -> Callable[[], object]:
    """All latents: keys, journal, shards; the encoder takes no time."""
    return lambda: _encode(folder, at_least=clips // 2)


def encode_again(folder: Path, _: int) -> Callable[[], object]:
    """The stage encode when nothing changed."""
    return lambda: _encode(folder, at_most=0)


def encode_changed(folder: Path, _: int) -> Callable[[], object]:
    """The stage encode when one clip changed."""
    ledger = read_ledger(folder / "ledger.parquet")
    ledger.loc[ledger.index[ledger["kept"]][0], "start_s"] += 0.5
    write_ledger(folder / "ledger.parquet", ledger)
    return lambda: _encode(folder, at_least=1, at_most=1)


def open_dataset(folder: Path, _: int) -> Callable[[], object]:
    """Opening the dataset, as every worker of a training run does."""
    return lambda: _dataset(folder)


def first_batch(folder: Path, _: int) -> Callable[[], object]:
    """Making the buckets and reading a first batch, with the checksums of the row groups it touches."""
    dataset = _dataset(folder)
    return lambda: dataset.batch_at(0, DRAW)


def batches(folder: Path, _: int) -> Callable[[], object]:
    """Choosing the clips of BATCHES later batches, without reading them."""
    dataset = _dataset(folder)
    dataset.index_at(0, DRAW.batch_size, DRAW.simulated_share, DRAW.seed)
    return lambda: [
        dataset.index_at(step, DRAW.batch_size, DRAW.simulated_share, DRAW.seed)
        for step in range(1, BATCHES + 1)
    ]


def manifest(folder: Path, _: int) -> Callable[[], object]:
    """Writing the table of clips that a registered version stores."""
    from videomar.registry.evidence import write_lineage

    paths = (folder / name for name in ("lineage.parquet", "ledger.parquet", "latents"))
    return lambda: write_lineage(*paths)


def trace_forward(folder: Path, _: int) -> Callable[[], object]:
    """`videomar trace VERSION --json`: down to every clip and raw file."""
    from videomar.registry.trace import trace
    from videomar.registry.versions import MODEL, version_of
    from videomar.tracking.mlflow_store import experiment_id, open_client

    client = open_client()
    run = client.create_run(experiment_id(client))
    client.log_artifact(run.info.run_id, str(folder / "lineage.parquet"), "evidence")
    client.create_registered_model(MODEL)
    client.create_model_version(MODEL, run.info.artifact_uri, run.info.run_id)
    return lambda: json.dumps(trace(version_of("1")).to_dict())


def trace_back(folder: Path, _: int) -> Callable[[], object]:
    """`videomar trace VIDEO`, with one registered version in an existing store."""
    from videomar.registry.takedown import find_usage
    from videomar.tracking.mlflow_store import open_client

    open_client()
    digest = hashlib.sha256(b"0").hexdigest()

    def find() -> None:
        assert find_usage(digest)[0].clips

    return find


def gc_objects(folder: Path, clips: int) -> Callable[[], object]:
    """`videomar gc` on DVC's cache of the videos, half of which nothing refers to."""
    from dvc.repo import Repo

    from videomar.ops.gc import find_objects

    Repo.init(no_scm=True).close()
    cache = folder / ".dvc/cache/files/md5"
    digests = [hashlib.md5(b"%d" % n).hexdigest() for n in range(clips // CLIPS_PER_VIDEO)]
    listing = [{"md5": md5, "relpath": f"{n}.mp4"} for n, md5 in enumerate(digests[::2])]
    contents = json.dumps(listing).encode()
    md5 = hashlib.md5(contents).hexdigest()
    for name, data in itertools.chain([(f"{md5}.dir", contents)], ((digest, b"") for digest in digests)):
        (cache / name[:2]).mkdir(parents=True, exist_ok=True)
        (cache / name[:2] / name[2:]).write_bytes(data)
    out = {"md5": f"{md5}.dir", "path": "raw", "hash": "md5", "size": 0, "nfiles": len(listing)}
    (folder / "raw.dvc").write_text(yaml.safe_dump({"outs": [out]}), encoding="utf-8")

    def find() -> None:
        [garbage], notes = find_objects([])
        assert f" {len(digests) // 2} objects" in garbage.what, (garbage, notes)

    return find


PARTS: dict[str, Part] = {
    part.__name__: part
    for part in (
        candidates,
        curate,
        duplicates,
        splits,
        ledger_diff,
        ledger_show,
        encode,
        encode_again,
        encode_changed,
        open_dataset,
        first_batch,
        batches,
        manifest,
        trace_forward,
        trace_back,
        gc_objects,
    )
}


def _params(folder: Path) -> Params:
    return load_params(folder / "params.yaml")


def _dataset(folder: Path) -> LatentDataset:
    return LatentDataset(folder / "latents", "train", _params(folder).text.max_tokens)


def _encode(folder: Path, at_least: int = 0, at_most: float = math.inf) -> None:
    data = np.arange(math.prod(SHAPE)).astype(np.float16).tobytes()

    def instantly(videos: Sequence[Video], _: Path, __: Params) -> Iterator[list[Encoded]]:
        return ([Encoded(key, SHAPE, data) for key in video.keys] for video in videos)

    paths = [folder / name for name in ("raw", "ledger.parquet", "tokenizer", "latents")]
    done: dict[str, Any] = encode_clips(*paths, _params(folder), instantly)
    assert at_least <= done["encoded"] <= at_most, done


def simulated_candidates(clips: int) -> list[ClipRow]:
    """Rows as ingest writes them: all columns, as wide as for the shipped clips, some near-duplicates."""
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
