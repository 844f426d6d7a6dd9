import pytest

from benchmarks import latents


def test_all_readers_are_measured_on_the_same_clips(tmp_path, monkeypatch):
    monkeypatch.setattr(latents, "ROUNDS", 1)
    monkeypatch.setattr(latents, "EPOCHS", 2)
    figures, ratios = latents.measure_reading(tmp_path, 48)
    assert {"vs_memmap", "vs_pt_files"} <= set(ratios)
    for name, ratio in ratios.items():
        theirs = figures[f"{name.removeprefix('vs_')}_gb_per_s"]
        assert ratio == pytest.approx(figures["ours_gb_per_s"] / theirs)


def test_cost_of_one_changed_clip_is_near_that_of_one(tmp_path):
    project = latents.Project(tmp_path)
    project.encode(100, 0.0)
    assert project.encode(100, 1.0, changed=1) < 2 * 1.0 + 5
