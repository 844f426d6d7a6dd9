"""Registered versions go on loading after our modules have moved.

`fixtures/registered_before_serving` is a version that commit e2b32fb registered, before `videomar.serving`
existed: an untrained model for clips of 9 frames and 16 pixels. Users have such versions, so the files in it
are never edited.
"""

import ast
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

import videomar
from tests.registry.test_pyfunc import FRAMES, num_frames
from videomar import serving
from videomar.files import sha256_of
from videomar.registry.candidate import STORED_CODE, input_example
from videomar.sampling.generate import ClipGenerator

BEFORE_SERVING = Path(__file__).parents[1] / "fixtures/registered_before_serving"
STORED_SHA256 = "64b59a75e764e1cd02dc743d111436402e4969929aef9725c5c5a57ab0eee49b"
# What the stored code of such a version imports. When one of these modules moves, one with the old name stays
# and re-exports these names.
STORED_IMPORTS = {
    "videomar.config": {"load_params"},
    "videomar.data.mp4": {"write_mp4"},
    "videomar.data.pictures": {"read_picture"},
    "videomar.errors": {"DataError"},
    "videomar.sampling.animate": {"ModelFiles", "Wish", "animate"},
}
PREDICT = """
import json, sys
import mlflow, pandas
package, folder, table, moved = sys.argv[1:]
model = mlflow.pyfunc.load_model(folder)
print(model.predict(pandas.DataFrame(json.loads(table)))["video"][0])
assert sys.modules["videomar"].__file__ == package
assert not set(moved.split()) & set(sys.modules)
"""


def imports_of(code: Path) -> dict[str, set[str]]:
    """Modules that a file imports, each with the names it takes from there."""
    found: dict[str, set[str]] = {}
    for node in ast.walk(ast.parse(code.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name: set() for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            found.setdefault(str(node.module), set()).update(alias.name for alias in node.names)
    return found


def move_modules(package: Path, names: list[str]) -> None:
    """Move modules of a copy of our package to new names, and rewrite all that names them."""
    for number, name in enumerate(names):
        (package.parent / f"{name.replace('.', '/')}.py").rename(package / f"moved_{number}.py")
    for path in package.rglob("*.py"):
        text = path.read_text()
        for number, name in enumerate(names):
            text = re.sub(rf"\b{re.escape(name)}\b", f"videomar.moved_{number}", text)
        path.write_text(text)


def test_version_registered_before_serving_loads_and_predicts(tmp_path: Path) -> None:
    model = mlflow.pyfunc.load_model(str(shutil.copytree(BEFORE_SERVING, tmp_path / "model")))
    assert num_frames(model.predict(input_example())["video"][0]) == FRAMES


def test_version_registered_before_serving_is_as_it_was_stored() -> None:
    """Whoever renames a module throughout the repository must not rename it here."""
    files = sorted(path for path in BEFORE_SERVING.rglob("*") if path.is_file())
    assert sha256_of(*files) == STORED_SHA256
    found = imports_of(BEFORE_SERVING / "pyfunc.py")
    assert {name: names for name, names in found.items() if name.startswith("videomar")} == STORED_IMPORTS


@pytest.mark.parametrize("name", STORED_IMPORTS)
def test_module_that_stored_code_imports_has_the_names(name: str) -> None:
    assert STORED_IMPORTS[name] <= set(dir(importlib.import_module(name)))


def test_code_stored_now_imports_nothing_of_ours_but_serving() -> None:
    assert imports_of(STORED_CODE) == {"mlflow": set(), "videomar.serving": {"VideomarModel"}}


def test_version_registered_now_survives_moves(tmp_path: Path) -> None:
    kept = BEFORE_SERVING / "artifacts"
    artifacts = {path.stem: str(path) for path in kept.iterdir()}
    model, package = tmp_path / "model", tmp_path / "videomar"
    mlflow.pyfunc.save_model(
        model, python_model=str(STORED_CODE), artifacts=artifacts, pip_requirements=["mlflow"]
    )
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(videomar.__file__).parent, package, ignore=ignored)
    moved = [code.__module__ for code in (serving.write_mp4, serving.read_picture, ClipGenerator)]
    move_modules(package, moved)

    arguments = [package / "__init__.py", model, json.dumps(input_example().to_dict("list")), " ".join(moved)]
    done = subprocess.run(
        [sys.executable, "-c", PREDICT, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert num_frames(done.stdout.splitlines()[-1]) == FRAMES
