"""The tokenizer of a run, trained or taken ready, from a ledger of one video."""

import dataclasses
import os
import signal
from pathlib import Path

import pandas
import pytest
import torch

from tests.encoders.conftest import SHAPE, STRIDES, write_run
from tests.support.fake_cuda import FakeCuda
from tests.support.training_kills import Kill, arm
from videomar.compute.seeding import step_generator
from videomar.curation.ledger import read_ledger, write_ledger
from videomar.encoders import drawn_clips, train_tokenizer
from videomar.encoders.causal import CausalTokenizer, start_from_pca, start_from_streamed_pca
from videomar.encoders.clip_store import ClipStore
from videomar.encoders.drawn_clips import Draws
from videomar.encoders.load import load_tokenizer
from videomar.encoders.train_tokenizer import train_from_ledger
from videomar.errors import CheckpointError, DataError
from videomar.media.clip_reader import read_ledger_clips

pytestmark = pytest.mark.usefixtures("few_draws")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """`raw/a.mp4` of six seconds, and a ledger of its first clip for training and its last for the test."""
    root = tmp_path_factory.mktemp("run")
    write_run(root, [("train", "real", 0.0, SHAPE), ("test", "real", 3.0, SHAPE)])
    return root


def fitting(params, folder):
    """Parameters with the strides of a tokenizer in a folder named by its kind."""
    time_stride, space_stride = STRIDES.get(Path(folder).name, (4, 8))
    strides = {"time_stride": time_stride, "space_stride": space_stride}
    return dataclasses.replace(
        params,
        ingest=dataclasses.replace(params.ingest, side_multiple_px=space_stride),
        tokenizer=dataclasses.replace(params.tokenizer, **strides),
    )


def prepared(root, params, out="tokenizer", **changed):
    """Figures, curve and folder of the stage with other parameters of section `tokenizer`."""
    if "pretrained" in changed:
        params = fitting(params, changed["pretrained"])
    else:
        changed = {
            "space_stride": 4,
            **changed,
        }  # small patches: quick components
    params = dataclasses.replace(params, tokenizer=dataclasses.replace(params.tokenizer, **changed))
    out, plot = root / out, root / f"{out}.csv"
    figures = train_from_ledger(root / "raw", root / "ledger.parquet", out, plot, params)
    return figures, pandas.read_csv(plot), out


def test_ready_tokenizer_is_taken_and_measured(kind, folders, root, params):
    figures, curve, out = prepared(root, params, pretrained=str(folders[kind]))
    ready = load_tokenizer(folders[kind])
    assert load_tokenizer(out).content_hash() == ready.content_hash()
    assert set(figures) == {"train_clips", "real_psnr_db"}
    assert figures["train_clips"] == 1
    assert 0 < figures["real_psnr_db"] < 30
    assert curve["step"].tolist() == [0]
    assert curve.notna().all(None)


def test_trained_tokenizer_is_measured_beside_its_start(root, params):
    figures, curve, out = prepared(root, params, steps=2, batch_size=2)
    assert set(figures) == {"train_clips", "real_psnr_db", "real_pca_psnr_db"}
    assert curve["step"].tolist() == [0, 1]
    assert load_tokenizer(out).channels == params.tokenizer.channels


@pytest.mark.skipif(torch.cuda.is_available(), reason="stands for a GPU where there is none")
def test_training_stays_on_the_gpu_and_waits_only_to_log(root, params):
    """Linear start, steps under autocast, statistics and measurement."""
    with FakeCuda() as cuda:
        figures, curve, out = prepared(root, params, out="on_gpu", device="cuda", steps=3, batch_size=1)
        numbers = cuda.waits["item"]
    assert figures["real_psnr_db"] > 0
    assert curve["step"].tolist() == [0, 2]
    assert load_tokenizer(out).latent_std.isfinite().all()
    assert numbers == 2 * len(curve) + 1  # loss and error of a row, the loss of the checkpoint


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


def test_ready_tokenizer_needs_no_clip_of_the_train_split(folders, root, params, tmp_path):
    """The video of that split is not even there."""
    ledger = read_ledger(root / "ledger.parquet")
    ledger.loc[ledger["split"] == "train", "video"] = "lost.mp4"
    (tmp_path / "raw").symlink_to(root / "raw")
    write_ledger(tmp_path / "ledger.parquet", ledger)
    figures, curve, _ = prepared(tmp_path, params, pretrained=str(folders["ours"]))
    assert curve["psnr_db"].tolist() == pytest.approx([figures["real_psnr_db"]], abs=1e-4)


