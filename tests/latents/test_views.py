"""Views of real training clips: what they show, where they come from, and what they never enter."""

import dataclasses

import numpy as np
import pandas
import pytest

from tests.latents.test_encode import Project, Simulated
from tests.support.videos import run_ffmpeg
from videomar.curation.scores import motion
from videomar.errors import DataError, ParamsError
from videomar.latents.clip_encoder import ClipEncoder, Encoded, Video
from videomar.latents.dataset import LatentDataset
from videomar.latents.encode_ray import EncoderActor, as_item, split_videos
from videomar.latents.keys import expected_metadata
from videomar.latents.shards import read_rows
from videomar.latents.views import mirrors_wrongly, with_views
from videomar.media.clip_reader import cut_view, map_clips
from videomar.media.shapes import ClipShape, View

LENGTH_S = 16 / 8


@pytest.fixture(scope="module")
def video_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("film")
    film = "testsrc2=size=96x64:rate=24:duration=3,gblur=2"
    run_ffmpeg(folder, "-f", "lavfi", "-i", film, "-pix_fmt", "yuv420p", "-threads", "1", "film.mp4")
    return folder / "film.mp4"


def with_encode(params, **changes):
    changes = {"views": 6, "view_zoom": 2.0, "view_speeds": (0.5, 2.0), "view_mirror": True} | changes
    return dataclasses.replace(params, encode=dataclasses.replace(params.encode, **changes))


def random_ledger(seed):
    """Kept clips of some videos: shots of one to nine clips, some cut by other splits, some with gaps."""
    rng, rows = np.random.default_rng(seed), []
    for video in range(4):
        shot_s = 0.0
        for shot in range(5):
            count = int(rng.integers(1, 10))
            splits = np.sort(rng.choice(["train", "train", "train", "val", "test"], count))
            for number, split in enumerate(splits):
                start_s = round(shot_s + number, 3)
                kept = rng.random() > 0.2
                row = {
                    "video": f"{video}.mp4",
                    "video_sha256": f"{video}",
                    "clip_id": f"{video} {shot} {number}",
                }
                row |= {"start_s": start_s, "end_s": start_s + 17 / 8, "shot_s": shot_s, "split": str(split)}
                row |= {"group": "simulated" if video == 3 else "real", "caption": "a hill", "motion": 1.0}
                row |= {"width": 1280, "height": 720, "clip_width_px": 32.0, "clip_height_px": 32.0}
                rows += [row | {"num_frames": 17.0}] if kept else []
            shot_s = round(shot_s + count + 1.125, 3)
    return pandas.DataFrame(rows)


def shown_s(rows):
    """First and last moment that each row shows."""
    fps = np.array([cut.fps if cut else 8.0 for cut in rows["cut"]])
    return rows["start_s"].to_numpy(), rows["start_s"].to_numpy() + (rows["num_frames"].to_numpy() - 1) / fps


@pytest.mark.parametrize("seed", range(3))
def test_view_shows_no_moment_that_kept_training_clips_of_its_shot_do_not_show(params, seed):
    """So it never leaves its shot, and shows nothing of another split or of a rejected clip."""
    ledger = random_ledger(seed)
    rows = with_views(ledger, with_encode(params))
    views, clips = rows[rows["view"] > 0], rows[rows["view"] == 0]
    assert (views["group"] == "real").all()
    assert (views["split"] == "train").all()
    assert len(views) == 6 * ((clips["group"] == "real") & (clips["split"] == "train")).sum()
    for (_, view), first_s, last_s in zip(views.iterrows(), *shown_s(views), strict=True):
        own = clips[(clips["video"] == view["video"]) & (clips["split"] == "train")]
        own = own[own["shot_s"] == view["shot_s"]]
        begins = own["start_s"].to_numpy()[:, None]
        moments = np.linspace(first_s, last_s, 200)
        # Between the last frame of a clip and the first of the next one passes the time of a frame.
        near = (begins - 0.0636 <= moments) & (moments <= begins + LENGTH_S + 0.0636)
        assert near.any(axis=0).all(), view
        assert first_s >= own["start_s"].min()
        assert last_s <= own["start_s"].max() + LENGTH_S + 1e-6


def test_view_is_a_function_of_its_clip_its_number_and_the_seed(params):
    """More views leave the first ones alone; clips of other shots and their order change nothing."""
    ledger = random_ledger(1)
    few, many = (with_views(ledger, with_encode(params, views=count)) for count in (2, 6))
    key = ["clip_id", "view", "start_s", "cut"]
    assert few[key].equals(many[many["view"] <= 2][key].reset_index(drop=True))
    others = ledger[(ledger["video"] != "0.mp4") | (ledger["shot_s"] > 0)].sample(frac=1, random_state=0)
    fewer = with_views(others, with_encode(params))
    expected = many[many["clip_id"].isin(others["clip_id"])][key].reset_index(drop=True)
    assert fewer[key].equals(expected)
    changed = with_views(ledger, with_encode(params, view_seed=1))
    assert not changed[changed["view"] > 0]["cut"].isin(set(many["cut"])).any()


