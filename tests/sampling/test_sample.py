"""The suite's clips: what is made of each; a killed run ends in the same bytes as an unbroken one."""

import dataclasses
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pandas
import pytest
import torch

from tests.conftest import lively_model, small_params
from tests.latents.test_buckets import encode_here, with_ingest
from tests.latents.test_encode import Project
from tests.support.fake_cuda import NAME, FakeCuda
from tests.support.videos import run_ffmpeg
from videomar import checkpoint
from videomar.checkpoint.manifest import ModelShape
from videomar.compute.seeding import step_generator
from videomar.config.layout import SEEN, UNKNOWN
from videomar.curation.ingest import ingest_videos
from videomar.curation.ledger import read_candidates, read_ledger, write_ledger
from videomar.errors import DataError
from videomar.evaluation.generated import is_stretched, psnr_db, read_generated, read_metadata, repeat_last
from videomar.evaluation.suite import evaluate_clips
from videomar.files import write_json
from videomar.latents.dataset import LatentDataset
from videomar.media.cover import cover
from videomar.media.mp4 import find_ffmpeg
from videomar.sampling.finished_batches import FinishedBatches
from videomar.sampling.held_out import choose_clips, read_held_out, seen_input, wrong_prompts
from videomar.sampling.sample import cache_difference, causality_leak, sample_held_out
from videomar.sampling.worlds import worlds_of
from videomar.sources.simulate import draw_simulated
from videomar.training.state import untrained

RUN = (
    "import pickle, sys; from pathlib import Path; from videomar.sampling.sample import sample_held_out; "
    "sample_held_out(*pickle.loads(Path(sys.argv[1]).read_bytes()))"
)


def held_out(folder, params, shot):
    """A project whose clips are all held out, with an untrained tokenizer and an untrained model."""
    ingest_videos(folder / "raw", folder / "candidates.parquet", params.ingest)
    made = Project(folder, params)
    rows = read_candidates(folder / "candidates.parquet")
    rows = rows.assign(kept=rows["reason"].isna(), split="test", cluster=None, shot=shot)
    made.rows = rows.to_dict("records")
    made.encode(encode_here)
    data = LatentDataset(made.out, "test", params.text.max_tokens)
    shape = ModelShape(params.model, data.latent_channels, data.text_channels, params.text.max_tokens)
    weights = untrained(shape, 1).state_dict()
    tensors = {"model": weights, "ema": weights}
    checkpoint.save(folder / "model", 1, shape, tensors, {"train": {"seed": 0}})
    return made


@pytest.fixture(scope="module")
def project(params, tmp_path_factory):
    """One video without captions, its clips held out, an untrained tokenizer and an untrained model."""
    folder = tmp_path_factory.mktemp("suite")
    (folder / "raw").mkdir()
    picture = "testsrc2=size=64x64:rate=8:duration=5,gblur=1"
    run_ffmpeg(folder / "raw", "-f", "lavfi", "-i", picture, "-pix_fmt", "yuv420p", "video.mp4")
    params = with_ingest(params, size_px=16, num_frames=13, stride_frames=4)
    params = dataclasses.replace(
        params,
        text=dataclasses.replace(params.text, encoder="none"),
        sample=dataclasses.replace(params.sample, num_unmask_steps=2, num_diffusion_steps=2),
        suite=dataclasses.replace(
            params.suite, batch_size=2, threads=1, seeds=2, extra_clips=1, metric_clips=2, feature_clips=1
        ),
    )
    return held_out(folder, params, "first clip")


def paths_of(project, out):
    names = {"raw": "raw", "ledger": "ledger.parquet", "latents": "latents", "tokenizer": "tokenizer"}
    places = {name: project.folder / path for name, path in (names | {"model": "model"}).items()}
    return SimpleNamespace(**places, out=out)


@pytest.fixture(scope="module")
def sampled(project):
    """An unbroken run: its figures and its file."""
    out = project.folder / "unbroken.parquet"
    return sample_held_out(paths_of(project, out), project.params), out