def test_draws_are_those_of_clips_in_memory(mixed, params):
    """Against the plain words of the rule, with one generator for choice, mirror and noise."""
    rows = read_ledger(mixed / "ledger.parquet")
    rows = rows[rows["split"] == "train"].reset_index(drop=True)
    own = dataclasses.replace(params.tokenizer, batch_size=5, simulated_share=0.4, steps=3)
    clips = read_ledger_clips(mixed / "raw", rows, params.ingest)
    draws, noise = Draws(rows, own).at_step(2)
    generator = step_generator(own.seed, 2)
    simulated, real = ([n for n in range(10) if n % 2 == odd] for odd in (0, 1))
    picked = [simulated[n] for n in torch.randint(5, (2,), generator=generator)]
    picked += [real[n] for n in torch.randint(5, (3,), generator=generator)]
    mirrored = (torch.rand(5, generator=generator) < 0.5).tolist()
    assert [tuple(draw) for draw in draws] == list(zip(picked, mirrored, strict=True))
    assert torch.equal(torch.randn(3, generator=noise), torch.randn(3, generator=generator))
    with ClipStore(mixed / "store", rows, Draws(rows, own).all_rows(), params.ingest) as store:
        store.fill(mixed / "raw")
        parts = drawn_clips.load_clips(store, draws)
    order = list(dict.fromkeys(clips[row].shape for row in picked))
    assert [tuple(part.shape[1:]) for part in parts] == order
    left = {shape: iter(part.numpy()) for shape, part in zip(order, parts, strict=True)}
    for row, flip in draws:
        expected = clips[row][:, :, ::-1] if flip else clips[row]
        assert (next(left[clips[row].shape]) == expected).all()


def test_store_decodes_only_what_is_drawn_and_missing(mixed, params, monkeypatch):
    rows = read_ledger(mixed / "ledger.parquet")
    read = []
    real = train_tokenizer.ClipStore.__init__.__globals__["map_clips"]
    monkeypatch.setattr(
        "videomar.encoders.clip_store.map_clips",
        lambda path, starts, *rest: read.extend(starts) or real(path, starts, *rest),
    )
    folder = mixed / "part"
    for wanted, decoded in (([1, 4, 7], 3), ([1, 4, 7], 0)):
        read.clear()
        with ClipStore(folder, rows, wanted, params.ingest) as store:
            store.fill(mixed / "raw")
            first = store.read(4).copy()
        assert len(read) == decoded
    with (folder / "clips.u8").open("r+b") as file:  # a byte of the second clip
        file.seek(first.nbytes + 5)
        file.write(bytes([255 - first.reshape(-1)[5]]))
    read.clear()
    with ClipStore(folder, rows, [1, 4, 7], params.ingest) as store:
        store.fill(mixed / "raw")
        assert (store.read(4) == first).all()
    assert read == [rows["start_s"][4]]
    assert (folder / "clips.u8").stat().st_size == sum(3 * 17 * 32 * w for w in (32, 32, 48))


def test_drawn_clips_that_do_not_fit_on_the_disk_are_refused(mixed, params, monkeypatch):
    full = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("videomar.encoders.clip_store.shutil.disk_usage", lambda _: full)
    with pytest.raises(
        DataError, match=r"0.0 GB free, expected 0.0 GB for the \d+ clips .* lower tokenizer.steps"
    ):
        prepared(mixed, params, out="full", steps=2)


def test_streamed_pca_is_that_of_the_whole(params, measured):
    generator = step_generator(5, 0)
    videos = [torch.rand(3, 3, 5, 16, 24, generator=generator) * 2 - 1 for _ in range(8)]
    whole, streamed = (CausalTokenizer(params.tokenizer) for _ in range(2))
    start_from_pca(whole, *videos)
    start_from_streamed_pca(streamed, lambda: iter(videos))
    shown = [one.reconstruct(one.moments(videos[0])[0]) for one in (whole, streamed)]
    measured(
        "PCA start in batches = of all patches at once", (shown[0] - shown[1]).detach().abs().max(), 1e-3
    )


class KilledError(Exception):
    """Stands for a kill inside this process."""


def raise_killed(*_):
    raise KilledError


def weights_of(out):
    return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.mark.parametrize(
    "place", ["batch_loss", "save_run", "set_latent_statistics", "reconstruction_errors"]
)
def test_interrupted_run_ends_in_the_same_bytes(place, mixed, params, monkeypatch, tmp_path):
    """In the process; `test_killed_tokenizer_run` really kills one."""
    (tmp_path / "raw").symlink_to(mixed / "raw")
    (tmp_path / "ledger.parquet").symlink_to(mixed / "ledger.parquet")
    changed = {"steps": 7, "batch_size": 3, "checkpoint_every": 2}
    figures, curve, out = prepared(tmp_path, params, out="whole", **changed)
    real, calls = getattr(train_tokenizer, place), []

    def deadly(*arguments, **named):
        calls.append(place)
        if len(calls) == (4 if place == "batch_loss" else 3 if place == "save_run" else 1):
            raise KilledError
        return real(*arguments, **named)

    monkeypatch.setattr(train_tokenizer, place, deadly)
    with pytest.raises(KilledError):
        prepared(tmp_path, params, out="cut", **changed)
    monkeypatch.setattr(train_tokenizer, place, real)
    steps = []
    monkeypatch.setattr(train_tokenizer, "batch_loss", lambda *a: steps.append(1) or real_loss(*a))
    again, its_curve, cut = prepared(tmp_path, params, out="cut", **changed)
    assert weights_of(cut) == weights_of(out)
    assert again == figures
    assert its_curve.equals(curve)
    assert len(steps) == {"batch_loss": 5, "save_run": 3}.get(place, 0)
    assert not (tmp_path / "cut.work").exists()


