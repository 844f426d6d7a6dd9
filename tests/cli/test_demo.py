"""The page of `videomar demo`: the clip as it grows, its limits, and the page in a real browser."""

import copy
import dataclasses
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

import videomar
from tests.support.browser import CHROMIUM, Tab, browser
from tests.support.tiny_model import write_tiny_model
from videomar.cli.demo import OwnPageOnly, _answer, open_page, page, stream_clip
from videomar.config import Params
from videomar.errors import DataError, VideomarError
from videomar.media.images import MAX_FILE_BYTES
from videomar.report.example_pictures import read_examples
from videomar.sampling.generate import ClipGenerator, GenerationRequest

REQUEST = GenerationRequest(prompt="it moves", seed=3, motion=5.0)


@pytest.fixture(scope="module")
def picture() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def generator(params: Params, tmp_path_factory: pytest.TempPathFactory) -> ClipGenerator:
    return ClipGenerator(write_tiny_model(params, tmp_path_factory.mktemp("model")))


def test_stream_grows_to_the_clip_that_the_command_makes(
    generator: ClipGenerator, picture: NDArray[np.uint8]
) -> None:
    shown = list(stream_clip(generator, picture, REQUEST))
    assert [len(frames) for frames in shown] == [1, 5, 9]
    assert np.array_equal(shown[-1], generator(picture, "it moves", seed=3, motion=5.0))
    for frames in shown[:-1]:
        later = shown[-1][: len(frames)].astype(int)  # a product of other sizes may round to the next grey
        assert np.abs(frames - later).max() <= 1


def test_stream_that_takes_too_long_is_broken_off(
    generator: ClipGenerator, picture: NDArray[np.uint8]
) -> None:
    with pytest.raises(DataError, match="got 1 of 9 frames in 0 s"):
        list(stream_clip(generator, picture, REQUEST, max_s=0.0))


def test_stream_that_nobody_watches_any_more_is_not_made_and_the_next_is_whole(
    generator: ClipGenerator, picture: NDArray[np.uint8]
) -> None:
    passes: list[int] = []
    hook = generator.loaded.model.trunk.norm.register_forward_hook(lambda *_: passes.append(1))
    try:
        whole = len(list(stream_clip(generator, picture, REQUEST))), len(passes)
        watched = stream_clip(generator, picture, REQUEST)
        next(watched)
        watched.close()
        assert len(passes) == whole[1]
        assert (len(list(stream_clip(generator, picture, REQUEST))), len(passes)) == (whole[0], 2 * whole[1])
    finally:
        hook.remove()


def test_page_gets_each_frame_in_a_file_that_is_written_once_and_gone_afterwards(
    generator: ClipGenerator, picture: NDArray[np.uint8], tmp_path: Path
) -> None:
    Image.fromarray(picture).save(tmp_path / "first.png")
    folder = tmp_path / "page"
    folder.mkdir()
    (show,) = (known.fn for known in page(generator, folder).fns.values())
    assert show is not None
    written: dict[str, int] = {}
    for frames, _, _ in show(str(tmp_path / "first.png"), "it moves", 3, ""):
        now = {file: Path(file).stat().st_mtime_ns for file in frames or ()}
        assert now.items() >= written.items()
        written = now
    assert len(written) == 9
    assert {path.name for path in folder.iterdir()} <= {"uploads"}


