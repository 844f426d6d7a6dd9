"""Every metric in one place: what it is called, what it says, and what it must be given.

The suite computes what stands here and the report explains it; nothing else lists metrics.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from videomar.errors import DataError
from videomar.evaluation.generated import psnr_by_frame
from videomar.evaluation.metrics import behaviour, fidelity, imaging, motion
from videomar.evaluation.metrics.backbone import NAME, Backbone
from videomar.evaluation.metrics.extractors import frechet_of_clips


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
    """One value a frame, a pair of neighbouring frames, a clip, or a whole set of clips."""
    explanation: str
    """One plain line."""
    function: Callable[..., Any]
    """Called with the inputs that it names; frames come as an array, sets of the Fréchet kind as a score."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the inputs, which are those of the function's parameters."""
        return _parameters(self.function)

    def missing(self, inputs: Mapping[str, Any]) -> tuple[str, ...]:
        """What it needs and is not given, or given as None: then it is left out by name."""
        return tuple(name for name in self.needs if inputs.get(name) is None)

    def __call__(self, inputs: Mapping[str, Any]) -> Any:
        """Its value; other inputs are ignored."""
        return self.function(**{name: inputs[name] for name in self.needs})


@lru_cache  # it is asked for thousands of times, and takes a tenth of a millisecond
def _parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)


def _psnr(clip: NDArray[np.uint8], truth: NDArray[np.uint8]) -> NDArray[np.float64]:
    return psnr_by_frame(clip, truth)


METRICS: tuple[Metric, ...] = (
    Metric("psnr", "PSNR", "dB", "higher", "frame",
           "how close the pixels are to the truth's; 60 = equal, a blur can do well", _psnr),
    Metric("ssim", "SSIM", "", "higher", "frame",
           "how alike light, contrast and structure are to the truth's; 1 = equal", fidelity.ssim_by_frame),
    Metric("feature_distance", f"{NAME} distance", "", "lower", "frame",
           "how far the look is from the truth's to a network trained on photographs; 0 = equal",
           fidelity.feature_distance_by_frame),
    Metric("motion_retained", "Motion retained", "", "nearer 1", "step",
           "motion over that of the truth; 0 = frozen, 1 = as much", behaviour.motion_retained_by_frame),
    Metric("picture_fidelity", f"Picture fidelity ({NAME})", "", "higher", "frame",
           "how alike the whole frame stays to the given picture; 1 = equal, a frozen clip is best",
           imaging.picture_fidelity_by_frame),
    Metric("subject_fidelity", f"Subject fidelity ({NAME}, no mask)", "", "higher", "frame",
           "how well what stands out in the given picture is found again anywhere in the frame; 1 = fully",
           imaging.subject_fidelity_by_frame),
    Metric("background_fidelity", f"Background fidelity ({NAME}, no mask)", "", "higher", "frame",
           "how alike most places stay to the same place of the given picture; 1 = equal",
           imaging.background_fidelity_by_frame),
    Metric("flicker", "Flicker", "grey levels", "lower", "clip",
           "how much still places change from frame to frame, of 255; 0 = not at all", motion.flicker),
    Metric("motion_smoothness", "Motion smoothness (optical flow)", "", "higher", "clip",
           "how well each second frame follows from its neighbours; 1 = exactly, also if nothing moves",
           motion.motion_smoothness),
    Metric("motion_amount", "Motion", "% of the shorter side", "neither", "clip",
           "how far the fastest 5 % of the picture move from frame to frame", motion.motion_amount),
    Metric("dynamic_degree", "Dynamic degree (optical flow)", "", "higher", "clip",
           "share of clips that move clearly, by VBench's rule", motion.dynamic_degree),
    Metric("sharpness", "Sharpness", "grey levels²", "higher", "frame",
           "strength of fine detail; blur lowers it, noise raises it", imaging.sharpness_by_frame),
    Metric("sharpness_kept", "Sharpness kept", "", "nearer 1", "frame",
           "fine detail over that of the given picture; below 1 = blurred, above = noisy",
           imaging.sharpness_kept_by_frame),
    Metric("exposure", "Exposure", "", "higher", "frame",
           "share of the frame that is neither black nor burnt out", imaging.exposure_by_frame),
    Metric("exposure_shift", "Exposure shift", "grey levels", "lower", "frame",
           "how much lighter or darker the frame is than the given picture, of 255",
           imaging.exposure_shift_by_frame),
    Metric("holds_together", "Holds together", "", "higher", "clip",
           "share of clips that do not end as mush, noise, black or white", behaviour.holds_together),
    Metric("frechet", "Fréchet distance", "", "lower", "set",
           "how far the clips as a whole are from real ones in features; 0 = alike, needs hundreds of clips",
           frechet_of_clips),
    Metric("diversity", f"Diversity over seeds ({NAME})", "", "neither", "set",
           "how far clips of one picture and prompt with different seeds are apart; 0 = always the same",
           behaviour.diversity),
    Metric("text_effect", f"Text effect ({NAME})", "", "higher", "set",
           "how much more another prompt changes a clip than another seed; 0 or less = text is not heard",
           behaviour.text_effect),
)  # fmt: skip
"""In the order of the report."""


def metric(key: str) -> Metric:
    """The metric of that key."""
    return next(metric for metric in METRICS if metric.key == key)


def load_backbone(device: str) -> Backbone | None:
    """The backbone, or None where its packages are not installed: metrics that need it are then left out."""
    try:
        return Backbone(device)
    except DataError:
        return None
