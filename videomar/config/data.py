"""Sections of the data path: which clips, and which of them are good."""

import re
from itertools import pairwise

from videomar.config.section import Resource, require, section


@section
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
    """`packaged`, or the version of the ffmpeg on PATH that encodes simulated clips and films, as `7.1`: each
    version writes bytes of its own (recipe only)."""
    seed: int


@section
class IngestParams:
    """How videos become clips. Section `ingest`."""

    size_px: int
    """Side of a square clip after scaling to cover and cropping the centre, pixels; a clip of another aspect
    ratio has about the same area."""
    aspect_ratios: tuple[str, ...]
    """WIDTH:HEIGHT of clips; those of a video have the ratio nearest to its own."""
    side_multiple_px: int
    """Sides of clips are multiples of it: of the tokenizer's space stride times the model's patch size."""
    fps: float
    """Frame rate of clips, frames a second."""
    num_frames: int
    """Frames in a clip; 1 + a multiple of the tokenizer's time stride."""
    shorter_clips: tuple[int, ...]
    """Frames of clips of shots that are too short for `num_frames`, falling: the longest that fits is taken;
    each 1 + a multiple of the tokenizer's time stride."""
    stride_frames: int
    """Frames between the starts of neighbouring clips of one shot."""
    shot_threshold: float
    """Content change that starts a new shot (PySceneDetect's ContentDetector; 27 is its usual value)."""
    timeout_s: Resource[float]
    """Longest time one file may take, seconds; then it is rejected."""
    memory_gb: Resource[float]
    """Most memory one of these processes may hold, 10^9 bytes; a file that takes more is rejected."""
    num_workers: Resource[int]
    """Processes that read files side by side."""
    captioner: str | None
    """`package.module:function` that captions clips which have no caption, see `captioner`; or null."""
    scorers: dict[str, str]
    """Learned scores: the folder of each by its name, see `scorers`."""

    def __post_init__(self) -> None:
        require(self.fps > 0, "ingest.fps", self.fps, "a rate above 0")
        self._check_shapes()
        require(self.stride_frames >= 1, "ingest.stride_frames", self.stride_frames, "at least 1")
        require(self.timeout_s > 0, "resources.ingest.timeout_s", self.timeout_s, "seconds above 0")
        # Python and the decoders take 0.2 GB before the first file.
        require(self.memory_gb >= 0.5, "resources.ingest.memory_gb", self.memory_gb, "at least 0.5")
        require(self.num_workers >= 1, "resources.ingest.num_workers", self.num_workers, "at least 1")

    def _check_shapes(self) -> None:
        multiple, ratios = self.side_multiple_px, self.aspect_ratios
        require(multiple >= 1, "ingest.side_multiple_px", multiple, "at least 1")
        fits = self.size_px >= multiple and self.size_px % multiple == 0
        require(fits, "ingest.size_px", self.size_px, f"a multiple of ingest.side_multiple_px {multiple}")
        written = bool(ratios) and all(re.fullmatch("[1-9][0-9]*:[1-9][0-9]*", ratio) for ratio in ratios)
        require(written, "ingest.aspect_ratios", list(ratios), 'one or more as "16:9", in quotes')
        require(self.num_frames >= 2, "ingest.num_frames", self.num_frames, "at least 2")
        falling = all(
            longer > shorter for longer, shorter in pairwise((self.num_frames, *self.shorter_clips))
        )
        rule = f"numbers of frames that fall from below num_frames {self.num_frames} to at least 2"
        fits = falling and min(self.shorter_clips, default=2) >= 2
        require(fits, "ingest.shorter_clips", list(self.shorter_clips), rule)


@section
class CurateParams:
    """Which clips are kept, and in which split they are. Section `curate`."""

    min_size_px: int
    """Shorter side of the source video, pixels."""
    min_motion: float
    """Mean absolute difference of neighbouring frames, of 255."""
    max_motion: float
    min_brightness: float
    """Mean luma of a clip, of 255."""
    max_brightness: float
    min_contrast: float
    """Standard deviation of colour within the plainest frame, of 255."""
    min_sharpness: float
    """Variance of the Laplacian of luma, mean over frames."""
    max_frozen_share: float
    """Largest share of frames that repeat the frame before."""
    max_flicker: float
    """Jump of the mean luma that the next frame takes back, of 255, mean over frames."""
    max_letterbox_share: float
    """Largest share of the picture that is black bars."""
    min_scores: dict[str, float]
    """Limits for learned scores, by the names in `ingest.scorers`."""
    max_duplicate_bits: int
    """Of the 192 bits of a clip's look: so many may differ between near-duplicates of different videos; 0
    joins equal patterns only, -1 none."""
    max_duplicate_colour: int
    """Largest difference of a colour, of 255, between near-duplicates."""
    expected_drop_share: float
    """Share of considered clips that is usually rejected."""
    max_drop_change: float
    """An alarm is raised if the share rejected is further from `expected_drop_share`."""
    val_share: float
    """Share of source videos, per group, held out for tuning."""
    test_share: float
    """Share of source videos, per group, held out for the reported figures."""
    seed: int

    def __post_init__(self) -> None:
        held_out = self.val_share + self.test_share
        require(0 < held_out < 1, "curate.val_share + curate.test_share", held_out, "a sum between 0 and 1")
        bits = self.max_duplicate_bits
        require(-1 <= bits <= 31, "curate.max_duplicate_bits", bits, "between -1 and 31")
