"""A disk of its own for one folder of a checkout, which is full for the first try of a command.

    unshare -Urm python -m tests.support.full_disk FOLDER FREE_KB COMMAND...

In a namespace of mounts, where an ordinary user may mount a tmpfs. Prints JSON: what the command said and
where the alias was, on the full disk and then with room. The folder's content is put back at the end.
"""

import json
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

_MEGABYTES = 96
_DATABASE = ".local/mlflow.db"


def main() -> None:
    """Run the command twice."""
    folder, free_kb, command = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    beside = folder.with_name(f"{folder.name}.beside")
    folder.mkdir(exist_ok=True)
    folder.rename(beside)
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_MEGABYTES}m", "tmpfs", str(folder)]
    subprocess.run(mount, check=True)
    shutil.copytree(beside, folder, dirs_exist_ok=True)
    ballast = folder / ".ballast"
    ballast.write_bytes(bytes(max(0, shutil.disk_usage(folder).free - 1024 * free_kb)))
    full = run(command)
    left = sorted(str(path) for path in folder.rglob("*") if path.is_file())
    ballast.unlink()
    again = run(command)
    shutil.rmtree(beside)
    shutil.copytree(folder, beside)
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
    folder.rmdir()
    beside.rename(folder)
    json.dump({"full": full, "left": left, "again": again}, sys.stdout)


def run(command: list[str]) -> dict[str, Any]:
    """What a command said, and where the alias was after it."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    champions = []
    if Path(_DATABASE).is_file():
        with closing(sqlite3.connect(f"file:{_DATABASE}?mode=ro", uri=True)) as database:
            found = database.execute("SELECT version FROM registered_model_aliases WHERE alias = 'champion'")
            champions = [version for (version,) in found]
    return {"code": done.returncode, "out": done.stdout, "err": done.stderr, "champions": champions}


if __name__ == "__main__":
    main()
