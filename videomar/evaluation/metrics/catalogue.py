"""Every metric in one place: its names, its meaning, which values are better, and the function it calls.

The suite computes what stands here, the report explains it, and the gate takes the direction of better from
it. The table is plain data, so that reading it imports neither torch nor OpenCV.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from videomar.evaluation.metrics import BACKBONE, VGG

if TYPE_CHECKING:
    import pandas as pd

Values = TypeVar("Values", "pd.Series", "pd.DataFrame")


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric, as the suite computes it and the report shows it."""

    key: str
    """Its name in tables and files."""
    name: str
    """Its name for a reader."""
    unit: str
    better: Literal["higher", "lower", "nearer 1", "neither"]
    per: Literal["frame", "step", "clip", "set"]
    """One value per frame, per pair of neighbouring frames, per clip, or per set of clips."""
    explanation: str
    """One plain line."""
    path: str
    """MODULE.FUNCTION; the function is called with the inputs that its parameters name."""

    @property
    def function(self) -> Callable[..., Any]:
        """The function that computes it."""
        return _function(self.path)

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of its inputs, which are those of the function's parameters."""
        return _parameters(self.path)

    def missing(self, inputs: Mapping[str, Any]) -> tuple[str, ...]:
        """Names of the inputs that are absent or None; a metric with missing inputs is skipped by name."""
        return tuple(name for name in self.needs if inputs.get(name) is None)

    def __call__(self, inputs: Mapping[str, Any]) -> Any:
        """Its value; other inputs are ignored."""
        return self.function(**{name: inputs[name] for name in self.needs})

    def goodness(self, values: Values) -> Values:
        """Values turned so that more is better; unchanged where neither direction is."""
        if self.better == "lower":
            return -values
        return -(values - 1).abs() if self.better == "nearer 1" else values


@cache  # asked for thousands of times, and a signature takes a tenth of a millisecond
def _parameters(path: str) -> tuple[str, ...]:
    return tuple(inspect.signature(_function(path)).parameters)


@cache
def _function(path: str) -> Callable[..., Any]:
    # Imported by name, not by string, so that the code hash of the scores follows these modules.
    from videomar.evaluation import generated
    from videomar.evaluation.metrics import behaviour, bodies, extractors, fidelity, imaging, motion, vgg

    modules = {
        "generated": generated,
        "behaviour": behaviour,
        "bodies": bodies,
        "extractors": extractors,
        "fidelity": fidelity,
        "imaging": imaging,
        "motion": motion,
        "vgg": vgg,
    }
    module, _, name = path.partition(".")
    function: Callable[..., Any] = getattr(modules[module], name)
    return function


METRICS: tuple[Metric, ...] = (
    Metric("psnr", "PSNR", "dB", "higher", "frame",
           "how close the pixels are to the truth's; 60 = equal, and a blur can score well",
           "generated.psnr_by_frame"),
    Metric("ssim", "SSIM", "", "higher", "frame",
           "similarity to the truth in light, contrast and structure; 1 = equal", "fidelity.ssim_by_frame"),
    Metric("vgg", f"{VGG} distance", "", "lower", "clip",
           "distance to the truth in features of a network trained on photographs; 0 = equal",
           "vgg.vgg_distance"),
    Metric("motion_retained", "Motion retained", "", "nearer 1", "step",
           "motion divided by that of the truth; 0 = frozen, 1 = as much",
           "behaviour.motion_retained_by_frame"),
    Metric("picture_fidelity", f"Picture fidelity ({BACKBONE})", "", "higher", "frame",
           "similarity of whole frames to the given picture; 1 = equal, and a frozen clip is best",
           "imaging.picture_fidelity_by_frame"),
    Metric("subject_fidelity", f"Subject fidelity ({BACKBONE}, no mask)", "", "higher", "frame",
           "how well salient parts of the given picture are found again in each frame; 1 = fully",
           "imaging.subject_fidelity_by_frame"),
    Metric("background_fidelity", f"Background fidelity ({BACKBONE}, no mask)", "", "higher", "frame",
           "similarity of most places to the same place of the given picture; 1 = equal",
           "imaging.background_fidelity_by_frame"),
    Metric("flicker", "Flicker", "grey levels", "lower", "clip",
           "change from frame to frame where nothing moves, of 255; 0 = none", "motion.flicker"),
    Metric("motion_smoothness", "Motion smoothness (optical flow)", "", "higher", "clip",
           "how well every second frame follows from its neighbours; 1 = exactly, or nothing moves",
           "motion.motion_smoothness"),
    Metric("motion_amount", "Motion", "% of the shorter side", "neither", "clip",
           "how far the fastest 5 % of the picture move from frame to frame", "motion.motion_amount"),
    Metric("dynamic_degree", "Dynamic degree (optical flow)", "", "higher", "clip",
           "share of clips that move clearly, by VBench's rule", "motion.dynamic_degree"),
    Metric("sharpness", "Sharpness", "grey levels²", "higher", "frame",
           "strength of fine detail; blur lowers it, noise raises it", "imaging.sharpness_by_frame"),
    Metric("sharpness_kept", "Sharpness kept", "", "nearer 1", "frame",
           "fine detail divided by that of the given picture; below 1 = blurred, above = noisy",
           "imaging.sharpness_kept_by_frame"),
    Metric("exposure", "Exposure", "", "higher", "frame",
           "share of the frame that is neither black nor overexposed", "imaging.exposure_by_frame"),
    Metric("exposure_shift", "Exposure shift", "grey levels", "lower", "frame",
           "how much lighter or darker the frame is than the given picture, of 255",
           "imaging.exposure_shift_by_frame"),
    Metric("holds_together", "Holds together", "", "higher", "clip",
           "share of clips that do not end in blur, noise, black or white", "behaviour.holds_together"),
    Metric("bodies_lost", "Bodies lost", "", "lower", "clip",
           "share of long simulated clips that end with less than half of the body", "bodies.bodies_lost"),
    Metric("jumps", "Jumps", "a clip", "lower", "clip",
           "how many times the body of a long simulated clip is suddenly elsewhere", "bodies.jumps"),
    Metric("frechet", "Fréchet distance", "", "lower", "set",
           "distance of all clips from real ones in features; 0 = the same, needs hundreds of clips",
           "extractors.frechet_of_clips"),
    Metric("diversity", f"Diversity over seeds ({BACKBONE})", "", "neither", "set",
           "distance between clips of one picture and prompt with different seeds; 0 = always the same",
           "behaviour.diversity"),
    Metric("text_effect", f"Text effect ({BACKBONE})", "", "higher", "set",
           "how much more another prompt changes a clip than another seed; 0 or less = no effect of text",
           "behaviour.text_effect"),
)  # fmt: skip
"""In the order of the report."""


def metric(key: str) -> Metric:
    """The metric of that key."""
    return next(metric for metric in METRICS if metric.key == key)
