"""Learned scores: what they compute and refuse, and that other limits decode nothing."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel, CLIPVisionModelWithProjection

from tests.support.fake_cuda import FakeCuda
from videomar.config import CurateParams, IngestParams
from videomar.curation.aesthetic import AestheticScorer
from videomar.curation.curate import curate_clips, judge_all
from videomar.curation.ingest import ingest_videos
from videomar.curation.learned_scores import load_scorer, score_learned
from videomar.curation.ledger import read_candidates, read_ledger
from videomar.errors import DataError, ParamsError
from videomar.media.clip_reader import read_ledger_clips

CHANNELS, SIDE_PX = 8, 16


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole CLIP of random weights, and a head of two layers."""
    folder = tmp_path_factory.mktemp("clip")
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config=tower | {"vocab_size": 50, "max_position_embeddings": 8},
        vision_config=tower | {"image_size": SIDE_PX, "patch_size": 8, "projection_dim": CHANNELS},
        projection_dim=CHANNELS,
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    # In the order of their numbers: as text, 10 would come before 2.
    head = {"layers.2.weight": torch.randn(5, CHANNELS), "layers.2.bias": torch.randn(5)}
    save_file(head | {"layers.10.weight": torch.randn(1, 5)}, folder / "head.safetensors")
    return folder


def make_clip(frames: int = 9, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, SIDE_PX, SIDE_PX, 3), np.uint8)


def test_aesthetic_is_the_head_on_the_normalised_embedding(clip_folder: Path) -> None:
    from safetensors.torch import load_file

    clip, head = make_clip(), load_file(clip_folder / "head.safetensors")
    model = CLIPModel.from_pretrained(clip_folder).eval()
    expected = []
    for frame in clip[[0, 4, 8]]:
        pixels = torch.from_numpy(frame).double() / 255
        pixels = (pixels - torch.tensor([0.48145466, 0.4578275, 0.40821073])) / torch.tensor(
            [0.26862954, 0.26130258, 0.27577711]
        )
        with torch.no_grad():
            seen = model.vision_model(pixel_values=pixels.float().permute(2, 0, 1)[None]).pooler_output
            state = model.visual_projection(seen)[0].double()
        state = state / state.pow(2).sum().sqrt()
        hidden = head["layers.2.weight"].double() @ state + head["layers.2.bias"].double()
        expected.append(float(head["layers.10.weight"].double() @ hidden))
    assert AestheticScorer(clip_folder)(clip) == pytest.approx(np.mean(expected), abs=1e-5)


def test_aesthetic_takes_the_centre_of_any_shape(clip_folder: Path) -> None:
    scorer, clip = AestheticScorer(clip_folder), make_clip()
    wide = np.pad(clip, [(0, 0), (0, 0), (6, 6), (0, 0)])
    assert scorer(wide) == scorer(clip)
    assert scorer(clip.repeat(3, axis=1).repeat(3, axis=2)) == pytest.approx(scorer(clip), abs=1e-4)


def test_aesthetic_on_a_gpu_is_the_same(clip_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip, here = make_clip(), AestheticScorer(clip_folder)
    # Read before: transformers builds networks on the device `meta`, by which the harness knows its GPU.
    read = CLIPVisionModelWithProjection.from_pretrained(clip_folder, output_loading_info=True)
    monkeypatch.setattr(CLIPVisionModelWithProjection, "from_pretrained", lambda *_, **__: read)
    with FakeCuda() as cuda:
        there = AestheticScorer(clip_folder, "cuda")(clip)
    assert cuda.launches.total() > 10
    assert there == pytest.approx(here(clip), abs=1e-5)


def test_missing_gpu_is_refused_before_any_file(
    clip_folder: Path, tmp_path: Path, ingest_params: IngestParams
) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.mp4").touch()
    asked = dataclasses.replace(ingest_params, scorers={"aesthetic": str(clip_folder)}, device="cuda")
    with pytest.raises(ParamsError, match=r"^resources\.ingest\.device: got cuda, expected a GPU"):
        ingest_videos(tmp_path / "raw", tmp_path / "out.parquet", asked)


def broken(folder: Path, clip_folder: Path, name: str) -> Path:
    """A copy of the folder, with one thing wrong."""
    copy = folder / name
    shutil.copytree(clip_folder, copy)
    if name == "headless":
        (copy / "head.safetensors").unlink()
    elif name == "narrow":
        save_file({"weight": torch.zeros(1, CHANNELS - 1)}, copy / "head.safetensors")
    elif name == "wide":
        save_file({"weight": torch.zeros(2, CHANNELS)}, copy / "head.safetensors")
    elif name == "foreign":
        save_file({"weight": torch.zeros(2)}, copy / "model.safetensors", metadata={"format": "pt"})
    elif name == "garbled":
        (copy / "model.safetensors").write_bytes(b"no weights")
    else:
        shutil.rmtree(copy)
    return copy


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("headless", "without head.safetensors"),
        ("narrow", r"weight of shape \(1, 7\), expected \(any, 8\)"),
        ("wide", "2 outputs, expected linear layers that end in 1"),
        ("foreign", "model.safetensors without"),
        ("garbled", "ingest.scorers.aesthetic: got"),
        ("missing", "without config.json, model.safetensors, head.safetensors"),
    ],
)
def test_what_is_no_scorer_is_refused_before_any_file(
    name: str, message: str, clip_folder: Path, tmp_path: Path, ingest_params: IngestParams
) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.mp4").touch()
    (tmp_path / "raw" / "captions.csv").write_text("no table")  # who reads it says so
    params = dataclasses.replace(
        ingest_params, scorers={"aesthetic": str(broken(tmp_path, clip_folder, name))}
    )
    with pytest.raises(DataError, match=message):
        ingest_videos(tmp_path / "raw", tmp_path / "out.parquet", params)
    assert not (tmp_path / "out.parquet").exists()