real_loss = train_tokenizer.batch_loss


def test_unfinished_run_with_other_parameters_starts_anew(mixed, params, monkeypatch, tmp_path, caplog):
    (tmp_path / "raw").symlink_to(mixed / "raw")
    (tmp_path / "ledger.parquet").symlink_to(mixed / "ledger.parquet")
    changed = {"steps": 4, "batch_size": 3, "checkpoint_every": 1}
    with monkeypatch.context() as patch:
        patch.setattr(train_tokenizer, "set_latent_statistics", raise_killed)
        with pytest.raises(KilledError):
            prepared(tmp_path, params, **changed)
    assert sorted(path.name for path in (tmp_path / "tokenizer.work").glob("step_*")) == [
        "step_00000003",
        "step_00000004",
    ]
    _, _, out = prepared(tmp_path, params, **changed | {"learning_rate": 1e-3})
    assert "tokenizer.learning_rate: 0.002 -> 0.001" in caplog.text
    _, _, other = prepared(tmp_path, params, out="other", **changed | {"learning_rate": 1e-3})
    assert weights_of(out) == weights_of(other)


def test_loss_that_is_not_finite_stops_the_run(root, params, tmp_path):
    (tmp_path / "raw").symlink_to(root / "raw")
    (tmp_path / "ledger.parquet").symlink_to(root / "ledger.parquet")
    with pytest.raises(CheckpointError, match="got loss nan, expected a finite number; lower"):
        prepared(tmp_path, params, steps=3, batch_size=2, learning_rate=1e30)


def peak_bytes(root, params):
    """Most memory of a process that does nothing but the stage."""
    pid = os.fork()
    if not pid:
        try:
            prepared(root, params, steps=3, batch_size=2)
            os._exit(0)
        finally:
            os._exit(1)
    _, status, usage = os.wait4(pid, 0)
    assert status == 0
    return usage.ru_maxrss * 1024


@pytest.mark.slow
def test_memory_does_not_grow_with_the_clips(params, tmp_path):
    """Ten times the clips, for training and held out; growth by a third of their pictures may be noise."""
    shape = {"clip_width_px": 128, "clip_height_px": 128, "num_frames": 33}
    counts, peaks = (20, 200), []
    for count in counts:
        root = tmp_path / str(count)
        root.mkdir()
        rows = [("train" if n % 2 else "test", "real", 20 * n / count, shape) for n in range(count)]
        write_run(root, rows, seconds=25)
        peaks.append(peak_bytes(root, params))
    assert peaks[1] - peaks[0] < (counts[1] - counts[0]) * 3 * 128 * 128 * 33 / 3


KILLS = [
    Kill("clip written, its checksum not", "videomar.encoders.clip_store:_write", 5, after=True),
    Kill("mid-step", "videomar.encoders.train_tokenizer:batch_loss", 4),
    Kill("checkpoint: weights written", "videomar.checkpoint.folder:save_file", 3, after=True),
    Kill("checkpoint: before rename", "videomar.checkpoint.folder:os.replace", 2),
    Kill("checkpoint: old ones not removed", "videomar.checkpoint:prune", 3),
    Kill("statistics", "videomar.encoders.train_tokenizer:set_latent_statistics", 1, after=True),
    Kill("tokenizer not in place", "videomar.encoders.train_tokenizer:save_tokenizer", 1, after=True),
    Kill("tokenizer in place", "videomar.encoders.train_tokenizer:_replace_tokenizer", 1, after=True),
    Kill("curve not written", "videomar.encoders.train_tokenizer:write_csv", 1),
]


@pytest.mark.slow
@pytest.mark.parametrize("kill", KILLS, ids=[kill.what for kill in KILLS])
def test_killed_tokenizer_run_ends_in_the_same_bytes(kill, mixed, params, tmp_path):
    """By SIGKILL, at named places; what is started again knows nothing of it."""
    (tmp_path / "raw").symlink_to(mixed / "raw")
    (tmp_path / "ledger.parquet").symlink_to(mixed / "ledger.parquet")
    changed = {"steps": 7, "batch_size": 3, "checkpoint_every": 2}
    pid = os.fork()
    if not pid:
        try:
            arm(kill)
            prepared(tmp_path, params, out="cut", **changed)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    figures, curve, cut = prepared(tmp_path, params, out="cut", **changed)
    whole_figures, whole_curve, whole = prepared(tmp_path, params, out="whole", **changed)
    assert weights_of(cut) == weights_of(whole)
    assert figures == whole_figures
    assert curve.equals(whole_curve)
    assert not (tmp_path / "cut.work").exists()
