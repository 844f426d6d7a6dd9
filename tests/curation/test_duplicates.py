"""Looks: equal for copies, near for re-encoded ones, far for others; clusters as a plain loop finds them."""

import dataclasses
import time
from pathlib import Path

import cv2
import numpy as np
import pandas
import pytest
from numpy.typing import NDArray

from tests.support.videos import run_ffmpeg
from videomar.config import CurateParams
from videomar.curation.duplicates import FINGERPRINT_BYTES, find_clusters, fingerprint, join_shots
from videomar.media.clip_reader import read_clips
from videomar.media.shapes import ClipShape


def picture(seed: int, num_frames: int = 9) -> NDArray[np.uint8]:
    """A smooth coloured clip (F, 32, 32, 3)."""
    small = np.random.default_rng(seed).integers(0, 256, (num_frames, 5, 5, 3)).astype(np.uint8)
    return np.stack([cv2.resize(frame, (32, 32), interpolation=cv2.INTER_CUBIC) for frame in small])


def rows(looks: list[tuple[str, bytes | None]]) -> pandas.DataFrame:
    """Clips `0000`, `0001`, ... with the given videos and looks."""
    frame = pandas.DataFrame(looks, columns=["video_sha256", "fingerprint"])
    return frame.assign(clip_id=[f"{index:04d}" for index in range(len(frame))])


def test_a_copy_and_a_softer_one_share_a_cluster_and_others_do_not(curate_params: CurateParams) -> None:
    clip = picture(0)
    softer = np.stack([cv2.GaussianBlur(frame, (3, 3), 0.6) for frame in clip])
    looks = [("a", clip), ("b", clip), ("c", softer), ("d", picture(1)), ("e", picture(2))]
    clusters = find_clusters(rows([(video, fingerprint(shown)) for video, shown in looks]), curate_params)
    assert clusters.tolist() == ["0000", "0000", "0000", "0003", "0004"]


def test_a_video_encoded_again_has_nearly_the_same_looks(
    videos: Path, tmp_path: Path, clip_shape: ClipShape, curate_params: CurateParams
) -> None:
    run_ffmpeg(tmp_path, "-i", str(videos / "plain.mp4"), "-vf", "scale=72:48", "-crf", "30", "again.mp4")
    looks = [
        (str(path), fingerprint(clip))
        for path in (videos / "plain.mp4", tmp_path / "again.mp4")
        for clip in read_clips(path, [0.0, 1.0], clip_shape)
    ]
    # The test picture is all edges; films that are encoded again differ by 4 bits and 2 of 255.
    params = dataclasses.replace(curate_params, max_duplicate_colour=20)
    assert find_clusters(rows(looks), params).tolist() == ["0000", "0001", "0000", "0001"]


def test_a_red_body_is_no_duplicate_of_a_blue_one_as_light(curate_params: CurateParams) -> None:
    red, blue = (np.full((3, 32, 32, 3), 100, np.uint8) for _ in range(2))
    red[:, 8:20, 8:20], blue[:, 8:20, 8:20] = (200, 60, 60), (60, 106, 200)
    one, other = fingerprint(red), fingerprint(blue)
    assert one[:24] == other[:24]
    assert find_clusters(rows([("a", one), ("b", other)]), curate_params).nunique() == 2


def test_alike_clips_of_one_video_are_joined_only_through_another(curate_params: CurateParams) -> None:
    look = np.frombuffer(fingerprint(picture(0)), np.uint8)
    near, nearer = look.copy(), look.copy()
    near[0] ^= 3
    nearer[0] ^= 1
    alone = [("a", look.tobytes()), ("a", near.tobytes())]
    assert find_clusters(rows(alone), curate_params).nunique() == 2
    assert find_clusters(rows([*alone, ("b", nearer.tobytes())]), curate_params).nunique() == 1


