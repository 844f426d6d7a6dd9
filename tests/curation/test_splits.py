"""Splits: shares of time from several sources, no frame in two splits, and a new video moves few others."""

import dataclasses

import numpy as np
import pandas
import pytest

from videomar.config import CurateParams
from videomar.curation.splits import assign_split, seconds_of_film

CLIP_S, STRIDE_S = 2.0, 1.0
RANDOM = range(40)


def video(name: str, *shots_s: float, group: str = "real", clip_s: float = CLIP_S) -> pandas.DataFrame:
    """Kept clips of a video whose shots last so long; each shot looks like no other."""
    rows, start_s = [], 0.0
    for number, shot_s in enumerate(shots_s):
        count = int((shot_s - clip_s) / STRIDE_S + 1e-9) + 1
        rows += [(start_s + STRIDE_S * index, f"{name} shot {number}") for index in range(count)]
        start_s += shot_s
    table = pandas.DataFrame(rows, columns=["start_s", "shot"])
    table["end_s"] = table["start_s"] + clip_s
    table["clip_id"] = [f"{name} {start}" for start in table["start_s"]]
    table = table.assign(video=name, video_sha256=f"sha of {name}", group=group)
    return table.assign(kept=True, cluster=None, num_frames=17)


def split_of(videos: list[pandas.DataFrame], params: CurateParams) -> pandas.DataFrame:
    clips = pandas.concat(videos, ignore_index=True)
    clips = clips.assign(split=assign_split(clips, params))
    # As curate does: a clip between two splits is not kept.
    return clips.assign(kept=clips["kept"] & clips["split"].notna())


def seconds_by(clips: pandas.DataFrame, *columns: str) -> pandas.Series:
    kept = clips[clips["kept"]]
    return kept.assign(seconds=seconds_of_film(kept)).groupby(list(columns))["seconds"].sum()


def some_videos(seed: int, least: int = 1) -> list[pandas.DataFrame]:
    """A folder of one to 60 videos of very unequal lengths, some of one shot and some of many."""
    rng = np.random.default_rng(seed)
    videos = []
    for number in range(int(rng.choice([least, least + 1, 3, 6, 15, 60]))):
        length_s = float(np.clip(rng.lognormal(3.5, 1.2), 4, 1500))
        shots = max(1, int(length_s / rng.choice([6.0, 20.0, 1500.0])))
        videos.append(video(f"{seed}-{number}", *[round(length_s / shots, 3)] * shots))
    return videos


@pytest.fixture
def params(curate_params: CurateParams) -> CurateParams:
    return dataclasses.replace(curate_params, val_share=0.06, test_share=0.12)


@pytest.mark.parametrize("seed", RANDOM)
def test_test_and_val_get_their_shares_of_the_seconds(seed: int, params: CurateParams) -> None:
    videos = some_videos(seed)
    whole_s = seconds_by(pandas.concat(videos, ignore_index=True), "group")["real"]
    found = seconds_by(split_of(videos, params), "split")
    for name, share in (("test", params.test_share), ("val", params.val_share)):
        # A source that is drawn whole overshoots by at most half of 1.5 quarters, a part that begins and ends
        # with a scene by a quarter; and clips are not divided.
        allowed_s = share * whole_s / 4 + 3 * CLIP_S
        assert abs(found.get(name, 0.0) - share * whole_s) <= allowed_s, (name, found, whole_s)
    assert found["train"] > (1 - 1.5 * (params.test_share + params.val_share)) * whole_s - 24 * CLIP_S


@pytest.mark.parametrize("seed", RANDOM)
def test_no_frame_is_in_two_splits(seed: int, params: CurateParams) -> None:
    clips = split_of(some_videos(seed), params)
    kept = clips[clips["kept"]]
    for _, own in kept.groupby("video_sha256"):
        for name, members in own.groupby("split"):
            others = own[own["split"] != name]
            crossing = (members["start_s"].to_numpy()[:, None] < others["end_s"].to_numpy() - 1e-6) & (
                others["start_s"].to_numpy() < members["end_s"].to_numpy()[:, None] - 1e-6
            )
            assert not crossing.any()


def test_the_split_of_six_unequal_videos_is_fair(params: CurateParams) -> None:
    """Drawn by their number, one of these would be all of test: up to 66 % of the time, and one scene."""
    videos = [video(f"v{i}", length_s) for i, length_s in enumerate([400.0, 60.0, 50.0, 40.0, 30.0, 26.0])]
    for seed in range(20):
        clips = split_of(videos, dataclasses.replace(params, seed=seed))
        found = seconds_by(clips, "split")
        assert 0.09 < found["test"] / 606 < 0.15
        assert 0.04 < found["val"] / 606 < 0.08
        assert found["train"] / 606 > 0.75
        assert clips[clips["split"] == "test"]["video_sha256"].nunique() >= 3
        assert clips[clips["split"] == "train"]["video_sha256"].nunique() >= 3


