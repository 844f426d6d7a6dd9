"""What the workers of a run warn of, told to whoever started it: Ray keeps their words from its driver.

The first worker writes its warnings into a file as well, and the driver reads that file while it waits.
"""

import contextlib
import logging
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from tqdm import tqdm

_POLL_S = 0.5


def messages_of(out: Path) -> Path:
    """The file of the run in a folder, where all processes of one command see it."""
    return Path(".local/ray").resolve() / f"said-{out.name}.txt"


@contextlib.contextmanager
def noted_in(path: Path, rank: int) -> Iterator[None]:
    """Context in which the first worker's warnings go into a file, too: others would only repeat them."""
    if rank:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handler, logger = logging.FileHandler(path), logging.getLogger("videomar")
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()


class Retelling:
    """Context in which the lines of such files are said on stderr. Remembers how many it has said."""

    def __init__(self, openings: Mapping[Path, str]) -> None:
        """Begin with empty files.

        Args:
            openings: words that each line of a file begins with.
        """
        self._openings, self._said = openings, dict.fromkeys(openings, 0)
        self._ended = threading.Event()
        self._remove()

    def __enter__(self) -> None:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._remove()

    def _watch(self) -> None:
        over = False
        while not over:
            over = self._ended.wait(_POLL_S)
            for path, opening in self._openings.items():
                whole = path.read_text("utf-8").rpartition("\n")[0].splitlines() if path.is_file() else []
                for line in whole[self._said[path] :]:
                    tqdm.write(opening + line, file=sys.stderr)
                self._said[path] = len(whole)

    def _remove(self) -> None:
        for path in self._openings:
            path.unlink(missing_ok=True)
