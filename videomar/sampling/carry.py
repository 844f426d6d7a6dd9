"""The last given picture carried into a clip, wherever the clip has not moved away from it.

A tokenizer loses fine detail, and a model can only draw what its tokenizer decodes. But the first pictures of
a clip are given: what the tokenizer lost of the last of them is known, place by place, and still holds where
a later frame shows the same thing. The decoder is so shown the given picture without a weight to train.

Axes: B clips, F frames, F0 given frames, H W rows and columns in pixels, C channels, T latent frames, h w
latent rows and columns.
"""

from torch import Tensor, addcmul
from torch.nn.functional import avg_pool2d

from videomar.encoders.tokenizer import VideoTokenizer, to_pictures
from videomar.errors import DataError

_BLUR_PX = 5


def decode_pictures(tokenizer: VideoTokenizer, latents: Tensor, given: Tensor, scale: float) -> Tensor:
    """Pictures (B, F, H, W, 3), uint8, of latents (B, C, T, h, w) whose first pictures were given.

    With a scale of 0 these are the decoded ones, from the first to the last. Else the given pictures come out
    as they are, and what the tokenizer lost of the last one is carried into the frames after it.

    Args:
        tokenizer: Decodes the latents, which are on its device.
        latents: As generated, those of the given pictures included.
        given: (B, 3, F0, H, W) in [-1, 1], at the size of the clip.
        scale: Key `carry` of section `sample`.

    Raises:
        DataError: see `carry_detail`; or the latents come from another tokenizer.
    """
    return to_pictures(carry_detail(tokenizer.decode(latents), given, scale))


def carry_detail(decoded: Tensor, given: Tensor, scale: float) -> Tensor:
    """Decoded video (B, 3, F, H, W) with the detail of its last given picture, in [-1, 1].

    out_t = d_t + exp(-blur(mean_rgb (d_t - d_0)^2) / (2 s^2)) (x - d_0), with x the last given picture, d_0
    its reconstruction, d_t a decoded frame, and blur the mean of the 5 x 5 pixels around a place, as far as
    they are in the picture. Where d_t equals d_0 it is x; where the clip has changed by a few s it is d_t.
    The frames up to x are the given ones. A frame depends on itself and the given ones alone, so later frames
    change none, and x stays the last *given* picture however far a window has slid.

    Args:
        decoded: d: the whole clip or its beginning, at least one frame more or as many as are given.
        given: The given pictures (B, 3, F0, H, W) in [-1, 1]; the last of them is x.
        scale: s in units of the range [-1, 1], whose width is 2: a change by s (0.1 = 13 grey levels) in all
            places around leaves 61 % of the detail, one by 3 s leaves 1 %. 0 = off: `decoded` is returned.

    Raises:
        DataError: no picture is given, or the given ones are larger, longer or more than the decoded.

    Source: ours. It is a bilateral weight (Tomasi and Manduchi, ICCV 1998) over the differences of decoded
    frames, on the residual of a reconstruction. Reducio (arXiv 2411.13552) and ToonCrafter (arXiv 2405.17933)
    train a decoder that attends to given pictures for the same purpose; this one does not follow motion.
    """
    if scale == 0:
        return decoded
    num_given = given.shape[2]
    fits = (*decoded.shape[:2], *decoded.shape[3:]) == (*given.shape[:2], *given.shape[3:])
    if not fits or not 1 <= num_given <= decoded.shape[2]:
        got, rule = tuple(given.shape), f"one frame or more that fit the decoded {tuple(decoded.shape)}"
        raise DataError(f"carry: got given pictures of shape {got}, expected {rule}")
    last = slice(num_given - 1, num_given)
    reconstructed = decoded[:, :, last]
    change = (decoded - reconstructed).square_().mean(1)
    around = avg_pool2d(change, _BLUR_PX, stride=1, padding=_BLUR_PX // 2, count_include_pad=False)
    weight = around.mul_(-0.5 / scale**2).exp_().unsqueeze(1)
    carried = addcmul(decoded, weight, given[:, :, last] - reconstructed).clamp_(-1, 1)
    carried[:, :, :num_given] = given
    return carried