def test_clips_of_videos_that_an_ancestor_saw_are_left_out_and_counted(project, tmp_path) -> None:
    """They are no held-out clips of a model that started from the ancestor's weights."""
    rows = read_ledger(project.folder / "ledger.parquet")
    seen = "5" * 64
    rows.loc[:1, "video_sha256"] = seen
    write_ledger(tmp_path / "ledger.parquet", rows)
    paths = SimpleNamespace(**{**vars(paths_of(project, tmp_path)), "ledger": tmp_path / "ledger.parquet"})
    assert read_held_out(paths, project.params).num_seen == 0
    paths.named = tmp_path / "sample.json"
    write_json(paths.named, {SEEN: {seen: "videomar version 1"}, UNKNOWN: {}})
    held_out = read_held_out(paths, project.params)
    assert held_out.num_seen == 2
    assert set(held_out.rows["clip_id"]) == set(rows["clip_id"][2:]) - {None}
    assert seen_input(paths.named) != seen_input(tmp_path / "none.json") == {}

    apart = rows["start_s"][0], rows["end_s"][0]
    in_part = rows.iloc[[0]].assign(
        clip_id="trained", split="train", start_s=apart[1] + 1, end_s=apart[1] + 3
    )
    write_ledger(paths.ledger, pandas.concat([rows, in_part], ignore_index=True))
    for parts, num_seen in (
        (f"{apart[1] + 1:.3f}-{apart[1] + 3:.3f}", 0),
        (f"0.000-{apart[1]:.3f} 90.000-95.000", 2),
        ("all", 2),
    ):
        write_json(paths.named, {SEEN: {seen: parts}})
        assert read_held_out(paths, project.params).num_seen == num_seen
    write_ledger(paths.ledger, rows)
    write_json(paths.named, {SEEN: dict.fromkeys(rows["video_sha256"], "videomar version 1")})
    with pytest.raises(DataError, match="all of videos that the model of train.start_from was trained on"):
        read_held_out(paths, project.params)


def test_clips_name_their_shot(project, sampled) -> None:
    kinds = [clip for of_clip in read_generated(sampled[1]) for clip in of_clip.values()]
    assert {clip.shot for clip in kinds} == {"first clip"}


@pytest.mark.slow
def test_killed_sampling_goes_on_and_ends_in_the_same_bytes(project, sampled, tmp_path) -> None:
    arguments, out = tmp_path / "arguments", tmp_path / "made.parquet"
    arguments.write_bytes(pickle.dumps((paths_of(project, out), project.params)))
    process = subprocess.Popen([sys.executable, "-c", RUN, str(arguments)], stderr=subprocess.DEVNULL)
    parts = tmp_path / ".made.parquet.parts"
    while len(list(parts.glob("*.npz"))) < 3:
        assert process.poll() is None
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    left = list(parts.glob("*.npz"))
    assert left
    assert not out.exists()
    left[0].write_bytes(left[0].read_bytes()[:-9])  # as a disk that lost its power leaves it
    sample_held_out(paths_of(project, out), project.params)
    assert out.read_bytes() == sampled[1].read_bytes()
    assert not parts.exists()


@pytest.mark.slow
def test_clips_are_made_on_the_gpu_and_batches_of_a_processor_are_not_taken(project, sampled) -> None:
    out = project.folder / "on_gpu.parquet"
    suite = dataclasses.replace(project.params.suite, seeds=1, extra_clips=1)
    with FakeCuda() as cuda:
        figures = sample_held_out(paths_of(project, out), dataclasses.replace(project.params, suite=suite))
    assert read_metadata(out)["device"] == NAME
    assert figures["cache_difference"] < 1e-4
    assert figures["causality_leak"] == 0
    assert cuda.launches.total() > 1000
    for ours, theirs in zip(read_generated(out), read_generated(sampled[1]), strict=True):
        assert set(ours) < set(theirs)
        assert np.array_equal(ours["truth"].frames, theirs["truth"].frames)
        for kind in ("tokenizer", "continuation_linear", "image"):
            far = np.abs(ours[kind].frames.astype(int) - theirs[kind].frames).mean()
            assert far < (20 if kind == "image" else 1)  # bfloat16 and an untrained network