def test_page_without_its_package_is_refused(
    generator: ClipGenerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(VideomarError, match="pip install gradio==6.31.0"):
        page(generator, tmp_path)


@pytest.fixture(scope="module")
def address(generator: ClipGenerator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    sample = dataclasses.replace(
        generator.params.sample, num_unmask_steps=8, num_diffusion_steps=200, final_diffusion_steps=200
    )  # slow enough to be watched
    slow = copy.copy(generator)
    slow.params = dataclasses.replace(generator.params, sample=sample)
    made = open_page(slow, port, tmp_path_factory.mktemp("page"))
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        made.close()


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browser(tmp_path_factory.mktemp("profile")) as made:
        yield made


needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
FRAMES = "document.querySelectorAll('.grid-container img, .gallery-item img').length"


@pytest.mark.slow
@pytest.mark.browser
@needs_browser
def test_picture_and_prompt_give_a_video_and_nothing_comes_from_elsewhere(
    address: str, tab: Tab, picture: NDArray[np.uint8], tmp_path: Path
) -> None:
    Image.fromarray(picture).save(tmp_path / "first.png")
    tab.open(address)
    tab.wait("document.querySelector('input[type=file]') !== null")
    tab.give_files("input[type=file]", tmp_path / "first.png")
    tab.wait("document.querySelector('img')?.naturalWidth")
    tab.click("document.querySelector('textarea')")
    tab.write("<b>it moves</b>")
    tab.value(f"window.seen = []; setInterval(() => seen.push({FRAMES}), 2)")
    tab.click_text("Generate")
    tab.wait_for_text("done: 9 of 9 frames")
    tab.wait("document.querySelector('video')?.duration > 0.5")
    assert tab.wait(FRAMES) == 9
    assert tab.value("[...new Set(seen)]") == [0, 1, 5, 9]
    tab.screenshot(tmp_path / "demo.png")
    assert len(tab.requests) > 10
    assert tab.foreign_requests() == []
    assert tab.complaints == []


@pytest.mark.slow
@pytest.mark.browser
@needs_browser
def test_no_picture_is_refused_in_words(address: str, tab: Tab) -> None:
    tab.open(address)
    tab.click_text("Generate")
    tab.wait_for_text("got no picture, expected a picture and at most 500 letters")
    values = "[...document.querySelectorAll('input, textarea')].map(e => e.value)"
    assert tab.value(values).count("0") == 1  # the seed; no motion is asked for


@pytest.mark.slow
@pytest.mark.browser
@needs_browser
def test_file_that_is_no_picture_is_refused(address: str, tab: Tab, tmp_path: Path) -> None:
    (tmp_path / "first.png").write_text("words")
    tab.open(address)
    tab.wait("document.querySelector('input[type=file]') !== null")
    tab.give_files("input[type=file]", tmp_path / "first.png")
    tab.wait("document.querySelector('img') !== null")
    tab.click_text("Generate")
    tab.wait_for_text("got no readable picture")


def asked(
    address: str, path: str, body: bytes | None, kind: str = "application/json", **more: str
) -> tuple[int, str]:
    """Code and text that the page's server answers."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    method = "GET" if body is None else "POST"
    connection.request(method, f"/gradio_api/{path}", body, {"Content-Type": kind, **more})
    answer = connection.getresponse()
    answered = answer.status, answer.read().decode()
    connection.close()
    return answered


def upload(address: str, content: bytes, **more: str) -> tuple[int, str]:
    """The same for a file given to the page."""
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    kind = "multipart/form-data; boundary=x"
    return asked(address, "upload", head + content + b"\r\n--x--\r\n", kind, **more)


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[TestClient]:
    """What lies behind the guard, which says how many bytes it got."""

    async def answer(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(len(await request.body())))

    async def talk(websocket) -> None:
        await websocket.accept()
        await websocket.close()

    (tmp_path / "uploads").mkdir()
    (tmp_path / "uploads/a.png").write_bytes(bytes(600))
    inside = Starlette(
        routes=[WebSocketRoute("/talk", talk), Route("/", answer, methods=["GET", "POST", "DELETE"])]
    )
    with TestClient(OwnPageOnly(inside, tmp_path), base_url="http://127.0.0.1:7860") as client:
        yield client


@pytest.mark.parametrize(
    "host", ["127.0.0.1:7860", "localhost:7860", "localhost:9000", "127.0.0.1", "LOCALHOST"]
)
def test_own_page_is_answered_under_the_names_of_this_machine(guarded: TestClient, host: str) -> None:
    for headers in ({"Host": host}, {"Host": host, "Origin": f"http://{host}"}):
        assert guarded.get("/", headers=headers).text == "0"
        assert guarded.post("/", headers=headers, content=b"abc").text == "3"


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "https://127.0.0.1:7860"},
        {"Origin": "http://127.0.0.1:5000"},
        {"Origin": "http://localhost:7860"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Host": "evil.example"},
        {"Host": "evil.example:7860", "Origin": "http://evil.example:7860"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "evil@127.0.0.1:7860"},
        {"Host": ""},
    ],
)
def test_pages_of_other_sites_are_refused(guarded: TestClient, headers: dict[str, str]) -> None:
    for method in ("GET", "POST", "DELETE"):
        refused = guarded.request(method, "/", headers=headers)
        assert refused.status_code == 403
        assert refused.text.startswith("page: got ")
    with pytest.raises(WebSocketDisconnect), guarded.websocket_connect("/talk", headers=headers):
        pass


def test_uploads_together_have_a_bound_and_each_says_its_size(guarded: TestClient, tmp_path: Path) -> None:
    stored = sum(path.lstat().st_size for path in tmp_path.rglob("*"))
    guard = guarded.app
    assert isinstance(guard, OwnPageOnly)
    guard._max_stored_bytes = stored + 400
    assert guarded.post("/", content=bytes(400)).text == "400"
    refused = guarded.post("/", content=bytes(401))
    assert (refused.status_code, refused.text[:38]) == (413, "page: got more files, expected at most")
    assert guarded.post("/", content=bytes(400)).text == "400"  # what has been answered takes no room
    guard._in_flight = 100
    assert guarded.post("/", content=bytes(301)).status_code == 413
    pieces = iter([b"a", b"b"])
    assert guarded.post("/", content=pieces).status_code == 411
    assert guarded.get("/").text == "0"


def test_no_clip_is_made_where_there_is_no_room_for_it(
    generator: ClipGenerator, picture: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("videomar.cli.demo._MAX_STORED_BYTES", 10)
    Image.fromarray(picture).save(tmp_path / "first.png")
    with pytest.raises(DataError, match="page: got more files, expected at most 0 MB"):
        list(_answer(generator, tmp_path, str(tmp_path / "first.png"), "it moves", 3, ""))


@pytest.mark.slow
def test_upload_of_another_site_is_refused_by_the_real_page(address: str) -> None:
    assert upload(address, bytes(10), Origin="http://evil.example")[0] == 403
    assert upload(address, bytes(10), Host="evil.example")[0] == 403
    assert asked(address, "info", None, Host="evil.example")[0] == 403
    assert upload(address, bytes(10), Origin=address)[0] == 200
    assert asked(address, "upload", b"", **{"Content-Length": str(2**40)})[0] == 413


SERVE = """
import sys
from pathlib import Path
from videomar.cli.demo import serve
from videomar.sampling.generate import ClipGenerator
serve(ClipGenerator(Path(sys.argv[1])), int(sys.argv[2]), lambda line: print(line, flush=True))
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_uploads_are_gone_after_every_signal_that_asks_for_the_end(
    generator: ClipGenerator, tmp_path: Path, number: signal.Signals
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-c", SERVE, str(generator.folder), port]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            assert upload(address, bytes(1000))[0] == 200
            assert [path.name for path in tmp_path.rglob("a.png")] == ["a.png"]
            server.send_signal(number)
            assert server.wait(60) == (0 if number == signal.SIGINT else 128 + number)
        finally:
            server.kill()
    assert list(tmp_path.glob("videomar-demo-*")) == []


@pytest.mark.slow
def test_upload_beyond_its_bound_is_refused_and_others_are_not_heard(address: str) -> None:
    assert upload(address, bytes(1000))[0] == 200
    assert upload(address, bytes(MAX_FILE_BYTES + 2**20))[0] == 413
    with socket.socket() as other, pytest.raises(ConnectionRefusedError):
        other.connect(("127.0.0.2", urlsplit(address).port))  # this machine too, but the page is not there


@pytest.mark.slow
def test_words_beyond_their_bound_are_refused_also_where_no_page_counts_them(
    address: str, picture: NDArray[np.uint8]
) -> None:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "png")
    (path,) = json.loads(upload(address, file.getvalue())[1])
    given = {"path": path, "meta": {"_type": "gradio.FileData"}}
    request = {"data": [given, "x" * 501, 0, ""], "fn_index": 0, "session_hash": "other"}
    assert asked(address, "queue/join", json.dumps(request).encode())[0] == 200
    assert "got 501 letters" in asked(address, "queue/data?session_hash=other", None)[1]


@pytest.mark.slow
def test_taken_port_is_refused_with_a_way_out(address: str, generator: ClipGenerator, tmp_path: Path) -> None:
    port = urlsplit(address).port
    assert port is not None
    with pytest.raises(VideomarError, match=f"port {port} of 127.0.0.1 is already in use.*--port"):
        open_page(generator, port, tmp_path)


def test_page_says_that_the_text_encoder_cannot_read_a_prompt(tmp_path: Path) -> None:
    model = videomar.load("shipped", device="cpu")
    example = read_examples(model.folder)[0]
    prompts = "🐈🏃", example.prompt
    shown = [list(_answer(model, tmp_path, str(example.picture), prompt, 0, ""))[-1][2] for prompt in prompts]
    assert "; of the prompt: the model's text encoder knows 0% of the prompt's words" in shown[0]
    assert "prompt" not in shown[1]


def test_page_opens_with_held_out_examples_and_names_the_device(tmp_path: Path) -> None:
    model = videomar.load("shipped", device="cpu")
    parts = page(model, tmp_path).config["components"]
    examples = read_examples(model.folder)
    assert examples[0].prompt in [part["props"].get("value") for part in parts]
    [listed] = [part["props"] for part in parts if part["type"] == "dataset"]
    assert [prompt for _, prompt in listed["samples"]] == [example.prompt for example in examples]
    assert any("runs on the CPU of this machine" in str(part["props"].get("value")) for part in parts)
