import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.service_kills import REBOOT

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_retraining_completes_after_a_reboot_and_after_a_kill_at_random(tmp_path: Path) -> None:
    """Two rounds of the kill table, whose rules are in examination.py."""
    out = tmp_path / "kills.jsonl"
    command = [
        sys.executable,
        "-m",
        "tests.support.service_kills",
        "--rounds",
        "2",
        "--seed",
        "3",
        "--out",
        str(out),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(lines) == 2
    assert lines[0]["killed"] == REBOOT