def test_batch_is_made_once_for_what_it_depends_on(tmp_path) -> None:
    made = []

    def make():
        made.append(1)
        return torch.full((1, 2, 2, 2, 3), len(made), dtype=torch.uint8)

    first = FinishedBatches(tmp_path, "weights").get_or_make("task", [torch.zeros(2)], make)
    assert torch.equal(
        FinishedBatches(tmp_path, "weights").get_or_make("task", [torch.zeros(2)], make), first
    )
    assert len(made) == 1
    for basis, name, inputs in (("other", "task", 0), ("weights", "other", 0), ("weights", "task", 1)):
        assert not torch.equal(
            FinishedBatches(tmp_path, basis).get_or_make(name, [torch.full((2,), inputs)], make), first
        )


def test_every_model_meets_the_same_clips_and_every_clip_its_baselines(project, sampled) -> None:
    figures, out = sampled
    clips = read_generated(out)
    assert len(clips) == figures["clips"] == figures["clips_real"] > 2
    assert read_metadata(out) == {"split": "test", "seeds": [0, 1], "device": "cpu"}
    extra = [kinds for kinds in clips if "image_longer" in kinds]
    assert len(extra) == 1
    for kinds in clips:
        assert {"truth", "tokenizer", "continuation_linear", "continuation_seed1", "continuation_3"} <= set(
            kinds
        )
        truth = kinds["truth"].frames
        assert kinds["continuation_3"].context_frames == 9
        assert not np.array_equal(kinds["image"].frames, kinds["image_seed1"].frames)
        assert not np.array_equal(kinds["continuation_linear"].frames, repeat_last(truth, 5))
        for kind, clip in kinds.items():  # what was given comes out as it was, in the ceilings as well
            given = clip.frames[: clip.context_frames]
            assert is_stretched(kind) or np.array_equal(given, truth[: clip.context_frames])
        assert kinds["tokenizer_carry"].context_frames == 5
        assert kinds["image_tokenizer_carry"].context_frames == 1
        far = np.abs(kinds["tokenizer_carry"].frames.astype(int) - truth).mean()
        assert 0 < far < np.abs(kinds["tokenizer"].frames.astype(int) - truth).mean()
    truth = extra[0]["truth"].frames
    assert extra[0]["image_longer"].frames.shape == (2 * len(truth) - 1, *truth.shape[1:])
    assert extra[0]["image_larger"].frames.shape == (len(truth), 24, 24, 3)
    assert np.array_equal(extra[0]["image_longer"].frames[0], truth[0])
    assert np.array_equal(extra[0]["image_larger"].frames[0], cover(truth[0], (24, 24)))


def test_suite_without_carry_has_the_frames_as_decoded(project, sampled, tmp_path) -> None:
    """As models that were registered before there was a carry."""
    off = dataclasses.replace(project.params.sample, carry=0.0)
    suite = dataclasses.replace(project.params.suite, seeds=1, extra_clips=0, context_frames=(1, 2))
    params = dataclasses.replace(project.params, sample=off, suite=suite)
    sample_held_out(paths_of(project, tmp_path / "off.parquet"), params)
    clips = read_generated(tmp_path / "off.parquet"), read_generated(sampled[1])
    for kinds, carried in zip(*clips, strict=True):
        assert not [kind for kind in kinds if "carry" in kind]
        assert np.array_equal(kinds["tokenizer"].frames, carried["tokenizer"].frames)
        for name, num_given in (("image", 1), ("continuation", 5)):
            both = (kinds[name].frames, carried[name].frames, kinds["tokenizer"].frames)
            made, with_carry, decoded = (frames.astype(int) for frames in both)
            assert np.abs(made[:num_given] - decoded[:num_given]).max() <= 1  # another length of clip
            assert np.abs(made - with_carry)[num_given:].max() > 1


