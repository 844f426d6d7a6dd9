"""The README says what the committed metrics say."""

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
