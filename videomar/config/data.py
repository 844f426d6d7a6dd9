"""Sections `samples`, `ingest`, `curate`: where clips come from, and which are kept."""

import re
from itertools import pairwise
from typing import Annotated

from videomar.config.section import ABOVE_0, Device, Resource, Rule, at_least, require, section

_DUPLICATE_BITS = Rule("-1 to 31", lambda value: -1 <= value <= 31)


@section("samples")
class SamplesParams:
    """Where raw clips come from. Section `samples`."""

    source: str
    """Folder of videos to mirror into data/raw; one that holds SOURCES.yaml is a recipe to make them."""
    simulated_videos: int
    """Simulated video files to draw (recipe only)."""
    clips_per_video: int
    """Simulated clips in each of these files."""
    simulated_size_px: int
    """Height and width of simulated video, pixels."""
    film_seconds: float
    """Length taken from the start of each packaged film, seconds."""
    ffmpeg: str
    """`packaged`, or the version of the ffmpeg on PATH that encodes simulated clips and films, as `7.1`: the
    bytes differ between versions (recipe only)."""
    seed: int


@section("ingest")
class IngestParams:
    """How videos become clips. Section `ingest`."""

    size_px: int
    """Side of a square clip after scaling to cover and cropping the centre, pixels; a clip of another aspect
    ratio has about the same area."""
    aspect_ratios: tuple[str, ...]
    """WIDTH:HEIGHT of clips; the clips of a video have the ratio nearest to its own."""
    side_multiple_px: Annotated[int, at_least(1)]
    """Sides of clips are multiples of this: the tokenizer's space stride times the model's patch size."""
    fps: Annotated[float, ABOVE_0]
    """Frame rate of clips, frames a second."""
    num_frames: Annotated[int, at_least(2)]
    """Frames in a clip; 1 + a multiple of the tokenizer's time stride."""
    shorter_clips: tuple[int, ...]
    """Frames of clips from shots too short for `num_frames`, in falling order; the longest that fits is
    taken. Each is 1 + a multiple of the tokenizer's time stride."""
    stride_frames: Annotated[int, at_least(1)]
    """Frames between the starts of neighbouring clips of one shot."""
    still_pictures: bool
    """Whether each still picture of the folder is a clip of one frame, for stages of `train.curriculum` with
    `num_latent_frames: 1`; else it is a row of the ledger with the reason `still_picture`."""
    shot_threshold: float
    """Content change that starts a new shot (PySceneDetect's ContentDetector; 27 is its usual value)."""
    timeout_s: Resource[Annotated[float, ABOVE_0]]
    """Longest time without a new frame, seconds; a file as such may take any time."""
    memory_gb: Resource[Annotated[float, at_least(0.5)]]
    """Memory limit of one of these processes, 10^9 bytes; a file that takes more is rejected.
    Python and the decoders take 0.2 GB before the first file."""
    num_workers: Resource[Annotated[int, at_least(1)]]
    """Processes that read files in parallel."""
    device: Device
    """What computes learned scores: with `cuda`, all of these processes share one GPU of this machine. The
    captioner finds the choice in the variable VIDEOMAR_DEVICE."""
    captioner: str | None
    """`package.module:function` that captions clips without a caption, see `curation.captions`; or null."""
    scorers: dict[str, str]
    """Learned scores: name and folder of each, see `curation.learned_scores`."""

    def __post_init__(self) -> None:
        multiple, ratios = self.side_multiple_px, self.aspect_ratios
        fits = self.size_px >= multiple and self.size_px % multiple == 0
        require(fits, "ingest.size_px", self.size_px, f"a multiple of ingest.side_multiple_px {multiple}")
        written = bool(ratios) and all(re.fullmatch("[1-9][0-9]*:[1-9][0-9]*", ratio) for ratio in ratios)
        require(written, "ingest.aspect_ratios", list(ratios), 'one or more as "16:9", in quotes')
        falling = all(
            longer > shorter for longer, shorter in pairwise((self.num_frames, *self.shorter_clips))
        )
        rule = f"numbers of frames that fall from below num_frames {self.num_frames} to at least 2"
        fits = falling and min(self.shorter_clips, default=2) >= 2
        require(fits, "ingest.shorter_clips", list(self.shorter_clips), rule)


@section("curate")
class CurateParams:
    """Which clips are kept, and in which split each is. Section `curate`."""

    min_size_px: int
    """Shorter side of the source video, pixels."""
    min_motion: float
    """Mean absolute difference of neighbouring frames, of 255."""
    max_motion: float
    min_brightness: float
    """Mean luma of a clip, of 255."""
    max_brightness: float
    min_contrast: float
    """Standard deviation of colour within the frame that has the lowest, of 255."""
    min_sharpness: float
    """Variance of the Laplacian of luma, mean over frames."""
    max_frozen_share: float
    """Largest share of frames that repeat the frame before."""
    max_flicker: float
    """Jump of the mean luma that the next frame reverts, of 255, mean over frames."""
    max_letterbox_share: float
    """Largest share of the picture that is black bars."""
    min_scores: dict[str, float]
    """Limits for learned scores, by the names in `ingest.scorers`."""
    max_duplicate_bits: Annotated[int, _DUPLICATE_BITS]
    """Near-duplicates from different videos differ in at most so many of the 192 bits of their fingerprints;
    0 = in none, -1 = no clip counts as a near-duplicate."""
    max_duplicate_colour: int
    """Largest difference of a colour, of 255, between near-duplicates."""
    expected_drop_share: float
    """Share of considered clips that is usually rejected."""
    max_drop_change: float
    """An alarm is raised if the share rejected is further from `expected_drop_share`."""
    val_share: float
    """Share of the seconds of film in kept clips, per group, held out for tuning."""
    test_share: float
    """The same, held out for the reported figures."""
    test_videos: tuple[str, ...]
    """Patterns, as `concert/*`, of videos that are test as a whole. A group with such videos has no other
    test clips, whatever `test_share` says."""
    seed: int

    def __post_init__(self) -> None:
        held_out = self.val_share + self.test_share
        require(0 < held_out < 1, "curate.val_share + curate.test_share", held_out, "a sum between 0 and 1")