def judged(folder, sampled, suite):
    """Figures of the suite, and the paths of its files."""
    (folder / "sample.json").write_text(json.dumps(sampled[0]))
    names = {"sampled": "sample.json", "out": "e.parquet", "details": "e.json", "plot": "p.csv"}
    paths = SimpleNamespace(generated=sampled[1], **{key: folder / name for key, name in names.items()})
    return evaluate_clips(paths, suite), paths


@pytest.mark.slow
def test_suite_on_a_gpu_scores_the_same_and_says_where(project, sampled, tmp_path) -> None:
    suite = dataclasses.replace(project.params.suite, metric_clips=1, feature_clips=1)
    here, paths = judged(tmp_path, sampled, suite)
    before = json.loads(paths.details.read_text())["fingerprint"]
    with FakeCuda():
        figures, _ = judged(tmp_path, sampled, suite)
    fingerprint = json.loads(paths.details.read_text())["fingerprint"]
    assert (before["device"], fingerprint["device"]) == ("cpu", f"{NAME}, clips by cpu")
    for name in ("real_frechet", "real_diversity", "real_psnr_gain_db"):
        assert figures[name] == pytest.approx(here[name], rel=1e-4)


def test_suite_judges_clips_without_captions_and_says_what_is_missing(project, sampled, tmp_path) -> None:
    figures, _ = judged(tmp_path, sampled, project.params.suite)
    details = json.loads((tmp_path / "e.json").read_text())
    assert {"real_psnr_gain_linear_db", "real_ssim", "real_i2v_motion_amount", "real_frechet"} <= set(figures)
    assert {"real_diversity", "real_longer_holds_together", "real_psnr_drift_db"} <= set(figures)
    assert "real_text_effect" not in figures  # no clip has another caption
    assert "real_text_effect" in details["skipped"]
    assert figures["metrics_skipped"] == len(details["skipped"])
    assert details["fingerprint"]["seeds"] == [0, 1]
    assert sum(details["shares"].values()) == pytest.approx(1)
    assert details["seconds"]["metrics"] > figures["metrics_seconds"]  # those of the laws are metrics, too
    assert np.isfinite(list(figures.values())).all()


def test_laws_catch_a_leak_and_a_wrong_cache(params, captions) -> None:
    model, latents = lively_model(params.model), torch.randn(3, 4, 4, 2, 3)
    assert cache_difference(model, latents, captions) < 1e-5
    assert causality_leak(model, latents, captions) == 0
    run = model.trunk.forward_tokens
    # A trunk that lets every frame look at every other, and so at the future.
    model.trunk.forward_tokens = lambda frames, *rest: run(frames._replace(attn_mask=None), *rest)
    assert causality_leak(model, latents, captions) > 1e-3
    assert cache_difference(model, latents, captions) > 1e-3


@pytest.mark.skipif(torch.cuda.is_available(), reason="stands for a GPU where there is none")
@pytest.mark.parametrize("values", [True, False])
def test_laws_are_measured_on_the_gpu(model, captions, values):
    with FakeCuda(values) as cuda:
        latents = torch.randn(3, 4, 4, 2, 3, generator=step_generator(3, 0)).cuda()
        network, pair = model.to("cuda"), tuple(part.cuda() for part in captions)
        cuda.clear()
        assert cache_difference(network, latents, pair) <= 1e-5
        assert causality_leak(network, latents, pair) == 0
        assert cuda.waits == {"item": 2}


def test_every_shot_gives_a_clip_before_one_gives_two() -> None:
    shots = ["long"] * 30 + [f"short {number}" for number in range(9)] + [None] * 2
    rows = pandas.DataFrame({"clip_id": [f"{n:02d}" for n in range(41)], "group": "real", "shot": shots})
    suite = dataclasses.replace(small_params().suite, simulated_clips=0, real_clips=11, seed=3)
    chosen = choose_clips(rows, suite)
    assert chosen["shot"].nunique() == 10
    assert chosen["shot"].isna().sum() == 1
    assert chosen["clip_id"].is_monotonic_increasing
    more = choose_clips(rows, dataclasses.replace(suite, real_clips=13))
    assert set(chosen["clip_id"]) < set(more["clip_id"])
    assert sorted(more["shot"].value_counts(dropna=False))[:-1] == [1] * 9 + [2]


