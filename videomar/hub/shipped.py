"""The model that comes with the package, and what it was made from.

`videomar/shipped` is a model folder (checkpoint/model_folder.py) with `origin.json`: commit, data and figures
of the champion that .ci/ship_champion.py copied. So clips can be generated before anything was trained here.
"""

import json
from pathlib import Path
from typing import Any

from videomar.checkpoint import MANIFEST, verify
from videomar.errors import VideomarError

SHIPPED = "shipped"
"""Its name, wherever a model may be named."""
FOLDER = Path(__file__).parents[1] / SHIPPED
ORIGIN = "origin.json"
SHOWN = (
    *("git_commit", "git_dirty", "lock_sha256", "ledger_sha256", "tokenizer_sha256", "checkpoint_sha256"),
    *("checkpoint_step", "machine", "processor", "threads"),
)
"""Entries of the origin that are shown one a line."""


def shipped_folder() -> Path:
    """Return the folder of the model that comes with the package.

    Raises:
        VideomarError: the package came without one.
    """
    if not (FOLDER / MANIFEST).is_file():
        raise VideomarError(
            f"model: got a package without a model in {FOLDER}, expected the shipped one; install it again, "
            "or train your own with `make run`"
        )
    return FOLDER


def read_origin() -> dict[str, Any]:
    """Return what the shipped model was made from: commit, checksums of data and raw files, figures."""
    return json.loads((shipped_folder() / ORIGIN).read_text("utf-8"))


def describe_origin(origin: dict[str, Any]) -> list[str]:
    """Return the origin as lines for a person, all raw files included."""
    gains = {name: value for name, value in origin["metrics"].items() if name.endswith("gain_db")}
    saw = set(origin["saw"])
    return [
        f"shipped model: champion of another checkout, version {origin['version']} there",
        *(f"  {name}: {origin[name] or '-'}" for name in SHOWN),
        *(f"  {name}: {value:.2f}" for name, value in sorted(gains.items())),
        f"  raw files: {len(origin['raw'])}; {len(saw)} videos were trained on",
        *(
            f"    {row['sha256']}  {row['path']}{'  (train)' if row['path'] in saw else ''}"
            for row in origin["raw"]
        ),
    ]


def damaged_files() -> list[str]:
    """Return what differs from the checksums that the shipped model came with; nothing if it is intact."""
    try:
        verify(shipped_folder())
    except VideomarError as error:
        return [str(error)]
    return []


def saw_raw_file(sha256: str) -> bool | None:
    """Whether the shipped model was trained on a raw file; None if it was made without it, or is not here."""
    if not (FOLDER / ORIGIN).is_file():
        return None
    origin = read_origin()
    paths = [row["path"] for row in origin["raw"] if row["sha256"] == sha256]
    return any(path in origin["saw"] for path in paths) if paths else None


def describe_use(sha256: str) -> list[str]:
    """A line if the shipped model was made with a raw file; none otherwise."""
    saw = saw_raw_file(sha256)
    trained = "trained on it" if saw else "not trained on it"
    return [] if saw is None else [f"shipped model: was made with this video, {trained}"]
