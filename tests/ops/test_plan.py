"""What `videomar plan` says beside what then happens."""

import dataclasses
import json
import re
import sys
import time
from pathlib import Path

import pandas
import pytest
import torch

from tests.conftest import small_params
from tests.support.caches import write_cache
from videomar.checkpoint.manifest import ModelShape
from videomar.checkpoint.transfer import start_sha256
from videomar.cli import app as cli
from videomar.config import CurriculumStage, Params, load_params
from videomar.config.edit import read_preset, with_changes
from videomar.config.layout import Layout
from videomar.config.schema import set_keys
from videomar.curation.ledger import LEDGER_SCHEMA, write_ledger
from videomar.encoders.causal import CausalTokenizer, save_tokenizer
from videomar.errors import DataError, ParamsError
from videomar.hub.shipped import FOLDER
from videomar.latents.clip_encoder import stored_bytes
from videomar.latents.dataset import LatentDataset, Splits
from videomar.media.shapes import ClipShape, at_sizes
from videomar.ops.planning.gpus import GPUS, Fleet, parse_fleet
from videomar.ops.planning.plan import ASSUMED_CLIPS, plan, training_costs
from videomar.ops.planning.plan_counts import (
    Cost,
    PlannedStrides,
    Videos,
    assumed_clips,
    cached_shapes,
    find_clips,
    latent_bytes,
)
from videomar.ops.planning.plan_formulas import plan_for
from videomar.ops.planning.plan_probe import Subject, training_probe
from videomar.ops.planning.plan_shares import STATED, Shares, read_shares
from videomar.registry.ancestors import kept_start
from videomar.training.loop import train
from videomar.training.throughput import BatchShape, step_flops
from videomar.training.worker import Worker

ROOT = Path(__file__).parents[2]
SIZES = [(32, 32), (48, 24), (32, 32)]
STAGES = [
    *("ingest", "train_tokenizer", "captions", "encode"),
    *("train, curriculum stage 0", "train, curriculum stage 1", "train", "sample", "evaluate"),
]


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
    strides = PlannedStrides(tokenizer.channels, tokenizer.time_stride, tokenizer.space_stride)
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


def test_stages_that_no_probe_reached_cost_by_the_rate_of_this_machine(params: Params) -> None:
    model = ModelShape(params.model, 4, 6, 5)
    subject = Subject(params, model, [(32, (4, 3, 2, 2))], 0, ClipShape(16, 16, 8.0, 9), None, None)
    costs = training_costs(subject, [("log", 0.0), ("matmul", 1e9)])
    shape = BatchShape(4, 3, 4)
    [last] = [cost for cost in costs if cost.stage == "train, curriculum stage 1"]
    assert last.step_s == pytest.approx(step_flops(model, shape, params.train) / 0.5e9)
    assert last.hours >= last.steps * last.step_s / 3600
    assert [cost.hours for cost in training_costs(subject, [("log", 0.0)])] == [None, None, None]


def test_tokenizer_that_comes_with_the_weights_costs_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    subjects: list[Subject] = []
    monkeypatch.setattr(
        "videomar.ops.planning.plan.measure", lambda subject, _: subjects.append(subject) or ()
    )
    ledger_of(tmp_path / "data/ledger.parquet")
    params = load_params(ROOT / "params.yaml")
    started = dataclasses.replace(params, train=dataclasses.replace(params.train, start_from="shipped"))
    costs = {cost.stage: cost for cost in plan(started, Layout()).costs}
    assert costs["train_tokenizer"].hours == 0.0
    assert subjects[0].tokenizer == kept_start(start_sha256(FOLDER)).resolve() / "tokenizer"


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
    assert list(stages) == STAGES
    assert stages["encode"]["clips"] == 3
    assert stages["train"]["clips"] == 48
    for name in set(stages) - {"ingest", "captions"}:  # no video; no text encoder
        assert stages[name]["hours"] > 0
    for name in ("encode", "train, curriculum stage 0", "train", "sample"):
        assert 0.05 < stages[name]["peak_memory_gb"] < 10


