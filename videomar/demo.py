"""`videomar demo`: a page of this machine where a picture and words become a clip, frame by frame.

Axes: F frames, H W rows and columns in pixels, T latent frames, L tokens per frame, P token channels.
"""

import html
import os
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from videomar.checkpoint import load
from videomar.data.mp4 import write_mp4
from videomar.data.pictures import read_picture
from videomar.data.shapes import clip_size
from videomar.errors import DataError, VideomarError
from videomar.model.patchify import token_grid, unpatchify
from videomar.runtime import step_generator
from videomar.sampling.animate import ModelFiles, Wish, cover
from videomar.text import load_text_encoder, pad_states
from videomar.tokenizer.interface import to_pictures, to_unit_range
from videomar.tokenizer.loading import load_tokenizer

if TYPE_CHECKING:
    from gradio import Blocks

_HOST = "127.0.0.1"
_MOST_BYTES = 16 * 2**20
_MOST_WAITING = 8
_MOST_LETTERS = 500
_LONGEST_S = 600.0
_KEEP_S = 3600


class Studio:
    """Makes clips from pictures, and shows them as they grow. Remembers the networks."""

    def __init__(self, files: ModelFiles, longest_s: float = _LONGEST_S) -> None:
        self.params, self._longest_s = files.params, longest_s
        self._loaded, self._coder = load(files.checkpoint), load_tokenizer(files.tokenizer)
        self._encoder = load_text_encoder(files.params.text)
        self.knows_motion = "motion" in self._loaded.shape.params.conditions

    def film(self, picture: NDArray[np.uint8], wish: Wish) -> Iterator[NDArray[np.uint8]]:
        """The clip (F, H, W, 3) after each latent frame; the last one is what `animate` makes of the picture.

        One who stops listening stops the work too, and so does the limit of time.

        Raises:
            DataError: a wish that this model cannot fulfil, or one that takes too long.
        """
        context = self._context(picture)
        told: queue.SimpleQueue[Tensor | None] = queue.SimpleQueue()
        left = threading.Event()
        patch_size = self._loaded.shape.params.patch_size
        grid, frames = token_grid(context, patch_size), []
        with ThreadPoolExecutor(1) as worker:
            work = worker.submit(self._generate, context, wish, told, left)
            work.add_done_callback(lambda _: told.put(None))
            try:
                while (frame := told.get()) is not None:
                    frames.append(frame)
                    yield self._decode(unpatchify(torch.stack(frames, 1), patch_size, grid))
                yield self._decode(work.result())
            finally:
                left.set()

    def _generate(
        self, context: Tensor, wish: Wish, told: "queue.SimpleQueue[Tensor | None]", left: threading.Event
    ) -> Tensor:
        """Latents (1, C, T, H, W) of the clip; each finished frame (1, L, P) but the last is told on the way.

        The sampler reads every finished frame once more, to remember it. That pass is known by its tokens:
        in all others some are hidden, and those are zero where they enter the trunk.
        """
        end = time.monotonic() + self._longest_s

        def look(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
            if left.is_set() or time.monotonic() > end:
                raise DataError(f"clip: got none in {self._longest_s:g} s, expected one; try a smaller model")
            tokens = inputs[0][:1, 0]
            if tokens.any(-1).all():
                told.put(tokens.clone())

        params, trunk = self.params, self._loaded.model.trunk
        motion = params.sample.motion if wish.motion is None else wish.motion
        text = pad_states(
            self._encoder.encode([wish.prompt]), params.text.max_tokens, self._loaded.shape.text_channels
        )
        hook = trunk.z_proj.register_forward_pre_hook(look)
        try:
            length = self._coder.num_latent_frames(wish.num_frames or params.ingest.num_frames)
            sampling, noise = replace(params.sample, motion=motion), step_generator(wish.seed, 0)
            return self._loaded.model.generate(context, length, *text, sampling, noise)
        finally:
            hook.remove()

    def _context(self, picture: NDArray[np.uint8]) -> Tensor:
        size = clip_size(picture.shape[1], picture.shape[0], self.params.ingest)
        return self._coder.encode(to_unit_range(torch.from_numpy(cover(picture, size))[None, None]))

    def _decode(self, latents: Tensor) -> NDArray[np.uint8]:
        return to_pictures(self._coder.decode(latents))[0].numpy()


def page(studio: Studio, folder: Path) -> "Blocks":
    """The page; clips go to the folder, named by us.

    Raises:
        VideomarError: gradio is not installed.
    """
    # Before gradio is imported, which reads them then: it reports nothing, and keeps uploads with the clips.
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": str(folder / "uploads")}
    try:
        import gradio as gr
    except ImportError:
        raise VideomarError(
            "gradio: got no such package, expected it for the page; `pip install gradio==6.31.0`"
        ) from None

    def show(path: str | None, prompt: str, seed: float | None, motion: str) -> Iterator[Any]:
        start = time.monotonic()
        try:
            if path is None or len(prompt) > _MOST_LETTERS:
                got = "no picture" if path is None else f"{len(prompt)} letters"
                raise DataError(f"page: got {got}, expected a picture and at most {_MOST_LETTERS} letters")
            asked = _number(motion) if studio.knows_motion else None
            wish = Wish(prompt=prompt, seed=int(seed or 0), motion=asked)
            clip: NDArray[np.uint8] = np.empty(0, np.uint8)
            for clip in studio.film(read_picture(Path(path)), wish):
                told = f"{len(clip)} of {studio.params.ingest.num_frames} frames"
                yield list(clip), None, f"{told}, {time.monotonic() - start:.1f} s"
            out = Path(tempfile.mkdtemp(dir=folder)) / "clip.mp4"
            write_mp4(out, clip, studio.params.ingest.fps)
            yield list(clip), str(out), f"done: {told}, {time.monotonic() - start:.1f} s"
        except VideomarError as error:
            raise gr.Error(html.escape(str(error)), print_exception=False) from None

    with gr.Blocks(title="videomar", analytics_enabled=False, delete_cache=(_KEEP_S, _KEEP_S)) as made:
        gr.Markdown("# A picture and words to a clip")
        with gr.Row():
            with gr.Column():
                picture: Any = gr.Image(
                    type="filepath", sources=["upload"], label="First picture", height=240
                )
                picture.preprocess = _path  # its own decodes the file before anything is known of it
                prompt = gr.Textbox(label="What shall happen", max_length=_MOST_LETTERS)
                seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=2**31)
                usual = "" if studio.params.sample.motion is None else str(studio.params.sample.motion)
                label = "Motion score (empty: any)"  # as text, because a field for numbers is never empty
                motion = gr.Textbox(usual, label=label, max_length=9, visible=studio.knows_motion)
                button = gr.Button("Generate", variant="primary")
            with gr.Column():
                video = gr.Video(label="Clip", autoplay=True, loop=True, height=320, buttons=["download"])
                told = gr.Textbox(label="Progress", interactive=False)
                frames = gr.Gallery(label="Frames", columns=5, height=240, format="png", buttons=[])
        wishes = [picture, prompt, seed, motion]
        button.click(show, wishes, [frames, video, told], api_visibility="private", concurrency_limit=1)
    return made.queue(max_size=_MOST_WAITING, default_concurrency_limit=1, api_open=False)


