"""`videomar demo`: a local web page that generates a clip from a picture and a prompt, frame by frame.

Axes: F frames, H W rows and columns in pixels.
"""

import contextlib
import html
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from videomar.errors import DataError, VideomarError
from videomar.media.images import MAX_FILE_BYTES, read_picture
from videomar.media.mp4 import write_mp4
from videomar.report.example_pictures import read_examples
from videomar.sampling.generate import ClipGenerator, GenerationRequest

if TYPE_CHECKING:
    from gradio import Blocks

_HOST = "127.0.0.1"
_NAMES = (_HOST, "localhost")
_MAX_WAITING = 8
_MAX_PROMPT_LETTERS = 500
_MAX_S = 600.0
_KEEP_S = 3600
_MAX_REQUEST_BYTES = MAX_FILE_BYTES + 2 * 2**20  # a form around the file
_MAX_STORED_BYTES = 4 * MAX_FILE_BYTES
_CHANGING = ("POST", "PUT", "PATCH", "DELETE")
_POLICY_VIOLATION = 1008  # RFC 6455: how a web socket is closed that may not be opened
# Show all frames at any width: gradio's own gallery has a fixed number of columns and cuts the rest off. Show
# a small picture as large as its field.
_STYLE = """
.first img {
  width: 100% !important; height: 100% !important; object-fit: contain; image-rendering: pixelated;
}
.frames .grid-wrap { max-height: 60vh; }
.frames .grid-container {
  grid-template: none !important; grid-template-columns: repeat(auto-fill, minmax(72px, 1fr)) !important;
  grid-auto-rows: auto !important; gap: 6px; padding-top: 1.5rem;
}
"""


