import pytest

from benchmarks import metadata
from benchmarks.metadata_parts import PARTS, simulated_candidates


def test_growth_tells_linear_from_quadratic_and_marks_what_is_extrapolated():
    figures = {}
    for clips in (100, 1000):
        for name in PARTS:
            figures |= {f"{name}_{clips}_cpu_s": clips / 1e3, f"{name}_{clips}_peak_gb": 0.3 + clips / 1e4}
        figures[f"duplicates_{clips}_cpu_s"] = (clips / 1e3) ** 2
    grown = metadata.growth(figures, 100, 1000)
    assert grown["encode_exponent"] == pytest.approx(1)
    assert grown["duplicates_exponent"] == pytest.approx(2)
    assert grown["encode_1000000_extrapolated_cpu_s"] == pytest.approx(1e3)
    assert grown["duplicates_1000000_extrapolated_cpu_s"] == pytest.approx(1e6)
    assert grown["encode_1000000_extrapolated_peak_gb"] == pytest.approx(100.3)
    assert not [name for name in metadata.growth(figures, 100, 1000) if "_1000_" in name]


def test_simulated_rows_are_as_wide_as_real_ones_and_some_look_alike():
    rows = simulated_candidates(2000)
    assert len({row.clip_id for row in rows}) == 2000
    assert {row.group for row in rows} == {"real", "simulated"}
    assert all(len(row.thumbnail) == 3066 and len(row.caption) == 64 for row in rows)
    looks = [row.fingerprint[24:] for row in rows]
    assert 10 <= 2000 - len(set(looks)) <= 20


@pytest.mark.slow
def test_every_part_is_measured(tmp_path):
    figures = metadata.measure(tmp_path, 400)
    for name in PARTS:
        assert figures[f"{name}_400_s"] > 0
        assert 0.1 < figures[f"{name}_400_peak_gb"] < 2
    assert 3000 < figures["ledger_400_bytes_a_clip"] < 4000
    assert figures["latents_400_bytes_a_clip"] > 80
