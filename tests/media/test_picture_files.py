"""Still and animated pictures as videos: their frames, times and transparency against independent readers."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tests.support.videos import read_video
from videomar.media.clip_reader import read_clips
from videomar.media.probe import UnreadableError, probe
from videomar.media.shapes import ClipShape

SIZE = (96, 64)
SHOWN_MS = [40, 80, 120, 40, 200, 60, 40, 100]
TIMES_S = [0.0, 0.04, 0.12, 0.24, 0.28, 0.48, 0.54, 0.58]


def layers(opacity: int = 255) -> list[Image.Image]:
    """Shapes that move over a transparent ground."""
    made = []
    for number in range(len(SHOWN_MS)):
        layer = Image.new("RGBA", SIZE)
        pen = ImageDraw.Draw(layer)
        pen.rectangle((5 + 7 * number, 10, 25 + 7 * number, 40), fill=(255, 30, 30 * number, opacity))
        pen.ellipse((50, 5 + 2 * number, 80, 30 + 2 * number), fill=(20, 200, 60, opacity))
        made.append(layer)
    return made


def on_black(picture: Image.Image) -> NDArray[np.int64]:
    ground = Image.new("RGBA", SIZE, (0, 0, 0, 255))
    return np.asarray(Image.alpha_composite(ground, picture.convert("RGBA")).convert("RGB")).astype(np.int64)


def composed(path: Path) -> NDArray[np.int64]:
    """Every frame as Pillow composes it, on black."""
    with Image.open(path) as picture:
        frames = []
        for number in range(picture.n_frames):  # type: ignore[attr-defined]
            picture.seek(number)
            frames.append(on_black(picture))
    return np.stack(frames)


def frames_of(path: Path) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    frames, times = read_video(path, probe(path), 1000)
    return frames.astype(np.int64), times


@pytest.mark.parametrize("disposal", [0, 1, 2, 3, [0, 2, 1, 3, 2, 1, 0, 2]])
def test_gif_is_composed_as_by_pillow(tmp_path: Path, disposal: object) -> None:
    first, *rest = layers()
    path = tmp_path / "a.gif"
    first.save(path, save_all=True, append_images=rest, duration=SHOWN_MS, disposal=disposal, loop=0)
    frames, times = frames_of(path)
    np.testing.assert_array_equal(frames, composed(path))
    np.testing.assert_allclose(times, TIMES_S, atol=1e-6)


def test_half_transparent_frames_of_a_png_are_laid_over_each_other(tmp_path: Path) -> None:
    """Pillow's own reader mixes opacities by another formula, so the frames are composed here."""
    first, *rest = layers(opacity=120)
    path = tmp_path / "a.png"
    first.save(path, save_all=True, append_images=rest, duration=SHOWN_MS, disposal=0, blend=1)
    canvas, expected = Image.new("RGBA", SIZE), []
    for layer in (first, *rest):
        canvas = Image.alpha_composite(canvas, layer)
        expected.append(on_black(canvas))
    frames, times = frames_of(path)
    assert np.abs(frames - np.stack(expected)).max() <= 4  # of 255; each layer rounds once
    np.testing.assert_allclose(times, TIMES_S, atol=1e-6)


@pytest.mark.parametrize("suffix", ["webp", "avif"])
@pytest.mark.parametrize("opacity", [255, 120])
def test_webp_and_avif_move_with_their_own_times_on_black(tmp_path: Path, suffix: str, opacity: int) -> None:
    first, *rest = made = layers(opacity)
    path = tmp_path / f"a.{suffix}"
    first.save(path, save_all=True, append_images=rest, duration=SHOWN_MS, lossless=True, quality=100, loop=0)
    info = probe(path)
    assert (info.width, info.height, info.num_frames, info.still) == (*SIZE, len(SHOWN_MS), False)
    frames, times = frames_of(path)
    error = np.abs(frames - np.stack([on_black(layer) for layer in made]))
    assert error.mean() < 3  # AVIF stores colours at half the resolution
    assert suffix == "avif" or error.max() <= 1
    np.testing.assert_allclose(times, TIMES_S, atol=1e-6)


def test_animation_without_times_shows_ten_frames_a_second(tmp_path: Path) -> None:
    for suffix in ("gif", "webp"):
        first, *rest = layers()
        path = tmp_path / f"a.{suffix}"
        first.save(path, save_all=True, append_images=rest, duration=0, loop=3)
        np.testing.assert_allclose(frames_of(path)[1], np.arange(8) / 10, atol=1e-6)


def test_clip_of_an_animation_shows_what_is_on_show_at_each_time(tmp_path: Path) -> None:
    first, *rest = layers()
    first.save(tmp_path / "a.webp", save_all=True, append_images=rest, duration=SHOWN_MS, lossless=True)
    [clip] = read_clips(tmp_path / "a.webp", [0.0], ClipShape(SIZE[1], SIZE[0], 8.0, 5))
    shown = np.searchsorted(TIMES_S, np.arange(5) / 8 + 0.001, side="right") - 1
    np.testing.assert_array_equal(clip, composed(tmp_path / "a.webp")[shown])


@pytest.mark.parametrize("suffix", ["webp", "gif", "png"])
def test_animation_that_breaks_off_is_refused(tmp_path: Path, suffix: str) -> None:
    first, *rest = (Image.effect_noise(SIZE, 90).convert("RGB") for _ in SHOWN_MS)
    path = tmp_path / f"a.{suffix}"
    first.save(path, save_all=True, append_images=rest, duration=SHOWN_MS)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(UnreadableError, match=r"damaged: |unreadable: "):
        frames_of(path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "avif", "gif", "bmp", "tiff", "ico", "jp2", "tga"])
def test_still_picture_is_a_video_of_one_frame(tmp_path: Path, suffix: str) -> None:
    picture = Image.linear_gradient("L").resize(SIZE).convert("RGB")
    path = tmp_path / f"a.{suffix}"
    picture.save(path, **({"sizes": [SIZE]} if suffix == "ico" else {}))
    assert probe(path).still
    frames, times = frames_of(path)
    assert times.tolist() == [0.0]
    assert np.abs(frames[0] - np.asarray(picture)).mean() < 3


def test_still_picture_is_turned_as_its_tag_says(tmp_path: Path) -> None:
    picture = Image.new("RGB", (8, 4))
    tag = picture.getexif()
    tag[0x0112] = 6
    picture.save(tmp_path / "a.jpg", exif=tag)
    info = probe(tmp_path / "a.jpg")
    assert (info.width, info.height) == (4, 8)
    assert frames_of(tmp_path / "a.jpg")[0].shape == (1, 8, 4, 3)


def test_picture_too_large_for_the_memory_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    for size in ((9000, 9000), (20_000, 20_000)):
        path = tmp_path / f"{size[0]}.png"
        Image.new("1", size).save(path)
        with pytest.raises(UnreadableError, match=r"unreadable: [0-9x]+ pixels; scale it down"):
            probe(path)


def test_heic_without_its_library_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64))
    with pytest.raises(UnreadableError, match="pillow-heif"):
        probe(tmp_path / "a.heic")
