import math

import pytest

from videomar.errors import DataError
from videomar.evaluation.vbench.dimensions import DIMENSIONS, aggregate

# VBench-I2V as published, in percent: total, quality, I2V; dynamic, aesthetic, imaging, camera, subject and
# background of the video against the picture. Three dimensions of quality are not in the table.
PUBLISHED = {
    "VideoMAR": (84.8, 75.6, 94.0, 11.0, 55.8, 62.3, 21.6, 97.9, 98.4),
    "Cosmos I2V": (84.2, 75.8, 92.6, 18.7, 55.8, 59.9, 25.4, 96.0, 97.4),
    "URSA": (86.2, 79.8, 92.6, 65.3, 57.4, 64.2, 37.6, 96.1, 96.5),
    "MAGI-1": (89.3, 82.4, 96.1, 68.2, 64.7, 69.7, 50.9, 98.4, 99.0),
}
NAMES = (
    "dynamic_degree",
    "aesthetic_quality",
    "imaging_quality",
    "camera_motion",
    "i2v_subject",
    "i2v_background",
)
UNPUBLISHED = ("subject_consistency", "background_consistency", "motion_smoothness")


def row(model: str) -> dict[str, float]:
    return {name: value / 100 for name, value in zip(NAMES, PUBLISHED[model][3:], strict=True)}


@pytest.mark.parametrize("model", PUBLISHED)
def test_i2v_score_is_the_published_one(model: str) -> None:
    """All three of its dimensions are published; each was rounded to 0.1, which moves the score by 0.12."""
    score = aggregate(row(model)).i2v
    assert not score.partial
    assert score.value is not None
    assert 100 * score.value == pytest.approx(PUBLISHED[model][2], abs=0.12)
    assert score.low == score.high == pytest.approx(score.value)


@pytest.mark.parametrize("model", PUBLISHED)
def test_quality_score_without_three_dimensions_is_bounded_and_named(model: str) -> None:
    score = aggregate(row(model)).quality
    assert score.missing == UNPUBLISHED
    assert 100 * score.low < PUBLISHED[model][1] < 100 * score.high
    assert "partial, between" in str(score)
    assert "motion_smoothness" in str(score)
    assert aggregate(row(model)).total.missing == UNPUBLISHED


@pytest.mark.parametrize("model", PUBLISHED)
def test_total_is_the_published_one_once_the_quality_is(model: str) -> None:
    """The three missing values that give the published quality give the published total."""
    total, quality = PUBLISHED[model][:2]
    bounds = aggregate(row(model)).quality
    share = (quality / 100 - bounds.low) / (aggregate_at(row(model), 1.0) - bounds.low)
    scores = aggregate(row(model) | filled(share))
    assert scores.quality.value is not None
    assert scores.total.value is not None
    assert 100 * scores.quality.value == pytest.approx(quality, abs=1e-9)
    assert 100 * scores.total.value == pytest.approx(total, abs=0.12)
    assert 0 < share < 1


def filled(share: float) -> dict[str, float]:
    """The unpublished dimensions at one place of their ranges."""
    ranges = {d.key: (d.lowest, d.highest) for d in DIMENSIONS if d.key in UNPUBLISHED}
    return {key: low + share * (high - low) for key, (low, high) in ranges.items()}


def aggregate_at(values: dict[str, float], share: float) -> float:
    quality = aggregate(values | filled(share)).quality.value
    assert quality is not None
    return quality


def test_a_perfect_model_has_all_it_can() -> None:
    scores = aggregate({dimension.key: 1.0 for dimension in DIMENSIONS})
    # Motion smoothness ends at 0.9975: what is above counts as more than 1, as in the benchmark.
    assert scores.i2v.value == 1
    assert scores.quality.value == pytest.approx((5.5 + (1 - 0.9975) / (0.9975 - 0.706)) / 5.5)
    assert not scores.total.partial


def test_a_missing_dimension_is_never_a_lower_score() -> None:
    whole = {dimension.key: 0.8 for dimension in DIMENSIONS}
    without = {key: value for key, value in whole.items() if key != "i2v_subject"}
    as_nan = whole | {"i2v_subject": math.nan}
    full, partial = aggregate(whole).i2v, aggregate(without).i2v
    assert partial.missing == ("i2v_subject",)
    assert partial == aggregate(as_nan).i2v
    assert full.value is not None
    assert partial.low < full.value < partial.high
    assert partial.value is not None
    assert partial.value > partial.low
    none = aggregate({"dynamic_degree": 1.0})
    assert (none.i2v.value, none.i2v.low, none.total.value) == (None, 0.0, None)


def test_percents_and_stand_ins_are_refused() -> None:
    with pytest.raises(DataError, match="divide percents by 100"):
        aggregate({"i2v_subject": 97.9})
    with pytest.raises(DataError, match="stand-ins do not aggregate"):
        aggregate({"subject_fidelity": 0.9})
