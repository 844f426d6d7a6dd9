"""Stage `train`: the curriculum on Ray Train."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from videomar.stage import Stage
from videomar.tracking.lineage import git_state
from videomar.training.launch import train_on_ray
from videomar.training.log import LOG_FILE


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the stage; paths come from dvc.yaml."""
    with Stage("train", arguments, "latents", "out", "plot") as stage:
        path = stage.path
        stage.metrics = train_on_ray(path.latents, path.out, stage.params, git_state(Path.cwd()))
        path.plot.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path.out / LOG_FILE, path.plot)


if __name__ == "__main__":
    main()