def test_unknown_scorer_is_refused() -> None:
    with pytest.raises(DataError, match=r"ingest.scorers.beauty: .* expected aesthetic"):
        load_scorer("beauty", "nowhere")


def test_scorer_that_fails_leaves_the_score_empty(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from videomar.curation import learned_scores as scorers

    kinds = {"none": lambda *_: lambda clip: float("nan"), "bad": lambda *_: lambda clip: 1 / 0}
    monkeypatch.setattr(scorers, "_KINDS", kinds)
    assert score_learned(make_clip(), {"none": "", "bad": ""}) == {"none": None, "bad": None}
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.slow
def test_other_limits_judge_learned_scores_again_without_the_videos(
    copied: Callable[..., Path],
    clip_folder: Path,
    tmp_path: Path,
    ingest_params: IngestParams,
    curate_params: CurateParams,
) -> None:
    raw = copied("plain.mp4", "long_gop.mp4", "empty.mp4")
    params = dataclasses.replace(ingest_params, scorers={"aesthetic": str(clip_folder)})
    ingest_videos(raw, tmp_path / "candidates", params)
    rows = read_candidates(tmp_path / "candidates")
    clips = rows[rows["clip_id"].notna()]
    scorer = AestheticScorer(clip_folder)
    seen = [scorer(clip) for clip in read_ledger_clips(raw, clips, ingest_params)]
    np.testing.assert_array_equal(clips["score_aesthetic"], seen)
    shutil.rmtree(raw)

    (tmp_path / "takedowns.csv").write_text("video_sha256,video,reason,removed_at\n")
    middle = float(np.median(seen))
    for least, low in ((min(seen), 0), (middle, sum(value < middle for value in seen))):
        limits = dataclasses.replace(curate_params, min_scores={"aesthetic": least})
        curate_clips(tmp_path / "candidates", tmp_path / "takedowns.csv", tmp_path / "ledger", limits)
        ledger = read_ledger(tmp_path / "ledger")
        assert (ledger["reason"] == "low_aesthetic").sum() == low
        assert (ledger.loc[ledger["kept"], "score_aesthetic"] >= least).all()

    unscored = rows.assign(score_aesthetic=rows["score_aesthetic"].where(rows.index != clips.index[0]))
    judged = judge_all(unscored, dataclasses.replace(curate_params, min_scores={"aesthetic": -1e9}))
    assert judged.loc[clips.index[0], "reason"] == "unscored_aesthetic"


def test_limit_for_a_score_that_nobody_took_is_refused(
    copied: Callable[..., Path], tmp_path: Path, ingest_params: IngestParams, curate_params: CurateParams
) -> None:
    ingest_videos(copied("plain.mp4"), tmp_path / "out", ingest_params)
    limits = dataclasses.replace(curate_params, min_scores={"aesthetic": 4.5})
    with pytest.raises(DataError, match="got limits for score_aesthetic, which the candidates lack"):
        judge_all(read_candidates(tmp_path / "out"), limits)
