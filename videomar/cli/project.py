"""`videomar init`: a pipeline folder outside of a clone."""

import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import videomar
from videomar.errors import DataError

VERSION = "videomar.version"
"""Dependency of every stage in place of the package's code: another version makes the stages run again."""
BAD_IN_PATH = "[\"'`$\\\\:;#?%&*|<>{}\\x00-\\x1f]"
"""Characters refused in the folder's path; the same as in install.py, which runs without this package."""
_PACKAGED = Path(videomar.__file__).parent / "project"
_FOLDERS = ("stages", "flows", "presets", "samples", "deploy")
_FILES = (
    *("dvc.yaml", "params.yaml", "prefect.yaml", "Makefile", "takedowns.csv"),
    *(".gitignore", ".dvcignore", ".dvc/config", ".dvc/.gitignore"),
)
_AUTHOR = ("-c", "user.name=videomar", "-c", "user.email=videomar@localhost")


def template() -> Path:
    """Folder with the files of a pipeline: in the installed package, or the clone in use."""
    return _PACKAGED if _PACKAGED.is_dir() else Path(videomar.__file__).parent.parent


def presets() -> Path:
    """Folder with the presets: that of the working folder, else the package's."""
    own = Path("presets")
    return own if own.is_dir() else template() / own


def write_project(folder: Path) -> list[str]:
    """Write a pipeline into a new or empty folder; return lines that say what to do next.

    Raises:
        DataError: the folder holds files, or its path has characters that the tools cannot handle.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: got a folder with files, expected a new or empty one; choose another")
    if bad := sorted(set(re.findall(BAD_IN_PATH, str(folder.resolve())))):
        rule = "none of it in the path, because databases and scripts cannot handle it"
        raise DataError(f"{str(folder)!r}: got {' '.join(map(repr, bad))}, expected {rule}; choose another")
    source = template()
    for name in _FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / name, folder / name)
    for name in _FOLDERS:
        shutil.copytree(source / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "stages/run").chmod(0o755)
    (folder / VERSION).write_text(f"{videomar.__version__}\n", encoding="utf-8")
    _depend_on_version(folder / "dvc.yaml")
    _link_environment(folder / ".venv")
    lines = [f"{folder}: a pipeline by videomar {videomar.__version__}"]
    if not _commit(folder):
        lines.append("no git here: `git init && git add --all && git commit` names runs by their commit")
    if find_spec("dvc") is None or find_spec("ray") is None:
        lines.append("then: pip install 'videomar[pipeline,samples]'")
    return [*lines, f"then: cd {folder} && make run CLIPS=/folder/of/videos"]


def _depend_on_version(pipeline: Path) -> None:
    """Make stages depend on the version of the package instead of its files."""
    from videomar.config.edit import round_trip

    yaml = round_trip()
    content = yaml.load(pipeline.read_text(encoding="utf-8"))
    for stage in content["stages"].values():
        stage["deps"] = [VERSION, *(path for path in stage["deps"] if not path.startswith("videomar/"))]
    with pipeline.open("w", encoding="utf-8") as file:
        yaml.dump(content, file)


def _link_environment(venv: Path) -> None:
    """Link the environment in use as the folder's .venv."""
    if sys.prefix != sys.base_prefix:
        venv.symlink_to(sys.prefix, target_is_directory=True)
        return
    (venv / "bin").mkdir(parents=True)
    (venv / "bin/python").symlink_to(sys.executable)


def _commit(folder: Path) -> bool:
    """Commit the folder to a new git repository unless it is inside one; return False without git."""
    if shutil.which("git") is None:
        return False

    def git(*words: str) -> Any:
        return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=False)

    if git("rev-parse", "--is-inside-work-tree").returncode == 0:
        return True
    git("init", "--quiet")
    git("add", "--all")
    message = f"Pipeline by videomar {videomar.__version__}"
    return bool(git(*_AUTHOR, "commit", "--quiet", "--message", message).returncode == 0)
