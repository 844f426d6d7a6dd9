"""Which edits change which hash: provocations in a copy of the library."""

import ast
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from videomar.provenance.code_hash import INERT, STAGES, TRAINING, closure, source_hash

ROOT = Path(__file__).parents[2]
HASHES = """
import json
from videomar.provenance import code_hash as c
parts = {**c.STAGES, "LATENTS": c.LATENTS, "CAPTIONS": c.CAPTIONS, "TRAINING": c.TRAINING, "SCORES": c.SCORES}
print(json.dumps({name: c.code_hash(roots) for name, roots in parts.items()}))
"""
Edit = Callable[[Path], None]
DATA = {"encode", "LATENTS", "train_tokenizer", "ingest", "sample", "SCORES"}
NETWORK = {"train", "TRAINING", "sample", "SCORES"}


class Copy:
    """A copy of the library and the stages that may be edited."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("videomar", "stages"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        self.before = self.hashes()

    def hashes(self) -> dict[str, str]:
        done = subprocess.run(
            [sys.executable, "-c", HASHES], cwd=self.folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    def changed(self, name: str, edit: Callable[[str], str]) -> set[str]:
        """What changes with an edit of a file, which is taken back."""
        path = self.folder / name
        text = path.read_text("utf-8")
        edited = edit(text)
        assert edited != text
        path.write_text(edited, "utf-8")
        try:
            after = self.hashes()
        finally:
            path.write_text(text, "utf-8")
        return {key for key, value in after.items() if value != self.before[key]}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    return Copy(tmp_path_factory.mktemp("copy"))


@pytest.mark.parametrize(
    ("name", "old", "new", "expected"),
    [
        # The batches of every step.
        ("latents/buckets.py", "default_rng([", "default_rng([1, ", {*NETWORK}),
        # All noise.
        ("compute/seeding.py", "0x9E3779B97F4A7C15", "0x9E3779B97F4A7C17", {*NETWORK, "train_tokenizer"}),
        ("media/decord_library.py", "decord.logging.FATAL", "decord.logging.ERROR", {*DATA}),
        # Motion is a condition, and measured again of each view.
        ("curation/scores.py", "", "ADDED = 1\n", {"ingest", "encode", "LATENTS"}),
        ("curation/splits.py", "", "ADDED = 1\n", {"curate"}),
        # Worlds that go on are drawn by it.
        ("sources/simulate.py", "", "ADDED = 1\n", {"samples", "sample", "SCORES"}),
        ("encoders/text.py", "_BATCH = 64", "_BATCH = 65", {"encode", "CAPTIONS"}),
        ("model/rope.py", "", "ADDED = 1\n", {*NETWORK}),
        ("model/generation.py", "", "ADDED = 1\n", {"sample", "SCORES"}),
        ("training/optim.py", "", "ADDED = 1\n", {"train", "TRAINING"}),
        ("training/sweep.py", "", "ADDED = 1\n", {"train"}),
        ("evaluation/metrics/motion.py", "", "ADDED = 1\n", {"evaluate", "SCORES"}),
        # A name that is taken from elsewhere.
        ("model/head.py", "from torch import", "from numpy import", {*NETWORK}),
        # What changes no result.
        ("training/progress.py", "", "ADDED = 1\n", set()),
        ("report/page.py", "", "ADDED = 1\n", set()),
        ("cli/app.py", "", "ADDED = 1\n", set()),
        ("sampling/previews.py", "", "ADDED = 1\n", set()),
    ],
)
def test_changed_line_changes_what_it_decides_and_no_more(
    copy: Copy, name: str, old: str, new: str, expected: set[str]
) -> None:
    def edit(text: str) -> str:
        return text.replace(old, new, 1) if old else text + new

    assert copy.changed(f"videomar/{name}", edit) == expected


def test_no_stage_depends_on_what_hands_a_model_to_its_users() -> None:
    """Public names, export, push and the generator of single clips."""
    outside = {"videomar", "videomar.checkpoint.model_folder", "videomar.sampling.generate"}
    for name, roots in STAGES.items():
        found = closure(roots)
        assert not outside & set(found), name
        assert not [module for module in found if module.startswith("videomar.hub")], name


def test_comments_docstrings_layout_and_the_order_of_imports_change_nothing(copy: Copy) -> None:
    def reword(text: str) -> str:
        text = re.sub(r'^"""', '"""Reworded. ', text, count=1)
        return text.replace("\n\n\ndef ", "\n\n\n\n# reworded\ndef ") + "\n# the end\n"

    for path in (copy.folder / "videomar").rglob("*.py"):
        if path.name != "__init__.py":
            path.write_text(reword(path.read_text("utf-8")), "utf-8")
    assert copy.hashes() == copy.before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("videomar.latents.buckets", "videomar.batches"),
        ("videomar.checkpoint.folder", "videomar.training.saved"),
    ],
)
def test_moved_and_renamed_file_changes_nothing(tmp_path: Path, old: str, new: str) -> None:
    copy = Copy(tmp_path)
    old_path, new_path = (tmp_path / f"{name.replace('.', '/')}.py" for name in (old, new))
    old_path.rename(new_path)
    (old_parent, _, old_name), (new_parent, _, new_name) = old.rpartition("."), new.rpartition(".")
    for path in [*(tmp_path / "videomar").rglob("*.py"), *(tmp_path / "stages").rglob("*.py")]:
        text = path.read_text("utf-8").replace(f"from {old} import", f"from {new} import")
        text = re.sub(
            rf"from {old_parent} import {old_name}( as \w+)?\n",
            lambda found: f"from {new_parent} import {new_name}{found[1] or f' as {old_name}'}\n",
            text,
        )
        path.write_text(text, "utf-8")
    assert copy.hashes() == copy.before


def test_package_that_only_reexports_a_name_changes_nothing(tmp_path: Path) -> None:
    """The same class, imported from a package instead of from its module."""
    copy = Copy(tmp_path)
    package = tmp_path / "videomar/batches.py"
    package.write_text(
        '"""Batches."""\n\nfrom videomar.latents.buckets import BatchSchedule\n\n'
        '__all__ = ["BatchSchedule"]\n'
    )
    user = tmp_path / "videomar/latents/dataset.py"
    direct = "from videomar.latents.buckets import BatchSchedule, "
    assert direct in user.read_text()
    through = "from videomar.batches import BatchSchedule\nfrom videomar.latents.buckets import "
    user.write_text(user.read_text().replace(direct, through))
    assert copy.hashes() == copy.before


def test_no_import_is_relative() -> None:
    """The closure follows names as they are written."""
    relative = [
        path.name
        for path in [*(ROOT / "videomar").rglob("*.py"), *(ROOT / "stages").rglob("*.py")]
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert relative == []


def test_rooms_left_out_exist_and_have_a_reason() -> None:
    for room, reason in INERT.items():
        path = ROOT / room.replace(".", "/")
        assert path.is_dir() or path.with_suffix(".py").is_file(), room
        assert reason


def test_deps_in_dvc_yaml_are_those_of_the_code() -> None:
    done = subprocess.run(
        [sys.executable, ".ci/update_deps.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text("utf-8"))["stages"]
    assert stages.keys() == STAGES.keys()


def test_only_this_module_hashes_sources() -> None:
    """One rule: every hash of code is from `code_hash`. The other looks at programs of other people."""
    sources = sorted((ROOT / "videomar").rglob("*.py"))
    readers = [path.name for path in sources if "ast.parse" in path.read_text("utf-8")]
    assert readers == ["torchscript.py", "code_hash.py"]


def test_training_needs_no_code_that_makes_clips() -> None:
    names = closure(TRAINING)
    assert "videomar.training.loop" in names
    assert "videomar.compute.seeding" in names
    assert not [name for name in names if "generation" in name or "tracking" in name or "sampling" in name]


def test_source_of_a_function_of_the_users_counts_by_what_it_does(tmp_path: Path) -> None:
    file, texts = tmp_path / "own.py", ['def f(clip):\n    """A."""\n    return "a"\n']
    texts += [texts[0].replace("A.", "Other words."), texts[0].replace('return "a"', 'return "b"')]
    hashes = []
    for text in texts:
        file.write_text(text)
        hashes.append(source_hash(file))
    assert hashes[0] == hashes[1] != hashes[2]
