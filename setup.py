"""The wheel carries what `videomar init` writes: the pipeline, its scripts, flows, presets, sample recipe."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

FILES = ("dvc.yaml", "params.yaml", "prefect.yaml", "Makefile", "takedowns.csv", ".gitignore", ".dvcignore")
FOLDERS = {
    **{"stages": "*", "flows": "*.py", "presets": "*.yaml", "samples": "*", "deploy": "*"},
    ".dvc": "[.c]*g*",
}


class BuildWithProject(build_py):
    """Copies them into the package as `videomar/project`."""

    def run(self) -> None:
        """Build the package, then copy."""
        super().run()
        target = Path(self.build_lib, "videomar", "project")
        names = [*FILES, *(path for folder, kind in FOLDERS.items() for path in Path(folder).glob(kind))]
        for path in map(Path, names):
            if path.is_file():
                (target / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target / path)


setup(cmdclass={"build_py": BuildWithProject})
