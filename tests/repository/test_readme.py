"""The README says what the committed metrics say."""

import json
import subprocess
from pathlib import Path

from docs.update_readme import figures_table

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
