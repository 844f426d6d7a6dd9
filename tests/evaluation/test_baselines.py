"""What a clip is compared with: baselines made from the truth alone, and ceilings."""

import cv2
import numpy as np
import pandas as pd
import pytest

from tests.support.drawn_clips import moving_disc, noisy
from videomar.evaluation.aggregate import BENCH, summarise
from videomar.evaluation.baselines import continue_motion, with_baselines
from videomar.evaluation.generated import Clip, ClipKinds, psnr_db
from videomar.evaluation.score_clips import ClipScorer, on_bench

GIVEN, FRAMES = 5, 17


def kinds_of(truth: np.ndarray, group: str = "real", shot: int = 0, decoded_noise: float = 3) -> ClipKinds:
    """A clip whose tokenizer adds noise; with carry half of it; a model that adds more."""
    made = {
        "truth": (0, truth),
        "tokenizer": (0, noisy(truth, decoded_noise, shot)),
        "tokenizer_carry": (GIVEN, noisy(truth, decoded_noise / 2, shot)),
        "image_tokenizer_carry": (1, noisy(truth, decoded_noise / 2, shot)),
        "continuation": (GIVEN, noisy(truth, 10, shot)),
        "image": (1, noisy(truth, 12, shot)),
    }
    return {
        kind: Clip(f"{group}{shot}", group, kind, "", "", given, 8.0, frames, f"{group}-shot{shot}")
        for kind, (given, frames) in made.items()
    }


def panned(across: float, down: float) -> np.ndarray:
    """A picture without plain places behind a window that moves so many pixels a frame."""
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3)).astype(np.uint8)
    scene = cv2.GaussianBlur(noise, (0, 0), 2)
    scene = cv2.normalize(scene, None, 0, 255, cv2.NORM_MINMAX)
    at = [np.array([[1, 0, across * t - 32], [0, 1, down * t - 32]], np.float32) for t in range(FRAMES)]
    return np.stack([cv2.warpAffine(scene, each, (32, 32), flags=cv2.INTER_CUBIC) for each in at])


@pytest.mark.parametrize("velocity", [(1.0, 0.0), (0.0, -0.7), (-0.5, 0.3), (0.0, 0.0)])
def test_constant_motion_continues_a_pan(velocity: tuple[float, float]) -> None:
    truth = panned(*velocity)
    moved = continue_motion(truth[:GIVEN], FRAMES - GIVEN)
    inside = (slice(None), slice(14, 18), slice(14, 18))  # nothing has come in from outside yet
    repeated = np.repeat(truth[GIVEN - 1 : GIVEN], FRAMES - GIVEN, axis=0)
    gain = psnr_db(moved[inside], truth[GIVEN:][inside]) - psnr_db(repeated[inside], truth[GIVEN:][inside])
    assert gain > 5 if any(velocity) else gain == 0


def test_constant_motion_continues_a_body_on_plain_ground_and_repeats_still_or_plain_pictures() -> None:
    truth = moving_disc(FRAMES, speed=1)
    moved = continue_motion(truth[:GIVEN], FRAMES - GIVEN)
    repeated = np.repeat(truth[GIVEN - 1 : GIVEN], FRAMES - GIVEN, axis=0)
    assert psnr_db(moved, truth[GIVEN:]) > psnr_db(repeated, truth[GIVEN:]) + 10
    assert np.array_equal(continue_motion(truth[[3, 3, 3]], 4), truth[[3] * 4])
    plain = np.full((2, 4, 5, 3), 80, np.uint8)
    assert np.array_equal(continue_motion(plain, 3), plain[[0] * 3])


def test_baselines_see_nothing_after_the_given_pictures() -> None:
    kinds = kinds_of(moving_disc(FRAMES, speed=1, textured=True))
    other = kinds["truth"].frames.copy()
    other[GIVEN:] = 0
    changed = {**kinds, "truth": Clip(**{**fields_of(kinds["truth"]), "frames": other})}
    found, again = (with_baselines(each) for each in (kinds, changed))
    for kind in ("continuation_repeat", "continuation_flow", "continuation_decoded_repeat"):
        assert np.array_equal(found[kind].frames, again[kind].frames), kind
    assert "image_flow" not in found, "one picture has no motion"
    assert np.array_equal(found["image_decoded_repeat"].frames[3], kinds["tokenizer"].frames[0])


