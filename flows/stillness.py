"""When files have changed and then stood still for a while."""

import json
from pathlib import Path

from flows.new_files import Seen
from videomar.files import write_json


class Watch:
    """Remembers, in a file, which files a run was last asked for; what the first look finds is not new."""

    def __init__(self, record: Path, quiet_s: float) -> None:
        self._record, self._quiet_s, self._since = record, quiet_s, 0.0
        self.known = Seen(*json.loads(record.read_text(encoding="utf-8"))) if record.is_file() else None
        self._last = self.known

    def is_due(self, seen: Seen, now: float) -> bool:
        """Whether there are other files than at the last run, unchanged for the quiet time."""
        if self.known is None or self.known.source != seen.source:
            self.settle(seen)  # a user who chooses another source says himself when to start
        if seen != self._last:
            self._last, self._since = seen, now
        return seen != self.known and now - self._since >= self._quiet_s

    def settle(self, seen: Seen) -> None:
        """These files are not new any more."""
        write_json(self._record, seen)
        self.known = seen
