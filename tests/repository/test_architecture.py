"""The house's laws about files and imports."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIBRARY = sorted((ROOT / "videomar").rglob("*.py"))
BUDGETS = {"videomar": 400, "stages": 200, "flows": 200}


def test_arrows_point_down():
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("room", BUDGETS)
def test_files_keep_their_budget(room):
    lengths = {path.name: len(path.read_text().splitlines()) for path in (ROOT / room).rglob("*.py")}
    assert {name: lines for name, lines in lengths.items() if lines > BUDGETS[room]} == {}


def test_functions_keep_their_budget():
    long = {}
    for path in LIBRARY:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > (120 if node.name == "train" else 60):
                    long[f"{path.name}:{node.name}"] = lines
    assert long == {}


def test_no_room_is_called_utils():
    forbidden = {"utils", "helpers", "common", "misc", "base", "manager"}
    assert not forbidden & {path.stem for path in ROOT.glob("[vsf]*/**/*.py")}


def test_model_and_loop_need_only_the_bare_libraries():
    """They must import on a GPU machine that has nothing else."""
    code = (
        "import sys\n"
        "import videomar.training.loop, videomar.model.videomar, videomar.checkpoint, videomar.config\n"
        "heavy = {'ray', 'mlflow', 'prefect', 'dvc', 'pydantic', 'yaml', 'cv2', 'pandas', 'transformers'}\n"
        "heavy.add('diffusers')\n"
        "print(sorted(heavy & {name.split('.')[0] for name in sys.modules}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "word", [".cuda(", "weights_only=False", "pickle.load", "shell=True", "torch.manual_seed("]
)
def test_forbidden_calls_do_not_occur(word):
    assert [path.name for path in LIBRARY if word in path.read_text()] == []
