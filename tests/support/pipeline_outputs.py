"""Small outputs of a pipeline run, for tests of the stages and tools that read them."""

import dataclasses
import io
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from tests.conftest import small_params
from videomar import checkpoint
from videomar.checkpoint.manifest import ModelShape
from videomar.compute.seeding import step_generator
from videomar.curation.captions.caption_report import CaptionReport
from videomar.curation.ledger import LEDGER_SCHEMA, read_ledger, read_note
from videomar.curation.ledger import write_ledger as write_ledger_rows
from videomar.encoders.causal import CausalTokenizer, save_tokenizer
from videomar.evaluation.generated import repeat_last
from videomar.evaluation.suite import evaluate_clips
from videomar.files import sha256_of
from videomar.latents.parquet import SCHEMA
from videomar.latents.shards import write_shards
from videomar.training.state import untrained

FRAMES, SIZE_PX = 9, 8
EVIL = "<script>alert(1)</script>&\"'"
REPOSITORY = Path(__file__).parents[2]
_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("clip_id", "group", "kind", "caption", "prompt")),
        ("context_frames", pa.int32()),
        ("fps", pa.float64()),
        ("shape", pa.list_(pa.int32())),
        ("frames", pa.large_binary()),
    ]
)


def write_generated(path: Path, groups: dict[str, int], noise: float = 4.0, first: int = 0) -> None:
    """generated.parquet with so many clips per group, from a number on; the model is right up to noise."""
    rows: list[dict[str, object]] = []
    for group, count in groups.items():
        for index in range(first, first + count):
            rows += _clip_rows(f"{group}-{index:03d}", group, noise, np.random.default_rng(index))
    pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), path)


def evaluate(generated: Path, plot: Path) -> dict[str, float]:
    """Judge a few of the clips by every metric; files named evaluation.* beside them."""
    suite = dataclasses.replace(small_params().suite, metric_clips=2, feature_clips=1, extra_clips=0)
    places = {"out": generated.with_name("evaluation.parquet"), "plot": plot}
    places |= {"generated": generated, "details": generated.with_name("evaluation.json")}
    return evaluate_clips(SimpleNamespace(**places, sampled=generated.with_name("none.json")), suite)


@contextmanager
def working_in(root: Path) -> Iterator[None]:
    """Work in a tree with an MLflow store of its own, while a fixture that outlives a test is made."""
    with patch.dict(os.environ), chdir(root):
        os.environ.pop("MLFLOW_TRACKING_URI", None)  # MLflow will set it, and no test may inherit it
        yield


def write_outputs(root: Path) -> None:
    """All files that the report and the release read, below `root`."""
    for folder in ("data", "metrics", "plots", "checkpoints/tokenizer"):
        (root / folder).mkdir(parents=True)
    write_generated(root / "data/generated.parquet", {"simulated": 10, "real": 9})
    figures = evaluate(root / "data/generated.parquet", root / "plots/quality_by_frame.csv")
    for stage, metrics in {"evaluate": figures, "train": {"loss": 0.5}}.items():
        costs = {"seconds": 3.0, "peak_memory_gb": 0.5}
        (root / f"metrics/{stage}.json").write_text(json.dumps({**metrics, **costs}))
    steps = range(0, 30, 10)
    curve = pd.DataFrame({"step": steps, "stage": [0, 0, 1], "loss": [3.0, 2.0, 1.0], "learning_rate": 1e-3})
    curve.to_csv(root / "plots/train.csv", index=False)
    pd.DataFrame({"step": steps, "loss": 0.1, "psnr_db": 30.0}).to_csv(
        root / "plots/tokenizer.csv", index=False
    )
    write_ledger(root / "data/ledger.parquet")
    shape = ModelShape(small_params().model, 4, 6, 5)
    weights = untrained(shape, 0).state_dict()
    tensors = {"model": weights, "ema": weights, "optimizer": weights}
    checkpoint.save(root / "checkpoints/videomar", 30, shape, tensors, {})
    coder = CausalTokenizer(small_params().tokenizer).initialise(step_generator(0, 0))
    save_tokenizer(coder, root / "checkpoints/tokenizer")
    _write_data(root)
    (root / "dvc.lock").write_text("schema: '2.0'\n")
    shutil.copy(REPOSITORY / "params.yaml", root)