@pytest.mark.parametrize("seed", RANDOM)
def test_test_comes_from_several_sources_where_there_are_some(seed: int, params: CurateParams) -> None:
    videos = some_videos(seed, least=3)
    clips = split_of(videos, params)
    sources = clips[clips["kept"] & (clips["split"] == "test")]["video_sha256"].nunique()
    whole_s = seconds_by(clips, "group")["real"]
    if params.test_share * whole_s > 8 * CLIP_S:
        assert sources >= min(len(videos), 3)
    assert sources >= 1


@pytest.mark.parametrize("seed", range(10))
def test_the_split_depends_on_no_order(seed: int, params: CurateParams) -> None:
    clips = pandas.concat(some_videos(seed), ignore_index=True)
    shuffled = clips.sample(frac=1, random_state=seed)
    assert assign_split(shuffled, params).reindex(clips.index).equals(assign_split(clips, params))


@pytest.mark.parametrize("seed", RANDOM)
def test_a_video_more_or_less_moves_few_others(seed: int, params: CurateParams) -> None:
    """Bound: three times its own seconds, and what two sources may give to test and val, a quarter each."""
    videos = some_videos(seed, least=2)
    whole = split_of(videos, params).set_index("clip_id")
    total_s = seconds_by(whole.reset_index(), "group")["real"]
    for gone in range(min(4, len(videos))):
        rest = split_of(videos[:gone] + videos[gone + 1 :], params).set_index("clip_id")
        gone_s = seconds_by(videos[gone], "group")["real"]
        both = rest.join(whole[["split"]].rename(columns={"split": "before"}))
        # Of clips in none, which cross an edge, there may be more or fewer.
        moved = both[both["split"].notna() & both["before"].notna() & (both["split"] != both["before"])]
        moved_s = seconds_of_film(moved.reset_index()).sum()
        part_s = (params.test_share + params.val_share) * total_s / 4
        assert moved_s <= 3 * gone_s + 2 * part_s + 6 * CLIP_S, (gone_s, moved_s, total_s)


def test_among_many_videos_a_new_one_moves_hardly_any(params: CurateParams) -> None:
    videos = [video(f"v{i}", 20.0 + i % 7) for i in range(400)]
    before = split_of(videos, params).groupby("video_sha256")["split"].first()
    after = split_of([*videos, video("new", 24.0)], params).groupby("video_sha256")["split"].first()
    assert (after[before.index] != before).sum() <= 2


def test_each_group_has_its_shares(params: CurateParams) -> None:
    videos = [video(f"s{i}", 30.0, group="simulated") for i in range(30)]
    videos += [video(f"r{i}", 10.0) for i in range(40)]
    found = seconds_by(split_of(videos, params), "group", "split")
    for group, whole_s in (("simulated", 900.0), ("real", 400.0)):
        assert found[group, "test"] / whole_s == pytest.approx(0.12, abs=0.02)
        assert found[group, "val"] / whole_s == pytest.approx(0.06, abs=0.02)


def test_a_film_is_tested_at_several_places_and_cut_between_scenes(params: CurateParams) -> None:
    clips = split_of([video("film", *[7.0] * 80)], params)
    test = clips[clips["split"] == "test"]
    # Not its end alone, which would be credits.
    assert np.histogram(test["start_s"], bins=3, range=(0, 560))[0].min() > 10
    assert clips["split"].notna().all(), "no clip is lost where the edges are between shots"
    assert (clips.groupby("shot")["split"].nunique() == 1).all()


def test_shots_that_come_back_are_in_one_split(params: CurateParams) -> None:
    film = video("film", *[7.0] * 80)
    # As in a dialogue: of sixteen shots four are of two cameras by turns.
    number = film["shot"].str.split().str[-1].astype(int)
    film["shot"] = np.where(number % 16 < 4, [f"{n // 16} {n % 2}" for n in number], film["shot"])
    clips = split_of([film], params)
    assert (clips[clips["kept"]].groupby("shot")["split"].nunique() == 1).all()
    assert set(clips["split"]) == {"train", "val", "test"}


@pytest.mark.parametrize(
    "lengths_s", [(2.0,), (3.0,), (4.0, 4.0), (60.0, 2.0), (5.0, 500.0), (9.0, 60.0, 4.0)]
)
def test_few_clips_train_first(lengths_s: tuple[float, ...], params: CurateParams) -> None:
    clips = split_of([video(f"v{i}", length_s) for i, length_s in enumerate(lengths_s)], params)
    found = seconds_by(clips, "split")
    assert found["train"] >= 0.5 * found.sum()
    if sum(lengths_s) > 20:
        assert found["test"] > 0


@pytest.mark.parametrize("test_share", [0.02, 0.3, 0.5, 0.8])
@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_other_shares_are_met(test_share: float, count: int, params: CurateParams) -> None:
    params = dataclasses.replace(params, test_share=test_share, val_share=0.1)
    videos = [video(f"v{i}", 90.0 * (1 + i % 3)) for i in range(count)]
    found = seconds_by(split_of(videos, params), "split")
    whole_s = sum(90.0 * (1 + i % 3) for i in range(count))
    assert abs(found["test"] - test_share * whole_s) <= test_share * whole_s / 4 + 3 * CLIP_S
    assert found["train"] > 0


