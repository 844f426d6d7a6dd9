"""One clip from a picture or a video and a prompt, frame by frame.

Axes: F frames, H W rows and columns in pixels; C channels, T latent frames, h w latent rows and columns.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypedDict, Unpack, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videomar.checkpoint import ModelFolder, load, open_model_folder
from videomar.compute.device import choose_device
from videomar.compute.seeding import step_generator
from videomar.config import GenerationParams, IngestParams, Params, load_generation_params
from videomar.encoders.load import load_tokenizer
from videomar.encoders.minilm import load_prompt_encoder
from videomar.encoders.text import pad_states
from videomar.encoders.tokenizer import to_unit_range
from videomar.errors import DataError
from videomar.latents.readable_captions import prompt_note
from videomar.media.cover import cover
from videomar.media.shapes import clip_size
from videomar.model.generation import generate_frames
from videomar.sampling.carry import decode_pictures
from videomar.sampling.tasks import window_of

if TYPE_CHECKING:
    from PIL.Image import Image

Picture: TypeAlias = "NDArray[np.uint8] | Image | str | PathLike[str]"
"""A picture (H, W, 3), or pictures (F, H, W, 3) to continue: an array, a PIL image, the path of a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """The clip that a user asks for."""

    prompt: str = ""
    """An empty prompt is the null text."""
    num_frames: int | None = None
    """Frames of the result, context included; None = the first context frame and a trained clip after it."""
    size: tuple[int, int] | None = None
    """Width and height, pixels; None = the trained size whose aspect ratio is nearest to the picture's."""
    motion: float | None = None
    """Requested motion score; None = that of section `sample`."""
    seed: int = 0

    def __post_init__(self) -> None:
        if any("\ud800" <= letter <= "\udfff" for letter in self.prompt):
            rule = "words in UTF-8; check the encoding of the terminal or the script"
            raise DataError(f"prompt: got {self.prompt[:40]!a}, which is no text, expected {rule}")
        if self.motion is not None and not (math.isfinite(self.motion) and self.motion >= 0):
            raise DataError(
                f"motion: got {self.motion}, expected a number of at least 0; leave it out for any"
            )


