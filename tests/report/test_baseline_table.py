"""The table that puts the model between baselines and ceilings."""

from videomar.report.baseline_table import baseline_markdown, baseline_tables

REAL = {
    "real_clips": 40.0,
    "real_shots": 12.0,
    "real_psnr_gain_db": -1.64,
    "real_psnr_gain_db_low": -2.5,
    "real_psnr_gain_db_high": 0.1,
    "real_clips_won": 0.25,
    "real_clips_won_low": 0.0,
    "real_clips_won_high": 0.5,
    "real_motion_retained": 0.61,
    "real_flow_gain_db": 0.3,
    "real_flow_motion_retained": 0.0,
    "real_flow_motion_retained_low": 0.0,
    "real_flow_motion_retained_high": 0.0,
    "real_ceiling_gain_db": 1.8,
}


def test_model_stands_between_baselines_and_ceilings_beside_the_bar() -> None:
    (table,) = baseline_tables(REAL)
    assert table["title"] == "Real clips, continued"
    assert table["count"] == "40 clips of 12 shots"
    assert [row["name"] for row in table["rows"]] == [
        "the last given picture, repeated",
        "the last given picture, moved on",
        "**the model**",
        "the truth through the tokenizer",
    ]
    assert [row["model"] for row in table["rows"]] == [False, False, True, False]
    assert [name for name, _ in table["columns"]][-1] == "motion kept", "no VGG distance was measured"
    texts = [[f"{cell['text']} {cell['interval']}".strip() for cell in row["cells"]] for row in table["rows"]]
    assert texts == [
        ["0", "–", "0"],
        ["+0.30", "–", "0.00"],
        ["−1.64 (−2.50 to +0.10)", "25% (0% to 50%)", "0.61"],
        ["+1.80", "–", "–"],
    ]


def test_group_and_task_without_a_model_s_figure_have_no_table() -> None:
    assert baseline_tables({}) == baseline_tables({"real_clips": 3.0, "real_ceiling_gain_db": 1.0}) == []
    both = {
        **REAL,
        "sim_clips": 2.0,
        "sim_i2v_psnr_gain_db": 7.0,
        "sim_i2v_vgg": 0.1,
        "sim_i2v_repeat_vgg": 0.4,
    }
    titles = [table["title"] for table in baseline_tables(both)]
    assert titles == ["Real clips, continued", "Simulated clips, from one picture"]


def test_markdown_has_the_real_clips_alone() -> None:
    lines = baseline_markdown({**REAL, "sim_psnr_gain_db": 7.0})
    assert lines[0].startswith("| Real clips, continued | nearer to the truth than repeating, dB |")
    assert "| **the model** | −1.64 (−2.50 to +0.10) | 25% (0% to 50%) | 0.61 |" in lines
    assert not any("Simulated" in line for line in lines)
    assert baseline_markdown({"sim_psnr_gain_db": 7.0}) == []
