"""What a reader of the code can see: nothing loads pickles, opens a shell, or makes YAML into objects."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for room in ("videomar", "stages", "flows") for path in (ROOT / room).rglob("*.py"))
READ_PICKLES = ("pickle", "cPickle", "dill", "joblib", "cloudpickle", "shelve", "marshal", "jsonpickle")
"""Modules whose only way to read is to run what is written."""
ALLOWED = {
    # The name of the exception by which torch says that a file holds more than tensors.
    ("videomar/checkpoint/released.py", "import pickle"),
    # After all that its program can do has been read.
    ("videomar/compute/torchscript.py", "torch.jit.load"),
    # ruamel.yaml's, of its default kind, which keeps comments and makes no objects.
    ("videomar/config/edit.py", "yaml.load"),
    ("videomar/config/migration.py", "yaml.load"),
    ("videomar/cli/project.py", "yaml.load"),
    # PyYAML's safe loader, to which `1:1` is text.
    ("videomar/config/params.py", "yaml.load"),
}


def suspicions(tree: ast.AST) -> Iterator[str]:
    """Each call or import that could run what a file or a name says."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = (
                [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            )
            yield from (f"import {name}" for name in names if name.split(".")[0] in READ_PICKLES)
        elif isinstance(node, ast.Call):
            called, given = ast.unparse(node.func), {word.arg: word.value for word in node.keywords}
            if called == "torch.load" and not is_constant(given.get("weights_only"), True):
                yield called
            if called in ("np.load", "numpy.load") and not is_constant(given.get("allow_pickle"), False):
                yield called
            if called in ("yaml.load", "yaml.unsafe_load", "yaml.full_load", "eval", "exec", "os.system"):
                yield called
            if called in ("torch.jit.load", "jit.load"):
                yield called
            if called == "mlflow.pytorch.load_model" or (
                "shell" in given and not is_constant(given["shell"], False)
            ):
                yield called


def is_constant(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def test_no_file_of_data_can_run_code() -> None:
    found = {
        (str(path.relative_to(ROOT)), what)
        for path in SOURCES
        for what in suspicions(ast.parse(path.read_text()))
    }
    assert found == ALLOWED


def test_pickle_is_used_for_the_name_of_its_error_only() -> None:
    tree = ast.parse((ROOT / "videomar/checkpoint/released.py").read_text())
    used = [
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "pickle"
    ]
    assert used == ["UnpicklingError"]


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path)",
        "torch.jit.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=wish)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text)",
        "yaml.load(text, yaml.Loader)",
        "subprocess.run(line, shell=True)",
        "os.system(line)",
        "eval(text)",
        "mlflow.pytorch.load_model(place)",
    ],
)
def test_each_kind_is_seen(line: str) -> None:
    assert list(suspicions(ast.parse(line)))


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path, weights_only=True)",
        "np.load(path, allow_pickle=False)",
        "yaml.safe_load(text)",
        "net.eval()",
    ],
)
def test_what_is_safe_is_not_called_suspicious(line: str) -> None:
    assert not list(suspicions(ast.parse(line)))