def fields_of(clip: Clip) -> dict[str, object]:
    return {name: getattr(clip, name) for name in Clip.__dataclass_fields__}


def test_summary_has_each_baseline_and_ceiling_above_the_pixel_repeat_with_intervals() -> None:
    clips = [
        kinds_of(moving_disc(FRAMES, speed=0.6 + n / 8, textured=True), group, n)
        for group in ("real", "simulated")
        for n in range(3)
    ]
    rows = ClipScorer(None, on_bench=on_bench(clips, frozenset())).table(clips)
    metrics = summarise(rows)
    kinds = rows.set_index(["kind", "clip_id"])
    for name, kind in BENCH.items():
        gain = metrics[f"real_{name}{'psnr_' if name in ('', 'i2v_') else ''}gain_db"]
        own = kinds.loc[kind].filter(like="real", axis=0)
        assert gain == pytest.approx((own["psnr_db"] - own["repeat_psnr_db"]).mean())
        assert metrics[f"real_{name}clips_won"] == (own["gain_db"] > 0).mean()
        for end in ("gain_db", "clips_won", "motion_retained"):
            key = f"real_{name}{'psnr_' if end == 'gain_db' and name in ('', 'i2v_') else ''}{end}"
            assert metrics[f"{key}_low"] <= metrics[key] <= metrics[f"{key}_high"], key
        assert 0 <= metrics[f"real_{name}clips_won_low"] <= metrics[f"real_{name}clips_won_high"] <= 1
    assert metrics["real_ceiling_gain_db"] < metrics["real_ceiling_carry_gain_db"]
    # The ceiling of clips from one picture counts more frames, against a picture farther away.
    image = kinds.loc["image_tokenizer"].loc["real0"]
    truth = clips[0]["truth"].frames
    assert image["psnr_db"] == pytest.approx(psnr_db(clips[0]["tokenizer"].frames[1:], truth[1:]))
    assert "sim_motion_retained" not in metrics, "no simulated clip was chosen"
    assert pd.isna(kinds.loc["image_tokenizer"].loc["simulated0"]["motion_retained"])


def test_model_that_repeats_the_given_picture_wins_no_clip_and_has_its_light() -> None:
    """Even where the truth gets lighter at once: what counts is the last picture that was given."""
    truth = panned(0.5, 0).astype(np.int16)
    truth[GIVEN:] += 40
    kinds = kinds_of(truth.clip(0, 255).astype(np.uint8))
    repeated = np.repeat(kinds["truth"].frames[GIVEN - 1 : GIVEN], FRAMES - GIVEN, axis=0)
    frames = np.concatenate([kinds["truth"].frames[:GIVEN], repeated])
    kinds = {**kinds, "continuation": Clip(**{**fields_of(kinds["continuation"]), "frames": frames})}
    rows = ClipScorer(None, frozenset({"real0"}), on_bench=on_bench([kinds], frozenset())).table([kinds])
    row = rows.set_index("kind").loc["continuation"]
    assert (row["gain_db"], row["exposure_shift"]) == (0, 0)
    assert summarise(rows)["real_clips_won"] == 0


def test_step_from_the_given_to_the_first_generated_picture_counts_as_motion() -> None:
    kinds = kinds_of(panned(1, 0))
    truth = kinds["truth"].frames
    frames = np.concatenate(
        [truth[: GIVEN + 1], np.repeat(truth[GIVEN : GIVEN + 1], FRAMES - GIVEN - 1, axis=0)]
    )
    kinds = {**kinds, "continuation": Clip(**{**fields_of(kinds["continuation"]), "frames": frames})}
    rows = ClipScorer(None, frozenset({"real0"}), on_bench=on_bench([kinds], frozenset())).table([kinds])
    motion = rows.set_index("kind").loc["continuation", "motion_retained"]
    assert motion == pytest.approx(1 / (FRAMES - GIVEN), rel=0.2)
