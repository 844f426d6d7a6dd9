"""A Python that has a list of requirements and nothing else: the rest of this environment is hidden."""

import os
import re
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

_SITE = """
import sys
HIDDEN = set({hidden!r}.split())
class Hider:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if path is None and name in HIDDEN:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
kept = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
sys.meta_path[:] = [Hider, *kept]
sys.path[:] = [path for path in sys.path if "__editable__" not in path]
"""


def bare_environment(requirements: Sequence[str], folder: Path) -> dict[str, str]:
    """Environment of a process that can import these distributions, and what they require, and no other.

    Our own package is hidden, too, wherever it is installed.
    """
    allowed = _closure([Requirement(line).name for line in requirements])
    hidden = [
        module
        for module, names in metadata.packages_distributions().items()
        # Ours is on no path of that process; hidden by name, it could not come with a model either.
        if not {_normal(name) for name in names} & {*allowed, "videomar"}
    ]
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_SITE.format(hidden=" ".join(hidden)))
    # Programs such as `uvicorn`, which an activated environment has on its PATH.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(folder)}


def _closure(names: list[str]) -> set[str]:
    found = {_normal(name) for name in ("pip", "setuptools")}
    while names:
        name = _normal(names.pop())
        if name not in found:
            found.add(name)
            try:
                required = map(Requirement, metadata.requires(name) or [])
            except metadata.PackageNotFoundError:
                continue  # for another platform
            names += [
                each.name for each in required if not each.marker or each.marker.evaluate({"extra": ""})
            ]
    return found


def _normal(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()