def _write_data(root: Path) -> None:
    """The raw file of the ledger's one kept clip, and its latent."""
    raw = root / "data/raw/simulated/a.mp4"
    raw.parent.mkdir(parents=True)
    raw.write_bytes(b"bytes of a video")
    ledger = read_ledger(root / "data/ledger.parquet")
    ledger.loc[ledger["video"] == "simulated/a.mp4", "video_sha256"] = sha256_of(raw)
    write_ledger_rows(root / "data/ledger.parquet", ledger, read_note(root / "data/ledger.parquet"))
    row: dict[str, object] = dict.fromkeys(SCHEMA.names)
    row |= {"clip_id": "1", "key": "k1", "text_key": "t1", "shape": [1, 1, 1, 1], "dtype": "float16"}
    row |= {"latents": b"12", "text": b"34", "text_shape": [1, 1], "caption": EVIL, "group": "simulated"}
    row |= {"split": "train", "fps": 8.0, "motion": 1.0}
    write_shards(root / "data/latents", [row], 8, {"tokenizer": "f" * 64})


def write_ledger(path: Path) -> None:
    """A ledger with kept, rejected and unreadable rows; hostile in a caption, a name and a table's row."""
    picture = io.BytesIO()
    Image.new("RGB", (24, 8), "teal").save(picture, "JPEG")
    clip = {"video": "simulated/a.mp4", "start_s": 1.0, "caption": EVIL, "group": "simulated", "reason": None}
    rows = [
        {
            **clip,
            "clip_id": "1",
            "kept": True,
            "split": "train",
            "caption_from": "my.csv",
            "thumbnail": picture.getvalue(),
        },
        {**clip, "clip_id": "2", "kept": False, "reason": "too_dark", "thumbnail": picture.getvalue()},
        {"video": f"{EVIL}.mp4", "group": "real", "kept": False, "reason": "empty_file"},
    ]
    report = CaptionReport(tables=["my.csv"])
    report.add("unmatched", f"my.csv line 3: {EVIL}")
    write_ledger_rows(path, pd.DataFrame(rows, columns=LEDGER_SCHEMA.names), report.to_json())


def _clip_rows(clip_id: str, group: str, noise: float, rng: np.random.Generator) -> list[dict[str, object]]:
    drift = np.linspace(0, 60, FRAMES)[:, None, None, None]
    truth = np.clip(rng.uniform(40, 160, (1, SIZE_PX, SIZE_PX, 3)) + drift, 0, 255).astype(np.uint8)
    kinds: dict[str, tuple[int, NDArray[np.uint8]]] = {
        "truth": (FRAMES, truth),
        "tokenizer": (0, _noisy(truth, 1.0, rng)),
        "continuation": (5, _noisy(truth, noise, rng)),
        "continuation_untrained": (5, _noisy(repeat_last(truth, 5), 50.0, rng)),
        "continuation_linear": (5, _noisy(repeat_last(truth, 5), 20.0, rng)),
        "image": (1, _noisy(truth, noise, rng)),
        "image_wrong_prompt": (1, _noisy(repeat_last(truth, 1), noise, rng)),
    }
    prompts = {"image_wrong_prompt": f"wrong {EVIL}"}
    return [
        {
            "clip_id": clip_id,
            "group": group,
            "kind": kind,
            "caption": EVIL,
            "prompt": prompts.get(kind, EVIL),
            "context_frames": context,
            "fps": 8.0,
            "shape": list(frames.shape),
            "frames": frames.tobytes(),
        }
        for kind, (context, frames) in kinds.items()
    ]


def _noisy(frames: NDArray[np.uint8], scale: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    return np.clip(frames + rng.normal(0, scale, frames.shape), 0, 255).astype(np.uint8)
