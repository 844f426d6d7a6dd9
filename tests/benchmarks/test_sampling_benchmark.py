import dataclasses
import json
import time

import pytest
import torch
import yaml
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import samplers, sampling
from benchmarks.record import ROOT
from benchmarks.samplers import Inputs, Sampler, Subject
from benchmarks.sampling_cost import ClipSize, clip_operations, passes_of
from tests.conftest import lively
from tests.support.imports import loaded_by
from videomar.checkpoint.manifest import ModelShape
from videomar.compute.seeding import step_generator
from videomar.config import SampleParams

FRAMES = 4


def subject_of(params, *conditions):
    shape = ModelShape(dataclasses.replace(params.model, conditions=conditions), 4, 6, 5)
    model = lively(shape.build().initialise(step_generator(0, -1)))
    steps = {"num_unmask_steps": 3, "num_diffusion_steps": 5, "final_diffusion_steps": 2}
    ours = dataclasses.replace(params.sample, **steps, cfg_scale=2.0, cfg_from=0.5)
    return Subject("tiny", model, shape, ours, FRAMES, side=3)


@pytest.fixture
def subject(params):
    return subject_of(params)


def clips_of(subject, sampler, batch=3):
    inputs = Inputs.draw(subject, batch)
    return sampling.generate(subject, sampler, inputs, FRAMES, time.perf_counter).clips


@pytest.mark.parametrize("preset", ["paper", "medium"])
def test_parameters_of_sampling_are_those_of_the_presets(preset):
    written = yaml.safe_load((ROOT / f"presets/{preset}.yaml").read_text())["sample"]
    assert getattr(samplers, preset.upper()) == SampleParams(**written)


def test_clips_without_a_cache_are_those_with_one(params, measured):
    known = subject_of(params, "motion", "history_noise")
    noisy = dataclasses.replace(known.sampling, history_noise=0.2, motion=3.0)
    cached, uncached = (clips_of(known, Sampler(noisy, cached=kept)) for kept in (True, False))
    measured("clips generated without a cache", (cached - uncached).abs().max(), 1e-4)
    assert not torch.equal(cached[:, :, 1], cached[:, :, 2])
    sampling.check_uncached(known)


def test_caption_read_in_each_pass_and_clips_one_by_one_change_nothing(subject, measured):
    ours = samplers.our_sampler(subject)
    clips = clips_of(subject, ours)
    again = clips_of(subject, dataclasses.replace(ours, text_reused=False))
    measured("clips whose captions are read in each pass", (clips - again).abs().max(), 1e-5)
    one_by_one = clips_of(subject, dataclasses.replace(ours, batched=False))
    assert torch.equal(one_by_one, clips)


def test_sampler_of_the_paper_reveals_token_by_token_with_both_branches(subject):
    paper, tokens = samplers.paper_sampler(subject), subject.tokens_per_frame
    assert [(each.copies, each.revealed, each.head_steps) for each in passes_of(paper.sampling, tokens)] == [
        (2, 1, 100)
    ] * tokens
    rows, texts = [], []
    subject.model.trunk.norm.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    subject.model.trunk.blocks[0].attn2.wkv.register_forward_hook(lambda *_: texts.append(1))
    few = dataclasses.replace(paper.sampling, num_diffusion_steps=1, final_diffusion_steps=1)
    clips_of(subject, dataclasses.replace(paper, sampling=few))
    # The given frame, and each new one in a pass a token; all but the last are written back.
    assert rows == [6] * (1 + (FRAMES - 1) * tokens + FRAMES - 2)
    assert len(texts) == len(rows)


@pytest.mark.parametrize(
    "changes",
    [{}, {"cached": False}, {"text_reused": False}, {"cfg_scale": 1.0}, {"window_frames": 3}],
    ids=str,
)
def test_operations_are_those_that_are_counted(subject, changes):
    own = {key: value for key, value in changes.items() if hasattr(subject.sampling, key)}
    ways = {key: value for key, value in changes.items() if key not in own}
    sampler = Sampler(dataclasses.replace(subject.sampling, **own), **ways)
    # The counter knows attention only as products of matrices.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        clips_of(subject, sampler)
    size = ClipSize.of(FRAMES, subject.tokens_per_frame, 3, subject.device)
    assert counter.get_total_flops() == clip_operations(subject.shape, sampler, size)


