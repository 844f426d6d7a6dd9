"""Simulated scenes: the world goes on after the clip, and the file beside the video says which it is."""

import dataclasses
import json

import numpy as np
import pytest

from videomar.media.mp4 import find_ffmpeg
from videomar.sources.simulate import CLIP_FRAMES, FPS, draw_scene, draw_simulated, render, scene_of


@pytest.fixture(scope="module")
def video(params, tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulated")
    samples = dataclasses.replace(params.samples, simulated_videos=1, clips_per_video=3, simulated_size_px=32)
    draw_simulated(folder, samples, find_ffmpeg())
    return folder / "simulated/sim_0000.mp4", samples


def test_longer_clip_begins_with_the_shorter_one() -> None:
    rng = np.random.default_rng(0)
    for scene in (draw_scene(rng) for _ in range(12)):
        assert np.array_equal(render(scene, 32, 65)[:CLIP_FRAMES], render(scene, 32))


def test_scenes_are_those_that_the_video_was_drawn_from(video) -> None:
    path, samples = video
    rng = np.random.default_rng([samples.seed, 0])
    for number in range(samples.clips_per_video):
        scene, start_s = draw_scene(rng), number * CLIP_FRAMES / FPS
        assert scene_of(path, start_s) == (scene, 0)
        assert scene_of(path, start_s + 4 / FPS) == (scene, 4)
    assert scene_of(path, samples.clips_per_video * CLIP_FRAMES / FPS) is None


@pytest.mark.parametrize(
    "change",
    [
        {"shape": "star"},
        {"radius": "wide"},
        {"radius": 0.9},
        {"start": [0.5]},
        {"start": [2.0, 0.5]},
        {"speed": ["slowly"]},
        {"mass": 1.0},
        None,
    ],
)
def test_file_that_names_no_scene_gives_none(video, tmp_path, change) -> None:
    path = tmp_path / "sim_0000.mp4"
    assert scene_of(path, 0.0) is None
    content = json.loads(video[0].with_suffix(".json").read_text())
    clip = content["clips"][0]
    if change is None:
        del clip["scene"]
    else:
        clip["scene"] |= change
    path.with_suffix(".json").write_text(json.dumps(content))
    assert scene_of(path, 0.0) is None
    for text in ("", "[]", '{"clips": 3}', '{"clips": [3]}', '{"clips": [{"start_s": null}]}'):
        path.with_suffix(".json").write_text(text)
        assert scene_of(path, 0.0) is None