def test_views_use_all_of_what_they_may(params):
    rows = with_views(random_ledger(2), with_encode(params, views=40))
    cuts = [cut for cut in rows["cut"] if cut]
    speeds = np.array([8 / cut.fps for cut in cuts])
    assert 0.5 <= speeds.min() < 0.55
    assert 1.9 < speeds.max() <= 2.0
    zooms = np.array([cut.zoom for cut in cuts])
    assert 1 <= zooms.min() < 1.05
    assert 1.95 < zooms.max() <= 2
    assert abs(np.mean([cut.mirrored for cut in cuts]) - 0.5) < 0.05
    for side in ([cut.left for cut in cuts], [cut.top for cut in cuts]):
        assert min(side) < 0.02
        assert max(side) > 0.98


def test_single_clip_is_never_sped_up_and_a_small_video_never_enlarged(params):
    ledger = random_ledger(0).iloc[:1].assign(split="train", width=40, height=40, start_s=1.0, shot_s=1.0)
    rows = with_views(ledger, with_encode(params, views=30))
    cuts = [cut for cut in rows["cut"] if cut]
    assert min(cut.fps for cut in cuts) == 8.0
    assert max(cut.zoom for cut in cuts) <= 1.25


def test_still_pictures_and_a_ledger_of_other_splits_alone_have_no_views(params):
    ledger = random_ledger(0)
    for clips in (
        ledger.assign(num_frames=1.0),
        ledger.assign(split="val"),
        ledger.assign(group="simulated"),
    ):
        rows = with_views(clips, with_encode(params))
        assert (rows["view"] == 0).all()
        assert len(rows) == len(clips)


@pytest.mark.parametrize(
    ("caption", "named"),
    [
        ("a ball moves to the LEFT", True),
        ("rightwards, slowly", True),
        ("counter-clockwise", True),
        ("ein Ball rollt nach rechts", True),
        ("向左移动", True),
        ("a bright light, slightly upright", False),
        ("", False),
    ],
)
def test_clip_whose_caption_names_a_side_is_not_mirrored(params, caption, named):
    assert mirrors_wrongly(caption) == named
    rows = with_views(random_ledger(0).assign(caption=caption), with_encode(params))
    assert any(cut.mirrored for cut in rows["cut"] if cut) != named


@pytest.mark.parametrize(
    "change",
    [
        {"views": -1},
        {"view_zoom": 0.9},
        {"view_zoom": 2.5},
        {"view_speeds": (2.0, 1.0)},
        {"view_speeds": (0.0, 1.0)},
        {"view_speeds": (1.0, float("nan"))},
    ],
)
def test_view_that_cannot_be_cut_is_refused(params, change):
    with pytest.raises(ParamsError, match=next(iter(change))):
        with_encode(params, **change)


def test_plain_view_has_the_pixels_of_the_clip_and_others_those_of_their_box(video_file):
    """Also beside views: a clip's pixels do not depend on whether it has any."""
    path, shape = video_file, ClipShape(16, 16, 8.0, 5)
    starts = [0.5, 0.0, 0.25]
    plain = map_clips(path, starts, shape, lambda clip: clip)
    views = (View(8.0), View(4.0, mirrored=True), View(8.0, zoom=2.0, left=1.0, top=0.0))
    cut = map_clips(path, starts, shape, lambda clip: clip, views=views)
    assert np.array_equal(cut[0], plain[0])
    [slow] = map_clips(path, [0.0], dataclasses.replace(shape, fps=4.0), lambda clip: clip)
    assert np.array_equal(cut[1], slow[:, :, ::-1])
    assert not np.array_equal(cut[2], plain[2])


def test_box_of_a_view_is_where_it_says():
    frames = np.zeros((1, 64, 128, 3), np.uint8)
    frames[:, :32, 96:] = 200
    corner = cut_view(frames, (32, 32), View(8.0, zoom=2.0, left=1.0, top=0.0))
    assert (corner == 200).all()
    mirrored = cut_view(frames, (32, 32), View(8.0, left=1.0, top=0.0, mirrored=True))
    assert (mirrored[:, :16, :16] == 200).all()
    assert not mirrored[:, :, 16:].any()


class Measuring(Simulated):
    """An encoder whose clips have a motion, too: it follows from the key. Remembers how they were cut."""

    def __init__(self, *settings, **named):
        super().__init__(*settings, **named)
        self.cuts = {}

    def __call__(self, videos, tokenizer, params):
        for video, clips in zip(videos, super().__call__(videos, tokenizer, params), strict=True):
            self.cuts = getattr(self, "cuts", {}) | dict(
                zip(video.keys, video.views, strict=bool(video.views))
            )
            yield [clip._replace(motion=motion_of(clip.key)) for clip in clips]


def motion_of(key):
    return int(key[:4], 16) / 1000