def test_wrong_prompt_is_another_caption_of_the_same_group() -> None:
    rows = pandas.DataFrame({"group": ["real"] * 3 + ["simulated"] * 3, "caption": [*"aabcdc"]})
    assert wrong_prompts(rows) == [2, 2, 0, 4, 5, 4]
    assert wrong_prompts(rows.assign(caption="one")) == list(range(6))


@pytest.fixture(scope="module")
def simulated(params, tmp_path_factory):
    """Three drawn clips, held out; the figures and the file of a run over them."""
    folder = tmp_path_factory.mktemp("worlds")
    drawing = dataclasses.replace(params.samples, simulated_videos=1, clips_per_video=3, simulated_size_px=32)
    draw_simulated(folder / "raw", drawing, find_ffmpeg())
    params = with_ingest(params, size_px=16, num_frames=17, stride_frames=8, fps=8.0)
    params = dataclasses.replace(
        params,
        text=dataclasses.replace(params.text, encoder="none"),
        sample=dataclasses.replace(params.sample, num_unmask_steps=1, num_diffusion_steps=1),
        suite=dataclasses.replace(
            params.suite, threads=1, seeds=1, extra_clips=0, long_clips=2, metric_clips=0, feature_clips=0
        ),
    )
    made = held_out(folder, params, None)
    out = folder / "generated.parquet"
    return made, sample_held_out(paths_of(made, out), params), out


def test_long_and_large_simulated_clips_have_the_truth_of_their_own_world(simulated, tmp_path) -> None:
    project, _, out = simulated
    clips = read_generated(out)
    assert len(clips) == 3
    worlds = [kinds for kinds in clips if "image_long" in kinds]
    assert len(worlds) == 2
    for kinds in worlds:
        truth, long, large = (kinds[kind].frames for kind in ("truth", "truth_long", "truth_large"))
        assert long.shape == (65, 16, 16, 3)
        assert np.array_equal(long[:17], truth)
        assert psnr_db(long[:1], long[17:18]) < 40 or "falls" in kinds["truth"].caption  # it goes on
        assert large.shape == kinds["image_large"].frames.shape == (17, 24, 24, 3)
        small = np.stack([cover(frame, (16, 16)) for frame in large])
        assert psnr_db(small, truth) > 20
    paths = {"generated": out, "sampled": tmp_path / "none.json", "out": tmp_path / "scores.parquet"}
    paths |= {"details": tmp_path / "scores.json", "plot": tmp_path / "plot.csv"}
    figures = evaluate_clips(SimpleNamespace(**paths), project.params.suite)
    for name in ("sim_long33", "sim_long65"):
        assert {f"{name}_psnr_gain_db", f"{name}_bodies_lost", f"{name}_jumps"} <= set(figures)
    assert np.isfinite(figures["sim_large24_psnr_gain_db"])
    kinds = set(pandas.read_parquet(paths["out"])["kind"])
    assert {"image_long33", "image_long65", "image_large24"} < kinds
    assert not any("truth" in kind for kind in kinds)
    assert not any("long6" in line for line in paths["plot"].read_text().splitlines())


def test_clips_that_are_not_what_their_file_says_have_no_world(simulated, tmp_path) -> None:
    project = simulated[0]
    shutil.copytree(project.folder / "raw", tmp_path / "raw")
    paths = SimpleNamespace(**{**vars(paths_of(project, tmp_path)), "raw": tmp_path / "raw"})
    assert len(read_held_out(paths, project.params).worlds) == 2
    file = next(tmp_path.glob("raw/*/*.json"))
    content = json.loads(file.read_text())
    content["clips"][0]["scene"]["radius"] = 0.1
    content["clips"][1]["scene"]["colour"] = "no colour"
    file.write_text(json.dumps(content))
    assert len(read_held_out(paths, project.params).worlds) == 1
    file.unlink()
    assert read_held_out(paths, project.params).worlds == {}
    assert worlds_of(pandas.DataFrame({"group": ["simulated"]}), [], tmp_path, 7.0, 2) == {}
