"""A PostgreSQL server of Debian's packages, in a folder of its own on a free port of loopback."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.support.checkout import free_port, wait_for

ROLE, PASSWORD = "videomar", "p@ss:word/1"
_PLACES = Path("/usr/lib/postgresql").glob("*/bin")


def programs() -> Path | None:
    """Folder of the newest server's programs."""
    found = shutil.which("initdb")
    newest = sorted((int(place.parent.name), place) for place in _PLACES if (place / "initdb").is_file())
    return Path(found).resolve().parent if found else newest[-1][1] if newest else None


def owner() -> dict[str, Any]:
    """As whom the server runs: ourselves, but never root, which it refuses."""
    return {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}


def why_not() -> str | None:
    """Why there can be no server here."""
    if programs() is None:
        return "PostgreSQL's server is not installed (apt-get install postgresql)"
    if owner() and "postgres" not in {entry.pw_name for entry in pwd.getpwall()}:
        return "PostgreSQL does not run as root, and there is no user postgres"
    return None


@contextmanager
def postgres(*databases: str) -> Iterator[dict[str, str]]:
    """Addresses, with the password in them, of new databases; gone with the server afterwards."""
    bin_folder, port = programs(), free_port()
    assert bin_folder is not None
    folder = Path(tempfile.mkdtemp(prefix="videomar-postgres-"))  # not below pytest's: only its user enters
    secret, data = folder / "password", folder / "data"
    secret.write_text(PASSWORD)
    if owner():
        for path in (secret, folder):
            shutil.chown(path, "postgres")
    made = [bin_folder / "initdb", "-D", data, "-U", ROLE, "--auth=scram-sha-256", f"--pwfile={secret}"]
    subprocess.run([*made, "--no-sync", "-E", "UTF8"], check=True, capture_output=True, cwd=folder, **owner())
    options = [f"-k{folder}", "-F", "-clisten_addresses=127.0.0.1", f"-p{port}"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [bin_folder / "postgres", "-D", data, *options], stdout=log, stderr=log, cwd=folder, **owner()
        )
    try:
        environment = {**os.environ, "PGPASSWORD": PASSWORD}
        place = ["-h", "127.0.0.1", "-p", str(port), "-U", ROLE]
        for name in databases:
            command = [bin_folder / "createdb", *place, name]
            wait_for(
                lambda command=command: (
                    subprocess.run(command, env=environment, capture_output=True).returncode == 0
                ),
                "PostgreSQL",
                30.0,
            )
        yield {name: f"{ROLE}:{quote(PASSWORD, safe='')}@127.0.0.1:{port}/{name}" for name in databases}
    finally:
        server.terminate()
        server.wait(20)
        shutil.rmtree(folder)
