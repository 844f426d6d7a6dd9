"""How clips look by themselves and compared with the given picture; no truth is needed.

VBench uses DINO, DreamSim and MUSIQ; these are stand-ins without a subject mask, named after what they
measure. Axes: F frames, H W rows and columns in pixels, K places of a feature map.
"""

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from videomar.errors import DataError
from videomar.evaluation.generated import check_frames
from videomar.evaluation.metrics.backbone import Backbone

_LOCAL = 2
"""The map of stride 8: 12 x 12 places of a frame of up to 96 px."""
_SALIENT_SHARE = 0.15
_DARK, _LIGHT = 2, 253


def sharpness_by_frame(clip: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Variance of the Laplacian of luma, (F,), grey levels squared; blur lowers it, but noise raises it."""
    return np.array([cv2.Laplacian(grey, cv2.CV_64F).var() for grey in _greys(clip)])


def sharpness_kept_by_frame(clip: NDArray[np.uint8], picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Sharpness of each frame over that of the given picture (H, W, 3), (F,); below 1 = blurred."""
    of_picture = float(sharpness_by_frame(picture[None])[0])
    return sharpness_by_frame(clip) / max(of_picture, 1e-9)


def exposure_by_frame(clip: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Share of each frame, (F,), that is neither black nor overexposed: luma from 3 to 252."""
    return np.array([float(((grey > _DARK) & (grey < _LIGHT)).mean()) for grey in _greys(clip)])


def exposure_shift_by_frame(clip: NDArray[np.uint8], picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    """How much lighter or darker each frame is than the given picture, (F,): mean luma, grey levels."""
    means = np.array([grey.mean() for grey in _greys(clip)])
    return np.abs(means - float(_greys(picture[None])[0].mean()))


def picture_fidelity_by_frame(
    clip: NDArray[np.uint8], picture: NDArray[np.uint8], backbone: Backbone
) -> NDArray[np.float64]:
    """Similarity of each whole frame to the given picture (H, W, 3), (F,): cosine of pooled features, 0 to 1.

    Source: VBench-I2V, i2v_subject.py, which uses DINO's features, the similarity of the best frame and the
    mean similarity of neighbours. Ours is by frame, so that a clip that departs late from its picture shows.
    """
    frames, given = _pair(clip, picture, backbone)
    return functional.cosine_similarity(frames[0], given[0]).double().numpy()


def subject_fidelity_by_frame(
    clip: NDArray[np.uint8], picture: NDArray[np.uint8], backbone: Backbone
) -> NDArray[np.float64]:
    """How well the salient places of the given picture are found again anywhere in each frame, (F,), -1 to 1.

    Without a mask the subject is taken to be the 15 % of places whose features differ most from the
    picture's mean. Each is searched in the whole frame, because a subject may move.
    """
    (_, frames), (_, given) = _pair(clip, picture, backbone)
    places = given[0]
    unlike = (places - places.mean(0)).norm(dim=1)
    salient = places[unlike.topk(max(1, round(_SALIENT_SHARE * len(places)))).indices]
    likeness = torch.einsum("kc,fpc->fkp", functional.normalize(salient, dim=-1), _unit(frames))
    return likeness.amax(dim=2).mean(dim=1).double().numpy()


def background_fidelity_by_frame(
    clip: NDArray[np.uint8], picture: NDArray[np.uint8], backbone: Backbone
) -> NDArray[np.float64]:
    """Similarity of each place of a frame to the same place of the given picture, (F,): median, -1 to 1.

    Without a mask the background is taken to be most of the frame: the median ignores a subject that covers
    less than half of it. A moving camera lowers it.
    """
    (_, frames), (_, given) = _pair(clip, picture, backbone)
    return torch.einsum("fpc,gpc->fp", _unit(frames), _unit(given)).median(dim=1).values.double().numpy()


def _pair(
    clip: NDArray[np.uint8], picture: NDArray[np.uint8], backbone: Backbone
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Pooled features (F, C) and places (F, K, C) of the clip, and of the picture as a clip of one frame."""
    _greys(clip), _greys(picture[None])
    if picture.shape != clip.shape[1:]:
        raise DataError(f"picture: got {picture.shape}, expected the size of a frame, {clip.shape[1:]}")
    features = [backbone.features(frames) for frames in (clip, picture[None])]
    pairs = [(each.pooled, each.maps[_LOCAL].flatten(2).transpose(1, 2)) for each in features]
    return pairs[0], pairs[1]


def _unit(features: Tensor) -> Tensor:
    return functional.normalize(features, dim=-1)


def _greys(clip: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    check_frames("imaging", clip)
    return [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip]
