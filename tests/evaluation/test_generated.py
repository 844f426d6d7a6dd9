import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stages import evaluate
from tests.support.pipeline_outputs import evaluate as evaluate_small
from tests.support.pipeline_outputs import write_generated
from videomar.errors import DataError
from videomar.evaluation.aggregate import summarise
from videomar.evaluation.generated import (
    PSNR_CAP_DB,
    psnr_by_frame,
    psnr_db,
    read_generated,
    repeat_last,
)


def plain_psnr(a: np.ndarray, b: np.ndarray) -> float:
    errors = [(float(x) - float(y)) ** 2 for x, y in zip(a.ravel().tolist(), b.ravel().tolist(), strict=True)]
    mean = math.fsum(errors) / len(errors)
    return min(PSNR_CAP_DB, 20 * math.log10(255) - 10 * math.log10(mean)) if mean else PSNR_CAP_DB


@pytest.fixture(scope="module")
def scored(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[dict[str, float], pd.DataFrame, pd.DataFrame, Path]:
    tmp_path = tmp_path_factory.mktemp("scored")
    generated, plot = tmp_path / "generated.parquet", tmp_path / "plot.csv"
    write_generated(generated, {"simulated": 3, "real": 2})
    figures = evaluate_small(generated, plot)
    return figures, pd.read_parquet(tmp_path / "evaluation.parquet"), pd.read_csv(plot), generated


@pytest.mark.parametrize("spread", [0, 1, 40, 255])
def test_psnr_equals_plain_loop(spread: int) -> None:
    rng = np.random.default_rng(spread)
    a = rng.integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    b = np.clip(a.astype(int) + rng.integers(-spread, spread + 1, a.shape), 0, 255).astype(np.uint8)
    assert psnr_db(a, b) == pytest.approx(plain_psnr(a, b), abs=1e-9)
    assert psnr_by_frame(a, b) == pytest.approx(
        [plain_psnr(x, y) for x, y in zip(a, b, strict=True)], abs=1e-9
    )


def test_psnr_is_symmetric_capped_and_does_not_wrap() -> None:
    black, white = np.zeros((1, 2, 2, 3), np.uint8), np.full((1, 2, 2, 3), 255, np.uint8)
    assert psnr_db(black, black) == PSNR_CAP_DB == 60
    assert psnr_db(black, white) == psnr_db(white, black) == 0


def test_repeat_last_keeps_the_context_and_freezes_the_rest() -> None:
    truth = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1).repeat(3, axis=3)
    assert repeat_last(truth, 2)[:, 0, 0, 0].tolist() == [0, 1, 1, 1, 1, 1]
    assert truth[-1, 0, 0, 0] == 5


def test_evaluation_counts_only_generated_frames(scored: tuple) -> None:
    _, rows, _, generated = scored
    for kinds in read_generated(generated):
        truth, made = kinds["truth"].frames, kinds["image"].frames
        row = rows[(rows["clip_id"] == kinds["truth"].clip_id) & (rows["kind"] == "image")].iloc[0]
        frozen = np.repeat(truth[:1], len(truth) - 1, axis=0)
        assert row["psnr_db"] == pytest.approx(plain_psnr(made[1:], truth[1:]))
        assert row["gain_db"] == pytest.approx(
            plain_psnr(made[1:], truth[1:]) - plain_psnr(frozen, truth[1:])
        )


def test_evaluation_figures_are_means_over_clips(scored: tuple) -> None:
    figures, rows, _, _ = scored
    continuation = rows[(rows["group"] == "real") & (rows["kind"] == "continuation")]
    assert figures["real_psnr_gain_db"] == pytest.approx(continuation["gain_db"].mean())
    assert figures["sim_psnr_gain_db"] > 0 > figures["sim_psnr_gain_untrained_db"]
    assert figures["sim_prompt_margin_db"] == pytest.approx(
        figures["sim_i2v_psnr_db"] - figures["sim_i2v_wrong_prompt_psnr_db"]
    )
    assert (figures["sim_clips"], figures["real_clips"]) == (3, 2)
    summary = summarise(rows)
    assert {key: figures[key] for key in summary} == pytest.approx(summary)


def test_evaluation_has_no_keys_of_an_absent_group(tmp_path: Path) -> None:
    write_generated(tmp_path / "generated.parquet", {"real": 1})
    figures = evaluate_small(tmp_path / "generated.parquet", tmp_path / "plot.csv")
    assert not [key for key in figures if key.startswith("sim_")]
    assert "real_psnr_gain_db" in figures


def test_evaluation_plot_starts_after_the_context_and_ends_with_the_clip(scored: tuple) -> None:
    _, _, plot, _ = scored
    continuation = plot[(plot["group"] == "simulated") & (plot["kind"] == "continuation")]
    assert continuation["frame"].tolist() == [5, 6, 7, 8]
    assert continuation["repeat_db"].is_monotonic_decreasing


def test_evaluate_stage_writes_metrics(tmp_path: Path) -> None:
    write_generated(tmp_path / "generated.parquet", {"simulated": 2})
    names = {"generated": "generated.parquet", "out": "e.parquet", "plot": "p.csv", "metrics": "m.json"}
    names |= {"details": "e.json", "sampled": "none.json"}
    evaluate.main([part for key, name in names.items() for part in (f"--{key}", str(tmp_path / name))])
    assert "sim_psnr_gain_db" in (tmp_path / "m.json").read_text()


@pytest.mark.parametrize("content", [None, b"no parquet"])
def test_unreadable_generated_clips_are_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "generated.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"generated.parquet.*dvc repro sample"):
        read_generated(path)
