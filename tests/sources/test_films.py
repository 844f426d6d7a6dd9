"""Parts of a film begin at cuts and nowhere else, and lose no frame."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.support.videos import read_video, run_ffmpeg
from videomar.errors import DataError
from videomar.media.cuts import find_cuts
from videomar.media.mp4 import find_ffmpeg
from videomar.media.probe import probe
from videomar.sources.films import Film, FilmCaption, LeftOut, cut_film, find_part_starts, read_sources

CUTS_S = (3.0, 9.0, 21.0)


@pytest.fixture(scope="module")
def film_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 s with cuts at `CUTS_S`, and a key frame every second: most are no cuts."""
    folder = tmp_path_factory.mktemp("film")
    inputs: list[str] = []
    for index, (start, end) in enumerate(pairwise((0.0, *CUTS_S, 30.0))):
        look = f"hue=h={index * 100},rotate={index},gblur=1"
        inputs += ["-f", "lavfi", "-i", f"testsrc2=size=96x64:rate=24:duration={end - start},{look}"]
    x264 = ["-force_key_frames", "expr:gte(t,n_forced)", "-bf", "3", "-pix_fmt", "yuv420p", "-threads", "1"]
    run_ffmpeg(folder, *inputs, "-filter_complex", "concat=n=4", *x264, "film.mp4")
    return folder / "film.mp4"


def film(**changes: object) -> Film:
    texts = dict.fromkeys(("package", "version", "archive", "sha256", "licence", "attribution"), "")
    return Film(folder="film", members=[], caption="red", **{**texts, **changes})  # type: ignore[arg-type]


def test_parts_begin_at_cuts_that_are_far_enough_apart(film_file: Path) -> None:
    for seconds, part_s, starts in (
        (30.0, 8.0, [0.0, 9.0, 21.0]),
        (20.0, 8.0, [0.0, 9.0]),
        (30.0, 2.0, [0.0, *CUTS_S]),
    ):
        found = find_part_starts(film(part_s=part_s), film_file, seconds)
        assert [start.time_s for start in found] == pytest.approx(starts, abs=1e-3)
        assert all(start.taken for start in found)


def test_no_shot_is_in_two_parts_and_no_frame_is_lost(film_file: Path, tmp_path: Path) -> None:
    captions = [FilmCaption(start_s=8.9, caption="blue"), FilmCaption(start_s=20.9, caption="yellow")]
    cut_film(film(captions=captions), film_file, tmp_path, 30.0, find_ffmpeg())
    parts = sorted((tmp_path / "film").glob("*.mp4"))
    frames = [read_video(part, probe(part), 64)[0] for part in parts]
    assert [len(part) for part in frames] == [9 * 24, 12 * 24, 9 * 24]
    assert [find_cuts(part, 27.0) for part in frames] == [[3 * 24], [], []]
    assert [part.with_suffix(".txt").read_text() for part in parts] == ["red\n", "blue\n", "yellow\n"]
    whole = read_video(film_file, probe(film_file), 64)[0]
    np.testing.assert_array_equal(np.concatenate(frames), whole)


def test_film_that_is_not_h264_is_encoded_and_cut_likewise(film_file: Path, tmp_path: Path) -> None:
    run_ffmpeg(tmp_path, "-i", str(film_file), "-c:v", "mpeg2video", "-b:v", "2M", "film.mpg")
    cut_film(film(), tmp_path / "film.mpg", tmp_path, 25.0, find_ffmpeg())
    parts = sorted((tmp_path / "film").iterdir())
    assert [part.name for part in parts if part.suffix == ".mp4"] == [f"film_00{i}.mp4" for i in range(3)]
    assert [probe(part).codec for part in parts if part.suffix == ".mp4"] == ["h264"] * 3
    durations = [probe(part).duration_s for part in parts if part.suffix == ".mp4"]
    assert durations == pytest.approx([9.0, 12.0, 4.0], abs=0.1)


def test_what_is_left_out_is_in_no_part(film_file: Path, tmp_path: Path) -> None:
    gaps = [
        LeftOut(start_s=0.0, end_s=2.0, why="title"),
        LeftOut(start_s=9.5, end_s=12.0, why="banner"),
        LeftOut(start_s=25.0, end_s=90.0, why="credits"),
    ]
    captions = [FilmCaption(start_s=11.9, caption="blue"), FilmCaption(start_s=20.9, caption="yellow")]
    cut_film(film(left_out=gaps, captions=captions), film_file, tmp_path, 30.0, find_ffmpeg())
    parts = sorted((tmp_path / "film").glob("*.mp4"))
    assert sorted(path.name for path in (tmp_path / "film").iterdir()) == sorted(
        f"film_00{number}.{kind}" for number in range(3) for kind in ("mp4", "txt")
    )
    frames = [read_video(part, probe(part), 64)[0] for part in parts]
    whole = read_video(film_file, probe(film_file), 64)[0]
    # A copied film has a key frame every second: the second gap begins there, at 9 s.
    np.testing.assert_array_equal(frames[0], whole[2 * 24 : 9 * 24])
    np.testing.assert_array_equal(frames[1], whole[12 * 24 : 21 * 24])
    np.testing.assert_array_equal(frames[2], whole[21 * 24 : 25 * 24])
    assert [part.with_suffix(".txt").read_text() for part in parts] == ["red\n", "blue\n", "yellow\n"]
    everything = [LeftOut(start_s=0.0, end_s=90.0, why="all")]
    with pytest.raises(DataError, match="leaves out all of the film"):
        cut_film(film(left_out=everything), film_file, tmp_path / "none", 30.0, find_ffmpeg())


def test_film_is_cropped_and_gaps_are_exact_where_it_is_encoded(film_file: Path, tmp_path: Path) -> None:
    gaps = [LeftOut(start_s=9.5, end_s=12.25, why="banner")]
    cut_film(film(left_out=gaps, crop_px=(8, 4, 40, 32)), film_file, tmp_path, 30.0, find_ffmpeg())
    parts = sorted((tmp_path / "film").glob("*.mp4"))
    frames = [read_video(part, probe(part), 32)[0] for part in parts]
    assert [(probe(part).width, probe(part).height) for part in parts] == [(40, 32)] * len(parts)
    assert [len(part) for part in frames] == [9 * 24, 12, 210, 9 * 24]
    whole = read_video(film_file, probe(film_file), 64)[0][:, 4:36, 8:48]
    kept = np.concatenate([whole[:228], whole[294:]])
    assert np.abs(np.concatenate(frames).astype(int) - kept).mean() < 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop_px": [0, 0, 0, 32]}, "crop_px"),
        ({"crop_px": [0, 0, 32]}, "crop_px"),
        ({"left_out": [{"start_s": 3, "end_s": 2, "why": "x"}]}, "left_out"),
        ({"part_s": 0}, "part_s"),
    ],
)
def test_recipe_with_a_bad_box_or_gap_is_refused(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    texts = dict.fromkeys(
        ("package", "version", "archive", "sha256", "licence", "attribution", "caption"), "a"
    )
    recipe = tmp_path / "SOURCES.yaml"
    recipe.write_text(yaml.safe_dump({"films": [{"folder": "film", "members": [], **texts, **changes}]}))
    with pytest.raises(DataError, match=rf"SOURCES.yaml: got .*{message}"):
        read_sources(recipe)


def test_film_that_ffmpeg_cannot_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_text("no film")
    with pytest.raises(DataError):
        cut_film(film(), tmp_path / "film.mp4", tmp_path, 30.0, find_ffmpeg())