def test_still_pictures_have_shares_of_their_own_and_none_is_test(params: CurateParams) -> None:
    stills = [video(f"still {i}", 0.125, clip_s=0.125).assign(num_frames=1) for i in range(100)]
    clips = split_of([*stills, *(video(f"v{i}", 30.0) for i in range(9))], params)
    found = clips.groupby(["num_frames", "split"])["video_sha256"].nunique()
    assert found[1].to_dict() == {"train": 94, "val": 6}
    without = split_of([video(f"v{i}", 30.0) for i in range(9)], params)
    assert clips[clips["num_frames"] == 17]["split"].tolist() == without["split"].tolist()
    assert found[17, "test"] >= 1


def test_named_videos_are_test_whole_and_no_others_are(params: CurateParams) -> None:
    videos = [video(f"trip/{number}", *[6.0] * 5) for number in range(8)]
    videos += [video(f"concert/{number}", *[6.0] * 5) for number in range(3)]
    videos += [video(f"drawn {number}", 6.0, group="simulated") for number in range(40)]
    named = dataclasses.replace(params, test_videos=("concert/*", "trip/[23]", "nowhere/*"))
    clips = split_of(videos, named)
    real, simulated = clips[clips["group"] == "real"], clips[clips["group"] == "simulated"]
    in_test = real.groupby("video")["split"].agg(lambda split: (split == "test").sum())
    for name, count in in_test.items():
        whole = str(name).startswith("concert/") or name in ("trip/2", "trip/3")
        assert count == (len(videos[0]) if whole else 0)
    assert (real["split"] == "val").any()
    assert (real["split"] == "train").sum() > len(real) / 3
    # Another group, and a folder without such videos, are drawn as without names.
    plain = split_of(videos, params)
    assert (simulated["split"] == plain.loc[simulated.index, "split"]).all()
    assert (simulated["split"] == "test").any()
    elsewhere = split_of(videos, dataclasses.replace(params, test_videos=("nowhere/*",)))
    assert (elsewhere["split"].fillna("") == plain["split"].fillna("")).all()


def test_named_still_pictures_are_in_no_split(params: CurateParams) -> None:
    pictures = video("album/1", 6.0).assign(num_frames=1)
    params = dataclasses.replace(params, test_videos=("album/*",))
    clips = split_of([pictures, video("trip", *[6.0] * 5)], params)
    assert clips.loc[clips["video"] == "album/1", "split"].isna().all()
    assert (clips.loc[clips["video"] == "trip", "split"] == "test").any()


def test_the_seed_and_not_the_name_decides_who_is_held_out(params: CurateParams) -> None:
    """Files are named by date, place or camera: the first ones would be one occasion."""
    videos = [video(f"2024-{number:02d}", 30.0) for number in range(20)]
    held_out = []
    for seed in range(8):
        clips = split_of(videos, dataclasses.replace(params, seed=seed))
        held_out.append(frozenset(clips.loc[clips["split"] == "test", "video"]))
    assert len(set(held_out)) > 4
    assert len(frozenset.union(*held_out)) > 8
    assert not frozenset.intersection(*held_out)


@pytest.mark.parametrize("seed", range(6))
def test_clips_that_look_alike_are_in_one_split_whatever_video_they_are_of(
    seed: int, params: CurateParams
) -> None:
    """Each video shares a clip with the one ten further on, and each has one that comes back at its end."""
    videos = [video(f"v{number}", *[6.0] * 20) for number in range(20)]
    for number, clips in enumerate(videos):
        clips.loc[3, "cluster"] = f"pair {number % 10}"
        clips.loc[[1, len(clips) - 2], "cluster"] = f"again {number}"
    clips = split_of(videos, dataclasses.replace(params, seed=seed))
    kept = clips[clips["kept"]]
    assert (kept.groupby("cluster")["split"].nunique() == 1).all()
    assert set(kept["split"]) == {"train", "val", "test"}
    whole = kept.groupby("video")["split"].agg(lambda split: split.iloc[0] if split.nunique() == 1 else "")
    for number in range(10):
        assert whole[f"v{number}"] == whole[f"v{number + 10}"], "one source, if it is given as a whole"


def test_rejected_look_alike_takes_no_kept_clip_away(params: CurateParams) -> None:
    film = video("film", *[7.0] * 80)
    plain = split_of([film], params)
    first, last = plain.index[plain["split"] == "train"][0], plain.index[plain["split"] == "test"][-1]
    film.loc[last, "kept"] = False
    without = split_of([film], params)
    film.loc[[first, last], "cluster"] = "alike"
    clips = split_of([film], params)
    assert clips.loc[first, "split"] == without.loc[first, "split"] == "train"


def test_seconds_that_clips_share_count_once() -> None:
    clips = pandas.concat([video("a", 10.0), video("b", 5.0, 4.0)], ignore_index=True)
    assert seconds_of_film(clips).groupby(clips["video"]).sum().to_dict() == {"a": 10.0, "b": 9.0}