def _path(uploaded: Any) -> str | None:
    """Where gradio has put the upload; None without one."""
    return None if uploaded is None else uploaded.path


def _number(text: str) -> float | None:
    """A score from a field of the page; None if it is empty."""
    digits = text.strip()
    if digits and not digits.replace(".", "", 1).isdecimal():
        raise DataError(f"page: got motion {digits}, expected a number from 0 up, or nothing")
    return float(digits) if digits else None


def open_page(files: ModelFiles, port: int, folder: Path) -> "Blocks":
    """Serve the page on loopback until it is closed; clips and uploads go to the folder.

    Raises:
        VideomarError: the port is taken, or gradio is not installed.
    """
    made = page(Studio(files), folder)
    import gradio as gr

    try:
        made.launch(
            server_name=_HOST,
            server_port=port,
            share=False,
            prevent_thread_lock=True,
            quiet=True,
            max_file_size=_MOST_BYTES,
            allowed_paths=[str(folder)],
            theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
            footer_links=[],
            ssr_mode=False,
            pwa=False,
            run_history=False,
            enable_monitoring=False,
        )
    except OSError:  # its words are about gradio's own arguments
        raise VideomarError(
            f"port {port} of {_HOST}: got a taken one, expected a free one; choose another with --port"
        ) from None
    return made


def serve(files: ModelFiles, port: int, say: Callable[[str], None]) -> None:
    """Serve the page until Ctrl-C, and say where it is; clips and uploads are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="videomar-demo-") as folder:
        made = open_page(files, port, Path(folder))
        say(f"http://{_HOST}:{port}")
        made.block_thread()
