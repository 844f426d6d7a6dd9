"""A registered version that several tests look at."""

from pathlib import Path

import pytest
import yaml

from tests.support.pipeline_outputs import working_in, write_outputs
from videomar.registry import release

OUTPUTS = ("data/latents", "checkpoints/videomar", "checkpoints/tokenizer", "metrics/train.json")


@pytest.fixture(scope="session")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree whose newest checkpoint is registered as version 1: once, because that takes seconds."""
    root = tmp_path_factory.mktemp("trace")
    with working_in(root):
        write_outputs(root)
        outs = [{"path": path, "hash": "md5", "md5": f"{number:032x}"} for number, path in enumerate(OUTPUTS)]
        (root / "dvc.lock").write_text(yaml.safe_dump({"stages": {"all": {"outs": outs}}}))
        (root / "takedowns.csv").write_text("video_sha256,video,reason,removed_at\n")
        (root / "data/raw/simulated/a.txt").write_text("a caption")
        assert release.register() == "1"
    return root
