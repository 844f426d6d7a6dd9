"""The table of a fine-tuned model beside its parent."""

import dataclasses

import pytest

from tests.report.test_page import release
from tests.support.pipeline_outputs import EVIL, write_outputs
from videomar.config.layout import Layout
from videomar.report.family import Relative, family_table
from videomar.report.page import write_report

PARENT = Relative(
    name=f"videomar version 1 {EVIL}",
    role="parent",
    metrics={"real_psnr_gain_db": 0.25, "real_psnr_gain_db_low": -0.5, "real_psnr_gain_db_high": 1.0},
    differing=["clips: other ones"],
)


def test_figures_stand_side_by_side_with_their_intervals_and_nothing_is_made_up():
    scratch = Relative(name="videomar version 3", role="trained from random weights", metrics={})
    table = family_table({"real_psnr_gain_db": 1.5, "sim_ssim": 0.9}, [PARENT, scratch])
    assert [head["role"] for head in table["heads"]] == ["", "parent", "trained from random weights"]
    assert [row["texts"] for row in table["rows"]] == [
        ["+0.90", "–", "–"],
        ["+1.50", "+0.25 (-0.50 to +1.00)", "–"],
    ]
    assert family_table({"real_psnr_gain_db": 1.5}, []) == {}


@pytest.mark.slow
def test_report_shows_the_parent_and_why_its_figures_are_of_other_clips(tmp_path):
    write_outputs(tmp_path)
    about = dataclasses.replace(release(), relatives=[PARENT])
    write_report(tmp_path / "report.html", Layout(tmp_path), tmp_path / "CREDITS.txt", about)
    page = (tmp_path / "report.html").read_text()
    assert "Beside its parent" in page
    assert "was judged under other conditions: clips: other ones." in page
    assert EVIL not in page
