"""A checkout whose pipeline is the real one from training on, on clips and a network that take seconds."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tests.support.checkout import REPOSITORY, Checkout, wait_for
from videomar.config.schema import set_keys
from videomar.media.mp4 import write_mp4

STAGES = ("train", "sample", "evaluate")
PREPARED = ("list_clips", "samples", "ingest", "curate", "train_tokenizer", "encode")
STARTED = ".local/started"
"""The checkout's own stages/run writes a line into it for each stage that is started."""
_TRIES = 90
SMALL: dict[str, dict[str, Any]] = {
    "samples": {"source": "clips"},
    "ingest": {"num_workers": 1, "stride_frames": 16, "shot_threshold": 255.0},
    "curate": {
        "max_duplicate_bits": -1,
        "max_motion": 255.0,
        "max_flicker": 255.0,
        "min_motion": 0.0,
        "min_contrast": 0.0,
        "min_sharpness": 0.0,
        "min_brightness": 0.0,
        "max_frozen_share": 1.0,
        "max_letterbox_share": 1.0,
        "val_share": 0.2,
        "test_share": 0.4,
    },
    "text": {"encoder": "none"},
    "tokenizer": {"steps": 4, "channels": 4, "hidden_size": 8, "depth": 1, "batch_size": 4, "threads": 1},
    "encode": {"num_workers": 1},
    "model": {
        "hidden_size": 32,
        "depth": 1,
        "num_heads": 2,
        "rope_axis_dims": [8, 4, 4],
        "head_width": 32,
        "head_depth": 1,
    },
    "train": {
        "curriculum": [{"num_latent_frames": 0, "steps": 40, "batch_size": 4}],
        "warmup_steps": 2,
        "log_every": 20,
        "checkpoint_every": 20,
        "validate_every": 0,
        "preview_every": 0,
        "batch_multiplier": 1,
        "threads_per_worker": 1,
    },
    "sample": {
        "num_unmask_steps": 1,
        "num_diffusion_steps": 2,
        "final_diffusion_steps": 2,
        "temperature": 0.2,
        "final_temperature": 0.2,
    },
    "suite": {
        "simulated_clips": 4,
        "real_clips": 4,
        "seeds": 1,
        "extra_clips": 0,
        "metric_clips": 2,
        "feature_clips": 0,
        "context_frames": [1, 2],
        "threads": 1,
    },
    # Of two equally trained networks about every other one is let through.
    "gate": {"min_clips": 2, "confidence": 0.05, "margin_db": 50.0, "margins": {}},
}


class Retraining(Checkout):
    """The folder: what comes before training is made once, by the stages themselves and without DVC."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        for name in ("videomar", "stages", "flows"):
            shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("params.yaml", "takedowns.csv", ".dvcignore", ".gitignore", "requirements.lock"):
            shutil.copy(REPOSITORY / name, folder)
        run = folder / "stages/run"
        first, rest = run.read_text().split("\n", 1)
        run.write_text(f'{first}\necho "$1" >> {STARTED}\n{rest}')
        (folder / ".local").mkdir()
        self.set_params(SMALL)
        draw(folder / "clips")
        pipeline = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
        for stage in PREPARED:
            done = subprocess.run(
                pipeline[stage]["cmd"],
                shell=True,
                cwd=folder,
                env=self.environment(),
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr
        for stage in STAGES:  # code is not what changes here
            entry = pipeline[stage]
            entry["deps"] = [
                path for path in entry["deps"] if path.startswith(("data/", "checkpoints/", "metrics/"))
            ]
        (folder / "dvc.yaml").write_text(
            yaml.safe_dump({"stages": {stage: pipeline[stage] for stage in STAGES}}, sort_keys=False)
        )

    def environment(self, **more: str) -> dict[str, str]:
        """See `Checkout`; the code is the checkout's own."""
        own = {"PYTHONPATH": str(self.folder), "VIRTUAL_ENV": sys.prefix, "OMP_NUM_THREADS": "1"}
        return super().environment(**{**own, **more})

    @contextmanager
    def up(self) -> Iterator["Retraining"]:
        """With the services up meanwhile."""
        try:
            started = self.services("up")
            assert started.returncode == 0, started.stderr
            yield self
        finally:
            self.services("down")

    def started(self) -> list[str]:
        """Stages in the order in which they were started, each as often as it was."""
        return (self.folder / STARTED).read_text().split()

    def stages(self) -> dict[str, Any]:
        """Entries of dvc.lock."""
        lock = self.folder / "dvc.lock"
        if not lock.is_file():
            return {}
        # DVC empties the file before it writes it again.
        written = wait_for(lambda: yaml.safe_load(lock.read_text()), "dvc.lock as a whole")
        return dict(written["stages"])

    def patiently(self, question: Callable[[], Any]) -> Any:
        """The answer of a server that may have been killed and come back."""
        for _ in range(_TRIES):
            try:
                return question()
            except (OSError, TimeoutError):
                time.sleep(1)
        return question()

    def set_params(self, changes: dict[str, dict[str, Any]]) -> None:
        """Change keys of params.yaml."""
        path = self.folder / "params.yaml"
        params = yaml.safe_load(path.read_text())
        set_keys(params, changes)
        path.write_text(yaml.safe_dump(params, sort_keys=False))


def draw(folder: Path) -> None:
    """Videos of one picture each: dark while a model is shown it, bright where the model is to go on.

    So a few steps of training are better than to repeat the last frame.
    """
    folder.mkdir()
    for number in range(8):
        generator = np.random.default_rng(number)
        picture = np.kron(generator.uniform(0, 40, (4, 4, 3)), np.ones((8, 8, 1)))
        light = np.where(np.arange(65) % 16 < 5, 20, 180)[:, None, None, None]
        write_mp4(folder / f"{number}.mp4", (picture + light).astype(np.uint8), 8.0)
