import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_killed_runs_end_with_the_bits_of_one_that_was_not_killed():
    """The kill table, each line of it, and one round at random with each number of workers."""
    command = [sys.executable, "-m", "tests.support.training_kills", "--random", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    *lines, across = json.loads(done.stdout.splitlines()[-1])
    assert len(lines) >= 25
    assert [line for line in lines if not line["equal"]] == [], done.stdout
    assert all(line["kills"] for line in lines if line["where"] != "at random")
    assert across["largest_difference"] < 1e-3