class OwnPageOnly:
    """Refuses requests of other sites' pages in the same browser, and uploads for which there is no room.

    A page elsewhere can send requests to this machine. Its own address gives it away, and so does the name by
    which it reached us, if that is a name of its own that it has pointed here. An ASGI app around the page's.
    Remembers the bytes of requests in flight.
    """

    def __init__(self, app: Any, folder: Path, max_stored_bytes: int = _MAX_STORED_BYTES) -> None:
        self._app, self._folder, self._max_stored_bytes = app, folder, max_stored_bytes
        self._in_flight = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, or answer with a status and one line."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        status, line = self._refusal(scope.get("method", "GET"), headers)
        if not status:
            size = _size_of(headers) or 0
            self._in_flight += size
            try:
                await self._app(scope, receive, send)
            finally:
                self._in_flight -= size
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
        else:
            plain = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
            await send({"type": "http.response.start", "status": status, "headers": plain})
            await send({"type": "http.response.body", "body": line.encode()})

    def _refusal(self, method: str, headers: Mapping[str, str]) -> tuple[int, str]:
        """Status and line of a refusal; 0 if there is none."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if host.partition(":")[0].lower() not in _NAMES:
            return 403, f"page: got host {host}, expected {_HOST}; open it by that name"
        if origin is not None and origin != f"http://{host}":
            return 403, f"page: got a request of {origin}, expected one of http://{host}; use its own page"
        if method not in _CHANGING:
            return 0, ""
        size = _size_of(headers)
        if size is None:
            return 411, "page: got a request without its length, expected Content-Length"
        if size > _MAX_REQUEST_BYTES:
            return 413, f"page: got {size} bytes, expected at most {_MAX_REQUEST_BYTES}; send a smaller file"
        if _stored_bytes(self._folder) + self._in_flight + size > self._max_stored_bytes:
            return 413, _no_room(self._max_stored_bytes)
        return 0, ""


def stream_clip(
    generator: ClipGenerator,
    picture: NDArray[np.uint8],
    request: GenerationRequest,
    max_s: float = _MAX_S,
) -> Iterator[NDArray[np.uint8]]:
    """Yield the clip (F, H, W, 3) at first and after each latent frame; the last is the whole.

    Raises:
        DataError: the model cannot make such a clip, or it takes too long.
    """
    end = time.monotonic() + max_s
    for clip in generator.partial_clips(picture[None], request):
        yield generator.decode(clip)
        if clip.num_frames < clip.total_frames and time.monotonic() > end:
            got = f"{clip.num_frames} of {clip.total_frames} frames in {max_s:g} s"
            raise DataError(f"clip: got {got}, expected all of them; try a smaller model")


def page(generator: ClipGenerator, folder: Path) -> "Blocks":
    """Build the page; it keeps uploads and clips in the folder.

    Raises:
        VideomarError: gradio is not installed.
    """
    # gradio reads these on import: no telemetry, and uploads are kept beside the clips.
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": str(folder / "uploads")}
    try:
        import gradio as gr
    except ImportError:
        raise VideomarError(
            "gradio is not installed, and the page needs it; `pip install gradio==6.31.0`"
        ) from None

    def show(*fields: Any) -> Iterator[Any]:
        try:
            yield from _answer(generator, folder, *fields)
        except VideomarError as error:
            raise gr.Error(html.escape(str(error)), print_exception=False) from None

    with gr.Blocks(title="videomar", analytics_enabled=False, delete_cache=(_KEEP_S, _KEEP_S)) as made:
        gr.Markdown(f"# A clip from a picture and a prompt\n{_about(generator)}")
        with gr.Row():
            with gr.Column():
                fields, button, progress = _form(gr, generator)
            with gr.Column():
                video = gr.Video(label="Clip", autoplay=True, loop=True, height=320, buttons=["download"])
                frames = gr.Gallery(label="Frames", buttons=[], elem_classes="frames")
        gr.on(
            [button.click, fields[1].submit],
            show,
            fields,
            [frames, video, progress],
            show_progress="hidden",  # the line below the button shows more
            api_visibility="private",
            concurrency_limit=1,
        )
    return made.queue(max_size=_MAX_WAITING, default_concurrency_limit=1, api_open=False)


def _form(gr: Any, generator: ClipGenerator) -> tuple[list[Any], Any, Any]:
    """Add picture, prompt, seed and motion, filled with an example if there is one; button; progress."""
    examples = read_examples(generator.folder)
    first = examples[0] if examples else None
    picture = gr.Image(
        str(first.picture) if first else None,
        type="filepath",
        sources=["upload"],
        label="First picture",
        height=240,
        elem_classes="first",
    )
    picture.preprocess = _path  # gradio's own would decode the file before we can check it
    prompt = gr.Textbox(
        first.prompt if first else "",
        label="Prompt",
        placeholder="in the words of the training captions; Enter starts",
        max_length=_MAX_PROMPT_LETTERS,
    )
    with gr.Row():
        seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=2**31)
        motion = gr.Textbox(  # text, because a number field cannot be empty
            _default_motion(generator),
            label="Motion (1 little, 10 much)",
            placeholder="any",
            max_length=9,
            visible=_knows_motion(generator),
        )
    button = gr.Button("Generate", variant="primary")
    progress = gr.Markdown("Frames appear one after another, then the clip.")
    if examples:
        gr.Examples(
            [[str(example.picture), example.prompt] for example in examples],
            [picture, prompt],
            label="Pictures that the model was not trained on: click one, then Generate",
            api_visibility="private",
        )
    return [picture, prompt, seed, motion], button, progress


def _answer(
    generator: ClipGenerator, folder: Path, path: str | None, prompt: str, seed: float | None, motion: str
) -> Iterator[tuple[list[str] | None, str | None, str]]:
    """Yield what the page shows after each step: files of the frames, the finished clip, progress.

    gradio has copied the files when it asks for the next step. They are files and not arrays, because gradio
    writes an array it got before into the same file again, and a browser reading it gets half a picture.
    """
    start, ingest = time.monotonic(), generator.params.ingest
    yield None, None, ""
    if _stored_bytes(folder) > _MAX_STORED_BYTES:
        raise DataError(_no_room(_MAX_STORED_BYTES))
    if path is None or len(prompt) > _MAX_PROMPT_LETTERS:
        got = "no picture" if path is None else f"{len(prompt)} letters"
        raise DataError(f"page: got {got}, expected a picture and at most {_MAX_PROMPT_LETTERS} letters")
    score = _number(motion) if _knows_motion(generator) else None
    request = GenerationRequest(prompt=prompt, seed=int(seed or 0), motion=score)
    clip: NDArray[np.uint8] = np.empty(0, np.uint8)
    shown: list[str] = []
    notes: list[str] = []
    picture = read_picture(Path(path), notes.append)
    about = "".join(f"; of the picture: {html.escape(line)}" for line in notes)
    if unread := generator.prompt_note(prompt):
        about += f"; of the prompt: {unread}"
    with tempfile.TemporaryDirectory(dir=folder) as made:
        for clip in stream_clip(generator, picture, request):
            for frame in clip[len(shown) :]:
                shown.append(f"{made}/frame_{len(shown):03}.png")
                Image.fromarray(frame).save(shown[-1])
            progress = f"{len(clip)} of {ingest.num_frames} frames"
            yield shown, None, f"{progress}, {time.monotonic() - start:.1f} s{about}"
        write_mp4(Path(made, "clip.mp4"), clip, ingest.fps)
        yield shown, f"{made}/clip.mp4", f"done: {progress}, {time.monotonic() - start:.1f} s{about}"


def _size_of(headers: Mapping[str, str]) -> int | None:
    """Bytes of a request's body; None if it does not say so, or sends pieces until it likes to stop."""
    if "transfer-encoding" in headers:
        return None
    length = headers.get("content-length", "0")
    return int(length) if length.isdecimal() else None