def test_clips_without_a_look_are_in_no_cluster(curate_params: CurateParams) -> None:
    clusters = find_clusters(rows([("a", None), ("b", fingerprint(picture(0))), ("c", None)]), curate_params)
    assert clusters.isna().tolist() == [True, False, True]
    assert find_clusters(rows([("a", None)]), curate_params).isna().all()
    assert find_clusters(rows([]), curate_params).empty


@pytest.mark.parametrize("bits", [-1, 0, 5, 12, 31])
def test_clusters_are_those_of_a_plain_loop(bits: int, curate_params: CurateParams) -> None:
    params = dataclasses.replace(curate_params, max_duplicate_bits=bits)
    rng = np.random.default_rng(bits + 1)
    looks = rng.integers(0, 256, (4, FINGERPRINT_BYTES)).astype(np.uint8)[rng.integers(0, 4, 60)]
    flips = rng.random((60, 192)) < rng.uniform(0, 0.15, (60, 1))
    looks[:, :24] ^= np.packbits(flips, axis=1)
    looks[:, 24:] ^= rng.integers(0, 2, (60, 144)).astype(np.uint8) * np.uint8(4)
    videos = rng.integers(0, 8, 60)
    clips = rows([(str(v), look.tobytes()) for v, look in zip(videos, looks, strict=True)])

    label = list(range(60))
    for i in range(60):
        for j in range(60):
            differ = int(np.unpackbits(looks[i, :24] ^ looks[j, :24]).sum())
            colour = int(np.abs(looks[i, 24:].astype(int) - looks[j, 24:].astype(int)).max())
            near = differ <= bits and colour <= params.max_duplicate_colour
            if (near and videos[i] != videos[j]) or (looks[i] == looks[j]).all():
                low, high = sorted((label[i], label[j]))
                label = [low if name == high else name for name in label]
    assert find_clusters(clips, params).tolist() == [f"{name:04d}" for name in label]


def test_thousands_of_equal_clips_take_no_time(curate_params: CurateParams) -> None:
    look = fingerprint(picture(0))
    clips = rows([(f"{index // 2}", look) for index in range(20_000)])
    start = time.monotonic()
    assert find_clusters(clips, curate_params).nunique() == 1
    assert time.monotonic() - start < 5


def test_shots_that_come_back_are_one(curate_params: CurateParams) -> None:
    def clip(video: str, start_s: float, shot_s: float, seed: int) -> dict[str, object]:
        look = np.random.default_rng(seed).integers(0, 256, (3, 40, 40, 3), np.uint8)
        frames = cv2.GaussianBlur(look.transpose(1, 2, 0, 3).reshape(40, 40, 9), (9, 9), 5)
        shown = np.ascontiguousarray(frames.reshape(40, 40, 3, 3).transpose(2, 0, 1, 3))
        return {
            "clip_id": f"{video} {start_s}", "video_sha256": video, "start_s": start_s, "end_s": start_s + 2,
            "shot_s": shot_s, "fingerprint": fingerprint(shown), "cluster": None,
        }  # fmt: skip

    # Back and forth between two cameras; the same look in another video, or much later, is another shot.
    rows = [clip("a", start, start, seed) for start, seed in ((0, 1), (4, 2), (8, 1), (12, 2), (180, 1))]
    rows += [clip("a", 20, 20, 3), clip("a", 21, 20, 4), clip("b", 0, 0, 1)]
    table = pandas.DataFrame([*rows, {"video_sha256": "bad", "clip_id": None}]).astype({"cluster": object})
    found = join_shots(table)
    assert found.tolist()[:5] == ["a 0", "a 4", "a 0", "a 4", "a 180"]
    assert found.tolist()[5:8] == ["a 20", "a 20", "b 0"]
    assert pandas.isna(found[8])
    table.loc[[0, 4], "cluster"] = "a 0"
    assert join_shots(table)[4] == "a 0", "equal clips are of one shot, however far apart"
    assert join_shots(table.sample(frac=1, random_state=0)).reindex(table.index).equals(join_shots(table))