def plan_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    assert run(monkeypatch, "plan", "--json", *words) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("preset", ["small", "medium", "paper"])
def test_plan_for_gpus_needs_neither_gpu_nor_folder(
    preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In an empty folder: no params.yaml, clips, tokenizer or text encoder. It says what it assumes."""
    monkeypatch.chdir(tmp_path)
    found = plan_json(monkeypatch, capsys, "--gpu", "h100:8", "--preset", preset)
    stages = found["stages"]
    assert [name for name in stages if "curriculum" not in name] == [
        s for s in STAGES if "curriculum" not in s
    ]
    trained = [name for name in stages if "curriculum" in name]
    assert list(found["memory"]) == trained
    assert stages["train"]["hours"] == pytest.approx(sum(stages[name]["hours"] for name in trained))
    for name in trained:
        assert sum(found["memory"][name].values()) == pytest.approx(stages[name]["peak_memory_gb"])
    assert stages["ingest"]["clips"] == ASSUMED_CLIPS
    assert all(cost["hours"] is not None for cost in stages.values())
    said = "\n".join(found["assumptions"])
    for word in ("TFLOPS in ", "35 % of the published rate, assumed", f"clips: {ASSUMED_CLIPS:,}"):
        assert word in said
    for key in ("tokenizer.pretrained: no folder", "text.encoder: no folder"):
        assert (key in said) == (preset == "paper")


def test_plan_for_gpus_counts_the_clips_of_the_folder_or_those_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_small(tmp_path / "params.yaml")
    ledger_of(tmp_path / "data/ledger.parquet")
    own = plan_json(monkeypatch, capsys, "--gpu", "4090")["stages"]
    assert own["encode"]["clips"] == 3
    asked = plan_json(monkeypatch, capsys, "--gpu", "4090", "--clips", "3000")["stages"]
    assert asked["encode"]["clips"] == 3000
    assert asked["ingest"]["hours"] == pytest.approx(1000 * own["ingest"]["hours"])
    # Clips of the ledger have another size than the preset's: as many, of its own size.
    other = plan_json(monkeypatch, capsys, "--gpu", "4090", "--preset", "medium")["stages"]
    assert other["encode"]["clips"] == 3
    assert other["encode"]["bytes"] == 3 * (16 * 9 * 16 * 16) * 2


def test_twice_the_gpus_take_about_half_the_time_until_launches_count() -> None:
    params = with_changes(ROOT / "params.yaml", read_preset(ROOT / "presets", "paper"))
    clips, nothing, strides = assumed_clips(100, params), Videos(0, 0.0, []), PlannedStrides(16, 8, 16)
    hours = [
        next(
            c.hours
            for c in plan_for(params, clips, nothing, strides, Fleet("h100", n)).costs
            if c.stage == "train"
        )
        for n in (4, 8, 64, 128)
    ]
    assert hours[0] / hours[1] == pytest.approx(2, rel=0.1)
    assert hours[2] / hours[3] < 1.3


def test_batch_of_auto_fills_the_memory_of_a_gpu() -> None:
    params = with_changes(ROOT / "params.yaml", read_preset(ROOT / "presets", "medium"))
    stage = dataclasses.replace(params.train.curriculum[-1], batch_size="auto")
    train = dataclasses.replace(params.train, curriculum=(stage,))
    params, clips = dataclasses.replace(params, train=train), assumed_clips(100, params)
    sizes = []
    for kind in ("4090", "h100"):
        plan = plan_for(params, clips, Videos(0, 0.0, []), PlannedStrides(16, 4, 8), Fleet(kind, 2))
        [cost, *_] = [cost for cost in plan.costs if cost.stage in plan.memory]
        assert 0.4 < cost.peak_memory_gb / GPUS[kind].memory_gb <= 0.9
        sizes.append(cost.clips // cost.steps)
    # A power of two for each of two workers and four micro-batches.
    assert sizes[0] in (64, 128)
    assert sizes[1] in (2 * sizes[0], 4 * sizes[0])


def test_batch_that_gpus_cannot_share_is_named() -> None:
    params = with_changes(ROOT / "params.yaml", read_preset(ROOT / "presets", "medium"))
    clips = assumed_clips(100, params)
    plan = plan_for(params, clips, Videos(0, 0.0, []), PlannedStrides(16, 4, 8), Fleet("h100", 3))
    assert plan.advice[0] == (
        "train, curriculum stage 0: batch_size 128 is no multiple of 3 GPUs x accumulation 4, which training "
        "refuses"
    )
    with pytest.raises(ParamsError, match="a multiple of num_workers x accumulation = 12"):
        dataclasses.replace(params.train, num_workers=3)


def test_unreadable_ledger_is_no_hindrance_for_gpus_that_are_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_small(tmp_path / "params.yaml")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/ledger.parquet").write_bytes(b"PAR1")
    assert plan_json(monkeypatch, capsys, "--gpu", "l4")["stages"]["encode"]["clips"] == ASSUMED_CLIPS


def test_largest_of_several_shapes_takes_the_memory_and_the_mean_the_time() -> None:
    params = with_changes(ROOT / "params.yaml", read_preset(ROOT / "presets", "paper"))
    ingest = params.ingest

    def plan_of(*ratios: str) -> dict[str, Cost]:
        own = dataclasses.replace(params, ingest=dataclasses.replace(ingest, aspect_ratios=ratios))
        clips = assumed_clips(300, own)
        plan = plan_for(own, clips, Videos(0, 0.0, []), PlannedStrides(16, 8, 16), Fleet("h100", 8))
        return {cost.stage: cost for cost in plan.costs}

    square, wide, both = plan_of("1:1"), plan_of("16:9"), plan_of("1:1", "16:9")
    stage = "train, curriculum stage 2"
    largest = max(square[stage].peak_memory_gb, wide[stage].peak_memory_gb)
    assert both[stage].peak_memory_gb == pytest.approx(largest)
    seconds = sorted(found[stage].step_s for found in (square, wide))
    assert seconds[0] < both[stage].step_s < seconds[1]
    mean = (square["encode"].tokens + wide["encode"].tokens) / 2
    assert both["encode"].tokens == pytest.approx(mean)
    assert both["encode"].clips == 300


@pytest.mark.parametrize("sharding", ["ddp", "zero1", "fsdp"])
def test_what_is_advised_fits(sharding: str) -> None:
    """Each way that a plan names is tried: with it alone nothing is left to advise."""
    params = with_changes(ROOT / "params.yaml", read_preset(ROOT / "presets", "paper"))
    params = dataclasses.replace(params, train=dataclasses.replace(params.train, sharding=sharding))
    clips, nothing, strides = assumed_clips(100, params), Videos(0, 0.0, []), PlannedStrides(16, 8, 16)
    advice = plan_for(params, clips, nothing, strides, Fleet("l40s", 2)).advice
    assert advice[0].startswith("train, curriculum stage 0: needs ")
    ways = [line for line in advice if line.startswith("it fits with ")]
    assert ways
    for way in ways:
        changes, fleet = {}, "l40s:2"
        if "fits with train.accumulation" in way or " accumulation" in way:
            changes["accumulation"] = int(re.search(r"accumulation: (\d+)", way)[1])
        if "activation_checkpointing: true" in way:
            changes["activation_checkpointing"] = True
        if found := re.search(r"sharding: (\w+) on (\S+)", way):
            changes["sharding"], fleet = found[1], found[2]
        tried = dataclasses.replace(params, train=dataclasses.replace(params.train, **changes))
        assert plan_for(tried, clips, nothing, strides, parse_fleet(fleet)).advice == [], way


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gpu", "h101:8"], "--gpu: got h101:8, expected KIND:COUNT with a kind of b200, h200, h100"),
        (["--gpu", "h100:0"], "--gpu: got h100:0, expected a whole number above 0"),
        (["--gpu", "h100:-1"], "--gpu: got h100:-1, expected a whole number above 0"),
        (["--gpu", "h100:١"], "--gpu: got h100:١, expected a whole number above 0"),
        (["--gpu", ""], "--gpu: got , expected KIND:COUNT"),
        (["--gpu", "a100:8"], "expected a100-40 or a100-80"),
        (
            ["--gpu", "h100:8", "--preset", "huge"],
            "preset: got huge, expected base or finetune or medium or paper or small",
        ),
        (["--gpu", "h100:8"], "params.yaml: no such file"),
    ],
)
def test_wrong_questions_are_refused_in_one_line(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, "plan", *words) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"patch_size": 64}}, "plan: got 4 x 4 latent positions at size 32, expected multiples of"),
        ({"ingest": {"size_px": 8}, "tokenizer": {"space_stride": 16}}, "plan: got 0 x 0 latent positions"),
        (
            {
                "train": {
                    "curriculum": [{"num_latent_frames": 0, "size_px": 16, "steps": 1, "batch_size": 1}] * 2
                }
            },
            "a stage of 16 pixels, expected a size that is encoded, 32; add it to encode.smaller_sizes_px",
        ),
    ],
)
def test_parameters_that_training_would_refuse_are_refused_in_one_line(
    changes: dict[str, dict],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    raw: dict[str, object] = {}
    set_keys(raw, dataclasses.asdict(small_params()))
    if "train" in changes:  # the last stage has the full size
        changes["train"]["curriculum"][1] = dict(changes["train"]["curriculum"][1], size_px=0)
    set_keys(raw, changes)
    (tmp_path / "params.yaml").write_text(json.dumps(raw))
    assert run(monkeypatch, "plan", "--gpu", "h100", "--clips", "10") == 1
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_network_larger_than_this_machine_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    memory = type("Memory", (), {"available": 20e9})
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    assert run(monkeypatch, "plan", "--preset", "paper", "--clips", "10") == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "a network that takes 22.1 GB to train, expected at most the 20.0 GB that are free" in line


def test_gpu_without_bfloat16_is_planned_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    found = plan_json(monkeypatch, capsys, "--gpu", "T4:1", "--preset", "medium")
    assert "train.precision: bfloat16 is refused on one NVIDIA T4" in "\n".join(found["assumptions"])
    assert found["advice"][0].endswith("one NVIDIA T4 has 16")


def test_measured_shares_replace_the_assumed_ones(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    assert read_shares(path).of("train") == STATED["train"][0]

    def measured(name: str, **figures: object) -> Shares:
        path.write_text(json.dumps({"figures": {"gpu": name, **figures}}))
        return read_shares(path)

    key = "training_medium_step_tflop_per_s"
    shares = measured("NVIDIA H200", **{key: 494.5, "memory_gb": 150.1})
    assert (shares.of("train"), shares.of("sample")) == (0.5, STATED["sample"][0])
    [line] = [line for line in shares.lines() if line.startswith("train:")]
    assert line == "train: 50 % of the published rate, measured on NVIDIA H200 SXM"
    # The network that computes its blocks twice: its rate counts them once.
    both = measured("NVIDIA H200", **{key: 494.5, "training_paper_step_tflop_per_s": 247.25})
    assert both.of("train") == pytest.approx(1 / 3)
    assert measured("NVIDIA A100-SXM4-40GB", **{key: 156, "memory_gb": 42.3}).where == "NVIDIA A100 SXM 40 GB"
    assert measured("NVIDIA GeForce RTX 4090", **{key: 82.6}).of("train") == pytest.approx(0.5)
    for nothing in ({"dry_run": True, key: 494.5}, {}):
        assert measured("NVIDIA H200", **nothing).of("train") == STATED["train"][0]
    assert measured("another", **{key: 1.0}).of("train") == STATED["train"][0]
    for wrong in ({"figures": {"gpu": "NVIDIA H200", key: 2000}}, {"figures": []}, {}):
        path.write_text(json.dumps(wrong))
        with pytest.raises(DataError, match=r"gpu.json: got "):
            read_shares(path)


def test_every_gpu_has_plausible_figures() -> None:
    """Of 1.4 to 15 bytes for a thousand operations: a slip of a factor of ten would leave the range."""
    for kind, gpu in GPUS.items():
        assert kind == kind.lower()
        fastest = gpu.bfloat16_tflops or 8 * gpu.float32_tflops
        assert 1.4 <= gpu.bandwidth_gb_s / fastest <= 15, kind
        assert gpu.float32_tflops < fastest
        assert 16 <= gpu.memory_gb <= 300
        assert gpu.source.startswith("NVIDIA")
        assert parse_fleet(f"{kind}:3") == Fleet(kind, 3)
    assert parse_fleet("RTX 4090") == parse_fleet("rtx-4090:1") == Fleet("4090", 1)
    assert Fleet("h100", 8).link_gb_s == 450
    assert Fleet("h100", 16).link_gb_s < 450
