"""The README says what the committed metrics say."""

import json
import re
import subprocess
from pathlib import Path

from PIL import Image

from docs.update_readme import figures_table, write_pictures
from tests.support.pipeline_outputs import FRAMES, write_generated
from videomar.evaluation.generated import read_generated
from videomar.report.galleries import gain_over_repeat

ROOT = Path(__file__).parents[2]


def git(*arguments):
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_figures_are_those_of_the_committed_metrics(tmp_path):
    """Of the commit, because a run in this checkout writes its own."""
    for path in git("ls-tree", "--name-only", "HEAD", "metrics/").split():
        (tmp_path / Path(path).name).write_text(git("show", f"HEAD:{path}"))
    assert figures_table(tmp_path) in git("show", "HEAD:README.md")


def test_real_figures_are_given_with_their_interval(tmp_path):
    stages = {
        "evaluate": {
            "real_psnr_gain_db": -4.44,
            "real_psnr_gain_db_low": -6.0,
            "real_psnr_gain_db_high": -3.1,
        }
    }
    stages["evaluate"] |= {"real_clips": 17, "real_shots": 5, "sim_psnr_gain_db": 6.5}
    for name in ("evaluate", "train_tokenizer"):
        cost = {"seconds": 60, "peak_memory_gb": 1.0}
        (tmp_path / f"{name}.json").write_text(json.dumps(stages.get(name, {}) | cost))
    table = figures_table(tmp_path)
    assert "above repeating the last | -4.4 (-6.0 to -3.1) |" in table
    assert "above repeating the last | 6.5 |" in table
    assert "17 clips of 5 shots" in table


def test_pictures_of_real_clips_are_the_best_the_median_and_the_worst(tmp_path):
    write_generated(tmp_path / "generated.parquet", {"simulated": 4, "real": 5})
    words = write_pictures(tmp_path / "generated.parquet", tmp_path)
    real = [k for k in read_generated(tmp_path / "generated.parquet") if k["truth"].group == "real"]
    gains = sorted(f"{gain_over_repeat(kinds, 'image'):+.1f}" for kinds in real)
    gains.sort(key=float, reverse=True)
    expected = ", ".join(f"{rank} {gains[n]} dB" for n, rank in ((0, "best"), (2, "median"), (4, "worst")))
    assert words == f"{expected}, of 5".replace("-", "\N{MINUS SIGN}")
    for name in ("clips", "real", "real_continued"):
        with Image.open(tmp_path / f"{name}.webp") as picture:
            assert (picture.format, picture.n_frames) == ("WEBP", FRAMES)


def test_moving_pictures_of_the_readme_load_fast():
    names = re.findall(r"\]\((docs/images/[\w.]+)\)", (ROOT / "README.md").read_text("utf-8"))
    moving = [ROOT / name for name in names if name.endswith((".webp", ".gif"))]
    assert len(moving) >= 2
    assert sum(path.stat().st_size for path in moving) < 1_000_000