def _stored_bytes(folder: Path) -> int:
    """Bytes of all files below a folder in which others may be deleted meanwhile."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.lstat().st_size
    return total


def _no_room(max_bytes: int) -> str:
    rule = f"at most {max_bytes // 2**20} MB of uploads and clips"
    return f"page: got more files, expected {rule}; they are deleted after {_KEEP_S // 60} minutes"


def _default_motion(generator: ClipGenerator) -> str:
    """The motion score of section `sample`, as text."""
    motion = generator.params.sample.motion
    return "" if motion is None else str(motion)


def _knows_motion(generator: ClipGenerator) -> bool:
    return "motion" in generator.loaded.params.conditions


def _about(generator: ClipGenerator) -> str:
    """Describe the model in one line."""
    ingest = generator.params.ingest
    shape = f"{ingest.size_px}x{ingest.size_px} pixels, {ingest.num_frames} frames"
    made = f"trained for {generator.loaded.step} steps on clips of about {shape}"
    where = "the GPU" if generator.device.type == "cuda" else "the CPU"
    return f"The model was {made}. It runs on {where} of this machine; nothing is sent elsewhere."


def _path(uploaded: Any) -> str | None:
    """Path of the upload; None without one."""
    return None if uploaded is None else uploaded.path


def _number(text: str) -> float | None:
    """Parse a score from a field of the page; None if empty."""
    digits = text.strip()
    if digits and not digits.replace(".", "", 1).isdecimal():
        raise DataError(f"page: got motion {digits}, expected a number of at least 0, or nothing")
    return float(digits) if digits else None


def open_page(generator: ClipGenerator, port: int, folder: Path) -> "Blocks":
    """Serve the page on loopback until it is closed; clips and uploads go to the folder.

    Raises:
        VideomarError: the port is in use, or gradio is not installed.
    """
    made = page(generator, folder)
    import gradio as gr

    try:
        made.launch(
            server_name=_HOST,
            server_port=port,
            share=False,
            prevent_thread_lock=True,
            quiet=True,
            max_file_size=MAX_FILE_BYTES,
            allowed_paths=[str(folder)],
            app_kwargs={"middleware": [(OwnPageOnly, (), {"folder": folder})]},
            css=_STYLE,
            theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
            footer_links=[],
            ssr_mode=False,
            pwa=False,
            run_history=False,
            enable_monitoring=False,
        )
    except OSError:  # gradio's message is about its own arguments
        raise VideomarError(f"port {port} of {_HOST} is already in use; choose another with --port") from None
    return made


def serve(generator: ClipGenerator, port: int, report: Callable[[str], None]) -> None:
    """Serve the page until a signal ends it and report its address; clips and uploads are deleted afterwards.

    Ctrl-C is one, and so are SIGTERM (`kill`, a machine that is shut down) and SIGHUP (a closed terminal).
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    # A step of the clip that is being made may still write while the folder is removed.
    with tempfile.TemporaryDirectory(prefix="videomar-demo-", ignore_cleanup_errors=True) as folder:
        made = open_page(generator, port, Path(folder))
        try:
            report(f"http://{_HOST}:{port}")
            made.block_thread()
        finally:
            made.close(verbose=False)
