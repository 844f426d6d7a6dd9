"""What `videomar plan` says beside what then happens."""

import dataclasses
import json
import sys
import time
from pathlib import Path

import pandas
import pytest
import torch

from tests.conftest import small_params
from tests.support.caches import write_cache
from videomar.checkpoint.manifest import ModelShape
from videomar.cli import app as cli
from videomar.config import CurriculumStage, Params
from videomar.config.schema import set_keys
from videomar.curation.ledger import LEDGER_SCHEMA, write_ledger
from videomar.encoders.causal import CausalTokenizer, save_tokenizer
from videomar.latents.clip_encoder import stored_bytes
from videomar.latents.dataset import LatentDataset, Splits
from videomar.media.shapes import ClipShape, at_sizes
from videomar.ops.planning.plan import training_costs
from videomar.ops.planning.plan_counts import Strides, Videos, cached_shapes, find_clips, latent_bytes
from videomar.ops.planning.plan_probe import Subject, training_probe
from videomar.training.loop import train
from videomar.training.worker import Worker

SIZES = [(32, 32), (48, 24), (32, 32)]


def ledger_of(path: Path, kept: int = 3) -> Path:
    rows = [
        dict.fromkeys(LEDGER_SCHEMA.names)
        | {"video": f"{number}.mp4", "clip_id": str(number), "kept": number < kept, "split": "train"}
        | {"clip_width_px": width, "clip_height_px": height, "num_frames": 17, "caption": "", "group": "real"}
        for number, (width, height) in enumerate([*SIZES, (640, 480)])
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_ledger(path, pandas.DataFrame(rows, columns=LEDGER_SCHEMA.names))
    return path


def with_sizes(params: Params) -> Params:
    encode = dataclasses.replace(params.encode, smaller_sizes_px=(16,), moments=True, dtype="float32")
    return dataclasses.replace(params, encode=encode)


def test_bytes_of_latents_are_exactly_those_that_are_encoded(tmp_path: Path, params: Params) -> None:
    """Of clips of two shapes at two sizes each, with deviations; rejected ones do not count."""
    tokenizer = CausalTokenizer(params.tokenizer)
    strides = Strides(tokenizer.channels, tokenizer.time_stride, tokenizer.space_stride)
    for asked in (params, with_sizes(params)):
        clips = find_clips(ledger_of(tmp_path / "ledger.parquet"), Videos(0, 0.0, []), asked)
        assert clips.counted
        encoded = 0
        sizes_px = (asked.ingest.size_px, *asked.encode.smaller_sizes_px)
        for width, height in SIZES:
            for shape in at_sizes(ClipShape(height, width, 8.0, 17), sizes_px, asked.ingest):
                video = torch.zeros(1, 3, shape.num_frames, shape.height_px, shape.width_px)
                mean, std = tokenizer.encode_moments(video)
                encoded += len(stored_bytes(mean[0], asked.encode.dtype))
                if asked.encode.moments:
                    encoded += len(stored_bytes(std[0], asked.encode.dtype))
        assert latent_bytes(cached_shapes(clips, asked, strides), asked) == encoded


def plan_and_run(params: Params, folder: Path) -> tuple[float, float]:
    """Seconds of training as planned, and as they then were."""
    latents = write_cache(folder / "latents", clips=24)
    data = LatentDataset(latents, "train", params.text.max_tokens)
    shape = ModelShape(params.model, data.latent_channels, data.text_channels, params.text.max_tokens)
    clip = ClipShape(16, 16, 8.0, 9)
    subject = Subject(params, shape, [(32, data.latent_shapes[0])], len(data), clip, None, None)
    messages: list[tuple[object, ...]] = []
    training_probe(subject, messages.append)
    hours = training_costs(subject, messages)[-1].hours
    assert hours is not None
    start = time.perf_counter()
    train(shape, Splits(data, data), params.train, folder / "run", Worker(), None)
    return 3600 * hours, time.perf_counter() - start


@pytest.mark.quiet
def test_planned_hours_of_training_are_within_a_quarter_of_what_then_happens(tmp_path: Path) -> None:
    """Two stages of unlike cost, with validations and checkpoints in them.

    Another process may take the core during the probe or the run, and then neither says anything about the
    other: so the plan has three chances; one that is wrong by itself fails all of them.
    """
    params = small_params()
    stages = (
        CurriculumStage(num_latent_frames=2, steps=60, batch_size=4),
        CurriculumStage(num_latent_frames=0, steps=60, batch_size=16),
    )
    train = dataclasses.replace(
        params.train, curriculum=stages, log_every=5, checkpoint_every=25, validate_every=20
    )
    params = dataclasses.replace(params, train=train)
    torch.set_num_threads(1)
    seen = []
    for number in range(3):
        planned, real = plan_and_run(params, tmp_path / str(number))
        seen.append(planned / real)
        if abs(planned - real) <= 0.25 * real:
            return
    pytest.fail(f"planned over real: {seen}")


def test_stage_that_the_probe_did_not_reach_costs_by_its_operations(params: Params) -> None:
    twice = [CurriculumStage(num_latent_frames=0, steps=10, batch_size=size) for size in (4, 8)]
    train = dataclasses.replace(params.train, curriculum=tuple(twice), validate_every=0)
    params = dataclasses.replace(params, train=train)
    model = ModelShape(params.model, 4, 6, 5)
    subject = Subject(params, model, [(32, (4, 3, 2, 2))], 0, ClipShape(16, 16, 8.0, 9), None, None)
    messages = [("log", 0.0), *(("row", 0, float(second), False, 0.5) for second in range(4))]
    first, second, total = training_costs(subject, messages)
    assert first.hours == pytest.approx(10 / 3600)
    assert second.hours == pytest.approx(20 / 3600)
    assert total.hours == pytest.approx(30 / 3600)
    assert (first.clips, second.tokens, second.peak_memory_gb) == (40, 80 * 3 * 4, None)


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["videomar", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def write_small(path: Path) -> Params:
    """params.yaml with a small network; JSON is YAML."""
    params = small_params()
    params = dataclasses.replace(params, text=dataclasses.replace(params.text, encoder="none"))
    raw: dict[str, object] = {}
    set_keys(raw, dataclasses.asdict(params))
    path.write_text(json.dumps(raw))
    return params


def test_plan_with_nothing_to_count_says_so_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_small(tmp_path / "params.yaml")
    assert run(monkeypatch, "plan") == 1
    said = capsys.readouterr().err.splitlines()
    assert "neither data/ledger.parquet nor a readable video" in said[-1]


@pytest.mark.slow
def test_plan_as_json_has_every_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    params = write_small(tmp_path / "params.yaml")
    ledger_of(tmp_path / "data/ledger.parquet")
    save_tokenizer(CausalTokenizer(params.tokenizer), tmp_path / "checkpoints/tokenizer")
    assert run(monkeypatch, "plan", "--json") == 0
    stages = json.loads(capsys.readouterr().out)["stages"]
    assert list(stages) == [
        "ingest",
        "encode",
        "train, curriculum stage 0",
        "train, curriculum stage 1",
        "train",
        "sample",
    ]
    assert stages["encode"]["clips"] == 3
    assert stages["train"]["clips"] == 48
    for name in list(stages)[1:]:
        assert stages[name]["hours"] > 0
        assert 0.05 < stages[name]["peak_memory_gb"] < 10
