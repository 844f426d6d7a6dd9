"""Sections of the data path: which clips, and which of them are good."""

from videomar.config.section import require, section


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
    seed: int


@section
class IngestParams:
    """How videos become clips. Section `ingest`."""

    size_px: int
    """Height and width of a clip after scaling to cover and cropping the centre, pixels."""
    fps: float
    """Frame rate of clips, frames a second."""
    num_frames: int
    """Frames in a clip; 1 + a multiple of the tokenizer's time stride."""
    stride_frames: int
    """Frames between the starts of neighbouring clips of one shot."""
    shot_threshold: float
    """Content change that starts a new shot (PySceneDetect's ContentDetector; 27 is its usual value)."""
    timeout_s: float
    """Longest time one file may take, seconds; then it is rejected."""
    memory_gb: float
    """Most memory one of these processes may hold, 10^9 bytes; a file that takes more is rejected."""
    num_workers: int
    """Processes that read files side by side."""

    def __post_init__(self) -> None:
        require(self.fps > 0, "ingest.fps", self.fps, "a rate above 0")
        require(self.num_frames >= 2, "ingest.num_frames", self.num_frames, "at least 2")
        require(self.stride_frames >= 1, "ingest.stride_frames", self.stride_frames, "at least 1")
        require(self.timeout_s > 0, "ingest.timeout_s", self.timeout_s, "seconds above 0")
        # Python and the decoders take 0.2 GB before the first file.
        require(self.memory_gb >= 0.5, "ingest.memory_gb", self.memory_gb, "at least 0.5")
        require(self.num_workers >= 1, "ingest.num_workers", self.num_workers, "at least 1")


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