@dataclass(frozen=True, slots=True)
class PartialClip:
    """A clip while it is generated."""

    latents: Tensor
    """(1, C, T, h, w): the latent frames so far, context included."""
    num_frames: int
    """Pixel frames that these latents decode to."""
    total_frames: int
    """Pixel frames of the whole clip."""
    given: Tensor
    """(1, 3, F0, H, W) in [-1, 1]: the pictures of the context, at the size of the clip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipPlan:
    """What a request comes to: the shape of its clip, before anything is computed."""

    size: tuple[int, int]
    """Width and height, pixels."""
    used_frames: int
    """Frames of the context that are used, the last ones."""
    num_frames: int
    """Frames of the clip, context included."""
    used_length: int
    """Latent frames of the context."""
    length: int
    """Latent frames of the clip, T."""
    window: int
    """Latent frames that a new one attends to at most."""
    tokens_per_frame: int
    """L."""


class ClipOptions(TypedDict, total=False):
    """What may be asked for besides the prompt; what is left out is as trained."""

    frames: int | None
    """Frames of the clip, those of the picture included. Longer clips than trained slide a window."""
    size: tuple[int, int] | None
    """Width and height, pixels; the picture is scaled to cover it and cropped. Left out: the trained size
    that fits the picture best."""
    motion: float | None
    """Motion score, for a model with this condition."""
    seed: int
    """Of the noise: equal arguments give equal clips. Left out: 0."""


class ClipGenerator:
    """A model that generates clips from pictures and prompts. Remembers its networks.

    `videomar.load` returns one. Calls do not change it: equal arguments give equal clips.
    """

    def __init__(
        self, model: Path | ModelFolder, device: str = "auto", params: Params | GenerationParams | None = None
    ) -> None:
        """Load the networks.

        Args:
            model: a folder as in `open_model_folder`, or the places of its parts.
            device: `auto`, `cpu` or `cuda`.
            params: parameters to use instead of the folder's.

        Raises:
            VideomarError: a part is missing or damaged, or there is no such device.
        """
        parts = model if isinstance(model, ModelFolder) else open_model_folder(model)
        self.device = choose_device(device)
        self.loaded = load(parts.checkpoint, str(self.device))  # first: it compares the sums of all files
        self.params = params or load_generation_params(parts.params)
        self.folder = parts.checkpoint
        self.tokenizer = load_tokenizer(parts.tokenizer, self.device)
        text, packed = self.params.text, parts.text_encoder
        self._encoder = load_prompt_encoder(
            replace(text, encoder=str(packed)) if packed else text, self.device
        )
        self._refuse_others(parts)

    def __call__(
        self, picture: Picture, prompt: str = "", **options: Unpack[ClipOptions]
    ) -> NDArray[np.uint8]:
        """Generate a clip and return its frames (F, H, W, 3), uint8.

        Args:
            picture: the first picture: an array (H, W, 3) of uint8, a PIL image, or a file. A video, as a
                file or as an array (F, H, W, 3), is continued: of a long one only the end is used.
            prompt: what happens; empty = no text.
            **options: `frames`, `size`, `motion` and `seed`, see `ClipOptions`.

        Raises:
            DataError: there is no such picture, or the model cannot make such a clip.
        """
        request = _request(prompt, options)
        *_, clip = self.partial_clips(self.pictures(picture, size=request.size), request)
        return self.decode(clip)

    def stream(
        self, picture: Picture, prompt: str = "", **options: Unpack[ClipOptions]
    ) -> Iterator[NDArray[np.uint8]]:
        """Yield the frames (H, W, 3) that a call with the same arguments returns, each as soon as it is made.

        Those of the picture come first. Stop iterating to cancel the rest. A frame may differ from that of
        the whole clip by rounding: by one grey level.
        """
        shown, request = 0, _request(prompt, options)
        for clip in self.partial_clips(self.pictures(picture, size=request.size), request):
            yield from self.decode(clip)[shown:]
            shown = clip.num_frames

    @property
    def fps(self) -> float:
        """Frames a second of its clips."""
        return self.params.ingest.fps

    def prompt_note(self, prompt: str) -> str:
        """Say in one line that the text encoder cannot read a prompt; empty if it can."""
        return prompt_note(self._encoder, prompt)

    def pictures(
        self,
        picture: Picture,
        note: Callable[[str], None] | None = None,
        size: tuple[int, int] | None = None,
    ) -> NDArray[np.uint8]:
        """Return a picture, or the last ones of a video that are used, as an array (F, H, W, 3).

        Args:
            picture: As in a call.
            note: Called with what a user should know about how a picture was read.
            size: Width and height that are asked for, pixels; a video is not read larger than they need.

        Raises:
            DataError: it is no such thing, or cannot be read.
        """
        ingest, tokenizer = self.params.ingest, self.tokenizer
        most = max(1, tokenizer.num_latent_frames(ingest.num_frames) // 2)
        ingest = replace(ingest, num_frames=max(2, tokenizer.num_frames(most)), shorter_clips=())
        return _pictures(picture, ingest, note, size)

    def partial_clips(self, context: NDArray[np.uint8], request: GenerationRequest) -> Iterator[PartialClip]:
        """Continue pictures (F0, H, W, 3): yield the context, then the clip after each new latent frame.

        Equal seeds give equal clips. Stop iterating to cancel the rest.

        The pictures are scaled to cover the clip and cropped. Of a long context only its end is used, up to
        half of a trained clip. Clips longer than trained slide a window of the trained length.

        Raises:
            DataError: this model cannot make a clip of the requested size, length or motion.
        """
        plan, params = self.plan(context, request), self.params
        given = self._covering(context[-plan.used_frames :], plan.size)
        latents = self.tokenizer.encode(given)
        text = self._encoder.encode([request.prompt])
        states, mask = pad_states(text, params.text.max_tokens, self.loaded.shape.text_channels)
        captions = states.to(self.device), mask.to(self.device)  # without an encoder they are on the CPU
        sampling = replace(
            params.sample,
            motion=params.sample.motion if request.motion is None else request.motion,
            window_frames=plan.window if plan.window < plan.length else params.sample.window_frames,
        )
        noise = step_generator(request.seed, 0, device=self.device)
        yield PartialClip(latents, plan.used_frames, plan.num_frames, given)
        model = self.loaded.model
        for frame in generate_frames(
            model.trunk, model.head, latents, plan.length, captions, sampling, noise
        ):
            latents = torch.cat([latents, frame], 2)
            shown = self.tokenizer.num_frames(latents.shape[2])
            yield PartialClip(latents, shown, plan.num_frames, given)

    def decode(self, clip: PartialClip) -> NDArray[np.uint8]:
        """The frames (F, H, W, 3) so far; later latent frames change none of them.

        Where section `sample` has a `carry`, the pictures of the context come out unchanged.
        """
        carry = self.params.sample.carry
        return decode_pictures(self.tokenizer, clip.latents, clip.given, carry)[0].cpu().numpy()

    def plan(self, context: NDArray[np.uint8], request: GenerationRequest) -> ClipPlan:
        """Return the shape of the clip that pictures (F0, H, W, 3) and a request come to.

        Raises:
            DataError: frames or pixels do not fill the latents, or the clip is no longer than its context.
        """
        ingest, tokenizer = self.params.ingest, self.tokenizer
        trained = tokenizer.num_latent_frames(ingest.num_frames)
        available = 1 + (len(context) - 1) // tokenizer.time_stride
        used_length = max(1, min(trained // 2, available))
        used_frames = tokenizer.num_frames(used_length)
        num_frames = request.num_frames or used_frames - 1 + ingest.num_frames
        _check_frames(num_frames, used_frames, tokenizer.time_stride)
        length = tokenizer.num_latent_frames(num_frames)
        size = request.size or clip_size(context.shape[2], context.shape[1], ingest)
        side = tokenizer.space_stride * self.loaded.params.patch_size
        _check_size(size, side)
        return ClipPlan(
            size=size,
            used_frames=used_frames,
            num_frames=num_frames,
            used_length=used_length,
            length=length,
            window=min(length, window_of(self.params.sample, length, trained) or length),
            tokens_per_frame=(size[0] // side) * (size[1] // side),
        )

    def _refuse_others(self, parts: ModelFolder) -> None:
        """Refuse a tokenizer or a text encoder that the weights were not trained with, as far as shapes tell.

        Raises:
            DataError: channels differ.
        """
        shape, text = self.loaded.shape, self.params.text.encoder
        pairs: list[tuple[Path | str, str, int, int]] = [
            (parts.tokenizer, "latents", self.tokenizer.channels, shape.latent_channels)
        ]
        if text != "none":
            encoder = parts.text_encoder or text
            pairs.append((encoder, "caption states", self._encoder.channels, shape.text_channels))
        for where, what, got, expected in pairs:
            if got != expected:
                rule = f"{expected} as the weights in {parts.checkpoint}; use what they were trained with"
                raise DataError(f"{where}: got {what} of {got} channels, expected {rule}")

    def _covering(self, context: NDArray[np.uint8], size: tuple[int, int]) -> Tensor:
        """Pictures (F0, H0, W0, 3), scaled and cropped, as video (1, 3, F0, H, W) in [-1, 1]."""
        pictures = torch.from_numpy(np.stack([cover(picture, size) for picture in context]))
        return to_unit_range(pictures[None].to(self.device))


def _request(prompt: str, options: ClipOptions) -> GenerationRequest:
    known = ClipOptions.__annotations__
    if unknown := [name for name in options if name not in known]:
        raise DataError(f"clip: got the option {unknown[0]}, expected {', '.join(known)}")
    return GenerationRequest(
        prompt=prompt,
        num_frames=options.get("frames"),
        size=options.get("size"),
        motion=options.get("motion"),
        seed=options.get("seed", 0),
    )


def _check_frames(num_frames: int, used_frames: int, stride: int) -> None:
    """Refuse a length that does not fill its latent frames, or adds nothing to the context."""
    if num_frames <= used_frames or (num_frames - 1) % stride:
        below = max(used_frames, num_frames - (num_frames - 1) % stride)
        wanted = [count for count in (below, below + stride) if count > used_frames]
        rule = f"1 and a multiple of {stride} more, and more than the {used_frames} given"
        raise DataError(f"frames: got {num_frames}, expected {rule}; ask for {' or '.join(map(str, wanted))}")


def _check_size(size: tuple[int, int], side: int) -> None:
    """Refuse a size that does not fill its tokens."""
    if min(size) < side or size[0] % side or size[1] % side:
        near = "x".join(str(max(side, round(pixels / side) * side)) for pixels in size)
        raise DataError(f"size: got {size[0]}x{size[1]} pixels, expected multiples of {side}; ask for {near}")


def _pictures(
    picture: object,
    params: IngestParams,
    note: Callable[[str], None] | None,
    size: tuple[int, int] | None,
) -> NDArray[np.uint8]:
    """Return pictures (F, H, W, 3) of anything that `ClipGenerator` takes."""
    if isinstance(picture, str | PathLike):
        from videomar.media.images import is_picture, read_picture  # here: a bare GPU machine lacks pillow

        path = Path(picture)
        if not path.is_file() or is_picture(path):
            return read_picture(path, note)[None]
        from videomar.media.clip_reader import read_context  # here: decoders come with the pipeline

        return read_context(path, params, size)
    if hasattr(picture, "convert"):  # a PIL image of any mode
        from videomar.media.images import convert_picture

        picture = convert_picture(cast("Image", picture), note)
    frames = np.asarray(picture)
    frames = frames[None] if frames.ndim == 3 else frames
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or not frames.size:
        got = f"{frames.dtype} of shape {frames.shape}"
        raise DataError(f"picture: got {got}, expected uint8 (H, W, 3), or (F, H, W, 3) to continue a video")
    return frames
