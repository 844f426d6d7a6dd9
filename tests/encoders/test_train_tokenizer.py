"""The tokenizer of a run, trained or taken ready, from a ledger of one video."""

import dataclasses
from dataclasses import asdict

import pandas
import pytest

from tests.support.videos import run_ffmpeg
from videomar.curation.ledger import ClipRow, read_ledger, write_ledger
from videomar.encoders.load import load_tokenizer
from videomar.encoders.train_tokenizer import train_from_ledger
from videomar.errors import CheckpointError, DataError

SHAPE = {"clip_width_px": 32, "clip_height_px": 32, "num_frames": 17}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """`raw/a.mp4` of six seconds, and a ledger of its first clip for training and its last for the test."""
    root = tmp_path_factory.mktemp("run")
    (root / "raw").mkdir()
    run_ffmpeg(root / "raw", "-f", "lavfi", "-i", "testsrc2=size=64x64:rate=8:duration=6", "a.mp4")
    rows = [
        asdict(ClipRow(video="a.mp4", clip_id=split, group="real", start_s=start_s, **SHAPE))
        | {"split": split}
        for split, start_s in (("train", 0.0), ("test", 3.0))
    ]
    write_ledger(root / "ledger.parquet", pandas.DataFrame(rows).assign(kept=True, cluster=None))
    return root


def prepared(root, params, **changed):
    """Figures, curve and folder of the stage with other parameters of section `tokenizer`."""
    params = dataclasses.replace(params, tokenizer=dataclasses.replace(params.tokenizer, **changed))
    out, plot = root / "tokenizer", root / "tokenizer.csv"
    figures = train_from_ledger(root / "raw", root / "ledger.parquet", out, plot, params)
    return figures, pandas.read_csv(plot), out


def test_ready_tokenizer_is_taken_and_measured(kind, folders, root, params):
    figures, curve, out = prepared(root, params, pretrained=str(folders[kind]))
    ready = load_tokenizer(folders[kind])
    assert load_tokenizer(out).content_hash() == ready.content_hash()
    assert set(figures) == {"train_clips", "real_psnr_db"}
    assert 0 < figures["real_psnr_db"] < 30
    assert curve["step"].tolist() == [0]
    assert curve.notna().all(None)


def test_trained_tokenizer_is_measured_beside_its_start(root, params):
    figures, curve, out = prepared(root, params, steps=2, batch_size=2)
    assert set(figures) == {"train_clips", "real_psnr_db", "real_pca_psnr_db"}
    assert curve["step"].tolist() == [0, 1]
    assert load_tokenizer(out).channels == params.tokenizer.channels


def test_ready_tokenizer_that_is_not_there_is_refused(root, params):
    with pytest.raises(CheckpointError, match="nowhere: got no file, expected tokenizer.json"):
        prepared(root, params, pretrained="nowhere")


@pytest.mark.parametrize("kind", ["cosmos16"])
def test_clips_that_a_ready_tokenizer_cannot_take_are_refused(kind, folders, root, params, tmp_path):
    ledger = read_ledger(root / "ledger.parquet").assign(num_frames=13)
    (tmp_path / "raw").symlink_to(root / "raw")
    write_ledger(tmp_path / "ledger.parquet", ledger)
    with pytest.raises(DataError, match="got 13 frames, expected 1 . a multiple of the time stride 8"):
        prepared(tmp_path, params, pretrained=str(folders[kind]))