@pytest.fixture
def project(tmp_path, params):
    text = dataclasses.replace(params.text, encoder="none")
    settings = with_encode(dataclasses.replace(params, text=text), views=2, shard_clips=6)
    project = Project(tmp_path, settings)
    for row in project.rows:
        row |= {"width": 1280, "height": 720, "shot_s": 0.0}
        row["split"] = {"v0.mp4": "test", "v1.mp4": "val"}.get(row["video"], "train")
        row["group"] = "simulated" if row["video"] == "v2.mp4" else "real"
    return project


def test_views_are_rows_with_their_own_rate_and_motion_and_the_captions_of_their_clips(project):
    encoder = Measuring()
    figures = project.encode(encoder)
    rows = read_rows(project.out)
    clips, views = ([row for row in rows if bool(row["view"]) == viewed] for viewed in (False, True))
    viewed = [row for row in clips if row["split"] == "train" and row["group"] == "real"]
    assert figures["views"] == len(views) == 2 * len(viewed) == 36
    assert {row["clip_id"] for row in views} == {row["clip_id"] for row in viewed}
    for row in views:
        assert row["motion"] == pytest.approx(motion_of(row["key"]))
        assert row["fps"] == pytest.approx(encoder.cuts[row["key"]].fps)
        assert not row["text"]
    assert len({row["fps"] for row in views}) > 10
    assert {row["fps"] for row in clips} == {8.0}
    stated = {row["clip_id"]: row["motion"] for row in project.rows}
    assert all(row["motion"] == pytest.approx(stated[row["clip_id"]]) for row in clips)
    data = LatentDataset(project.out, "train", 5)
    assert sorted(data.largest) == sorted({row["clip_id"] for row in clips if row["split"] == "train"})
    for number in np.flatnonzero(data.views).tolist():
        own = data.largest[data.clip_ids[number]]
        assert data.views[own] == 0
        view, clip = data.rows([number]), data.rows([own])
        assert np.array_equal(view.text, clip.text)
        assert np.array_equal(view.text_mask, clip.text_mask)


def test_new_clip_encodes_itself_and_its_views_and_a_second_run_nothing(project):
    row = next(row for row in project.rows if row["video"] == "v3.mp4" and row["kept"])
    row["kept"] = False
    project.encode(Measuring())
    assert project.encode(Measuring())["encoded"] == 0
    row |= {"kept": True, "shot_s": 99.0}  # of another shot: views of its neighbours may end later
    assert project.encode(Measuring())["encoded"] == 3
    kept = project.files()
    project.encode(Measuring(), project.folder / "fresh")
    assert {path.name: path.read_bytes() for path in (project.folder / "fresh").iterdir()} == kept


def test_killed_encode_keeps_the_motion_of_views(project):
    with pytest.raises(KeyboardInterrupt):
        project.encode(Measuring(videos_until_end=5))
    resumed = Measuring()
    project.encode(resumed)
    assert len(resumed.keys) < 60
    project.encode(Measuring(), project.folder / "fresh")
    assert {path.name: path.read_bytes() for path in (project.folder / "fresh").iterdir()} == project.files()


def test_views_at_a_smaller_size_have_the_motion_of_the_largest(project):
    sizes = dataclasses.replace(project.params.encode, smaller_sizes_px=(16,))
    project.params = dataclasses.replace(project.params, encode=sizes)
    assert project.encode(Measuring())["views"] == 36
    rows = [row for row in read_rows(project.out) if row["view"]]
    assert len(rows) == 72
    motions = {}
    for row in rows:
        motions.setdefault((row["clip_id"], row["view"]), set()).add(row["motion"])
    assert len(motions) == 36
    assert all(len(found) == 1 for found in motions.values())


def test_every_clip_and_view_is_seen_once_an_epoch(project):
    """A view is a clip of its group to the schedule."""
    project.encode(Measuring())
    data = LatentDataset(project.out, "train", 5)
    real = np.flatnonzero(~data.simulated)
    assert len(real) == 54
    drawn = np.concatenate([data.index_at(step, 6, 0.0, seed=0) for step in range(9)])
    assert sorted(drawn) == sorted(real)


def test_cache_of_other_views_is_refused(project):
    project.encode(Measuring())
    others = dataclasses.replace(project.params.encode, view_zoom=1.5)
    expected = expected_metadata(dataclasses.replace(project.params, encode=others))
    with pytest.raises(DataError, match=r"views.zoom is 2.0, expected 1.5"):
        LatentDataset(project.out, "train", 5, expected)


def test_actor_encodes_views_as_the_encoder_itself(project, video_file):
    shape, views = ClipShape(16, 16, 8.0, 5), (View(8.0), View(6.4, 1.5, 0.2, 0.9, True))
    video = Video(str(video_file), [0.0, 0.5], ["clip", "view"], shape, views)
    [part] = split_videos([video], 1)
    settings = str(project.folder / "tokenizer"), "float32"
    [row] = [as_item([part])]
    made = [row for row in EncoderActor(*settings)(row)]
    expected = ClipEncoder(*settings).encode(video)
    assert [Encoded(*(row[name] for name in Encoded._fields)) for row in made] == expected
    pictures = map_clips(video_file, video.starts_s, shape, lambda clip: clip, views=views)
    assert [clip.motion for clip in expected] == [motion(clip) for clip in pictures]