def test_ladder_ends_at_our_sampler_and_the_ablation_changes_one_thing(subject):
    ours, paper = samplers.our_sampler(subject), samplers.paper_sampler(subject)
    *_, last = samplers.climbed(ours, paper).values()
    left = {"temperature", "final_temperature", "clamp", "sink_frames", "carry"}
    differ = {
        key
        for key, value in dataclasses.asdict(ours.sampling).items()
        if value != getattr(last.sampling, key)
    }
    assert differ <= left
    assert last.text_reused
    found = samplers.ablated(ours, paper, torch.device("cpu"))
    assert found["without recorded kernels"] is None
    assert found["head steps of the paper"].sampling.num_diffusion_steps == 100
    assert found["head steps of the paper"].sampling.final_diffusion_steps == 40
    assert found["annealing of the paper"].sampling.final_diffusion_steps == 5


def test_all_parts_run_and_write_their_ratios(subject, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sampling, "load_subject", lambda *_: subject)
    few = dataclasses.replace(samplers.PAPER, num_diffusion_steps=6, final_diffusion_steps=6)
    monkeypatch.setattr(samplers, "PAPER", few)
    options = ["--short", "--device", "cpu", "--batches", "1", "2", "--lengths", "4", "17"]
    sampling.main([*options, "--out", str(tmp_path)])
    result = json.loads((tmp_path / "sampling.json").read_text())
    assert json.loads(capsys.readouterr().out) == result
    assert set(result["ratios"]) == {
        "clip_time_vs_paper",
        "clip_time_vs_paper_batch_1",
        "clip_time_vs_paper_batch_2",
        "first_frame_vs_paper_batch_1",
        "first_frame_vs_paper_batch_2",
        "matmul_share",
        "clip_time_vs_no_cache",
        "latency_over_16_rows",
        "clip_time_vs_no_cache_17",
        "bounded_early_over_late_frame",
    }
    figures = result["figures"]
    rows = figures["speed"]["batch_2"]
    assert result["ratios"]["clip_time_vs_paper_batch_2"] == pytest.approx(
        rows["paper"]["clip_s"] / rows["ours"]["clip_s"]
    )
    assert rows["paper"]["clip_gflop"] > rows["ours"]["clip_gflop"]
    trained, longest = figures["length"]["lengths"]
    assert trained["bounded"]["cache_mb"] == trained["cached"]["cache_mb"]
    assert longest["bounded"]["cache_mb"] < longest["cached"]["cache_mb"]
    assert longest["uncached"]["cache_mb"] == 0
    growth = figures["length"]["growth"]
    assert growth["uncached"]["by_operations"] > growth["cached"]["by_operations"] > 1
    assert growth["bounded"]["by_operations"] < growth["cached"]["by_operations"]
    assert "| ours, without recorded kernels | no difference |" in sampling.table(figures)


def test_clip_that_is_padded_to_sixteen_rows_is_the_same(subject):
    ours = samplers.our_sampler(subject)
    clips = [clips_of(subject, dataclasses.replace(ours, least_rows=rows), batch=1) for rows in (0, 16)]
    assert torch.equal(*clips)


def test_quality_without_a_finished_run_is_refused(capsys):
    with pytest.raises(SystemExit):
        sampling.main(["--parts", "quality"])
    assert "expected --data" in capsys.readouterr().err


def test_benchmark_needs_only_the_barest_libraries():
    code = (
        "import torch, benchmarks.sampling as s\n"
        "s.load_subject('shipped', torch.device('cpu'))\n"
        "s.load_subject('medium', torch.device('cpu'), 1)"
    )
    assert loaded_by(code, "pyarrow", "ray", "mlflow", "pydantic", "yaml", "cv2", "pandas", "scipy") == []
