"""Damaged files cost themselves alone; the benchmark does the same with thousands."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.fuzz import fuzz, mutate


def test_damaged_files_cost_themselves_alone(tmp_path: Path) -> None:
    # Without HDR, whose tone map takes seconds to prepare.
    names = ["h264.mp4", "front.mp4", "parts.mp4", "alpha.mov", "fields.ts", "h264.mkv", "mpeg4.avi"]
    figures = fuzz(tmp_path, num_files=40, seed=1, num_workers=1, names=names)
    outcomes = figures["outcomes"]
    assert sum(figures["kinds"].values()) == 40
    assert sum(outcomes.values()) == 40 + figures["untouched_files"]
    assert outcomes["clips"] >= figures["untouched_files"]
    assert outcomes["clips"] < 40
    assert "timeout" not in outcomes


@pytest.mark.parametrize("seed", range(20))
def test_mutation_follows_from_the_seed(seed: int) -> None:
    data, other = bytes(range(256)) * 4, b"other" * 100
    kind, changed = mutate(data, other, np.random.default_rng(seed))
    assert mutate(data, other, np.random.default_rng(seed)) == (kind, changed)
    assert changed != data
