"""Warnings of workers reach the terminal of the user who started the run."""

import logging
from pathlib import Path

import pytest

from tests.support.deadlines import within
from tests.training.test_sweep import write_latents, write_params
from videomar.config import Params
from videomar.training.launch import RunSpec
from videomar.training.progress import Followed, RunFollower, copy_warnings
from videomar.training.run_folder import claim_run_folder
from videomar.training.sweep import train_runs


def test_warnings_of_the_first_worker_are_shown_once(
    params: Params, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "place/messages.txt"
    path.parent.mkdir()
    path.write_text("of another command\n")
    logger = logging.getLogger("videomar.training.any")
    with RunFollower([Followed(tmp_path, params.train, path, "run a: ")]):
        for rank in (0, 1):
            with copy_warnings(path, rank):
                logger.warning("stage %d ended", rank)
                logger.info("not a warning")
        logger.warning("outside")
    shown = [line for line in capsys.readouterr().err.splitlines() if line.startswith("run a: ")]
    assert shown == ["run a: stage 0 ended"]
    assert not path.exists()


@pytest.mark.slow
def test_user_sees_stages_batch_size_and_a_run_that_is_archived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On Ray, where all of it happens in other processes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    stage = {"num_latent_frames": 0, "steps": 4, "batch_size": "auto"}
    params = write_params(tmp_path / "params.yaml", curriculum=[stage])
    latents = write_latents(tmp_path / "latents", params)
    claim_run_folder(tmp_path / "out", {"train": {"seed": 1}})
    with within(480):
        train_runs(RunSpec(latents, tmp_path / "out", params, {}))
    shown = capsys.readouterr().err
    assert "out holds another run (" in shown
    assert "`videomar gc` removes it once it is old" in shown
    assert "stage 0: batch size 8 (by clips at once: 1: " in shown
    assert "stage 0 ended after step 4: steps" in shown
