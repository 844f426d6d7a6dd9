import dataclasses
import time

from videomar.config import CurriculumStage
from videomar.files import LOG_FILE, write_csv
from videomar.training.progress import Followed, RunFollower, is_due, line


def hundred_steps(params):
    stages = [CurriculumStage(num_latent_frames=0, steps=steps, batch_size=4) for steps in (25, 75)]
    return dataclasses.replace(params.train, curriculum=tuple(stages))


def test_quiet_run_says_a_line_for_each_stage_and_each_tenth(params):
    settings, shown, steps = hundred_steps(params), None, []
    for step in range(1, 101):
        row = {"step": step, "stage": int(step > 25), "loss": 1.0}
        if is_due(row, shown, settings):
            shown = row
            steps.append(step)
    assert steps == [1, 11, 21, 26, 36, 46, 56, 66, 76, 86, 96, 100]


def test_line_tells_stage_step_loss_rate_and_time_left(params):
    row = {"step": 40, "stage": 1, "loss": 0.51234, "val_loss": 0.6}
    assert line(row, hundred_steps(params), 0.5) == (
        "training: stage 2 of 2, step 40 of 100, loss 0.512, val_loss 0.600, 0.5 steps/s, 2 min left"
    )
    assert "left" not in line(row, hundred_steps(params), 0.0)


def test_follower_shows_new_rows_of_the_log_and_none_of_before(params, tmp_path, capsys):
    write_csv(tmp_path / LOG_FILE, [{"step": 99, "stage": 1, "loss": 9.0}])
    with RunFollower([Followed(tmp_path, hundred_steps(params), tmp_path / "messages.txt")]):
        time.sleep(0.05)
        write_csv(tmp_path / LOG_FILE, [{"step": 20, "stage": 0, "loss": 2.0}])
    shown = capsys.readouterr().err
    assert shown.splitlines() == ["training: stage 1 of 2, step 20 of 100, loss 2.000"]
