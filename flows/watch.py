"""Start a deployment after new files, once they have stopped changing; and one after a moved alias."""

import asyncio
import hashlib
import json
import logging
import time
from pathlib import Path
from typing import NamedTuple

import yaml
from prefect import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import TERMINAL_STATES

from videomar.config.layout import Layout
from videomar.files import write_json
from videomar.registry.champion import alias_history
from videomar.registry.local_versions import local_champion_is_settled
from videomar.sources.listing import walk
from videomar.tracking.mlflow_store import store_exists

_HERE = Layout()
_TAG, _RECORDS = "new files", _HERE.local / "new_files"
_MOVED = "moved alias"
_EVERY_S = 20.0
_SCANS = 6  # scans within a quiet time
_REST = 50  # between two scans of a large folder, times as long as a scan takes
_log = logging.getLogger(__name__)


class Snapshot(NamedTuple):
    """The files that the pipeline starts from, at one moment."""

    source: str
    """`samples.source` of params.yaml."""
    files: str
    """Hash of all names, sizes and times."""


def take_snapshot() -> Snapshot:
    """Scan the files of `samples.source`, and those in data/raw that a user put there by hand."""
    source = str(yaml.safe_load(_HERE.params.read_text("utf-8"))["samples"]["source"])
    record = _HERE.raw / ".collected.json"
    collected = set(json.loads(record.read_text("utf-8"))) if record.is_file() else set()
    by_hand = (
        [entry for entry in walk(_HERE.raw) if entry.name not in collected] if _HERE.raw.is_dir() else []
    )
    digest = hashlib.sha256(repr([*walk(Path(source)), by_hand]).encode("utf-8", "surrogateescape"))
    return Snapshot(source, digest.hexdigest())


class NewFiles:
    """Decides when new files start a run.

    Remembers, in a file, the snapshot that the last run was started for; the first snapshot counts as known.
    """

    def __init__(self, record: Path, quiet_s: float) -> None:
        self._record, self._quiet_s, self._since = record, quiet_s, 0.0
        self.known = Snapshot(*json.loads(record.read_text(encoding="utf-8"))) if record.is_file() else None
        self._last = self.known

    def is_due(self, seen: Snapshot, now: float) -> bool:
        """Whether the files differ from those of the last run and have not changed for the quiet time."""
        if self.known is None or self.known.source != seen.source:
            self.mark_known(seen)  # a user who chooses another source starts the run by hand
        if seen != self._last:
            self._last, self._since = seen, now
        return seen != self.known and now - self._since >= self._quiet_s

    def mark_known(self, seen: Snapshot) -> None:
        """Record that these files are not new any more."""
        write_json(self._record, seen)
        self.known = seen


async def start_after_new_files(deployment: str, quiet_s: float) -> None:
    """Scan and start runs until cancelled; while the server or a folder is unavailable, keep trying."""
    new_files = NewFiles(_RECORDS / f"{deployment.replace('/', '.')}.json", quiet_s)
    reported = ""
    while True:
        start = time.monotonic()
        try:
            seen = await asyncio.to_thread(take_snapshot)
            if new_files.is_due(seen, start) and await _start(
                deployment, f"{new_files.known} -> {seen}", _TAG
            ):
                new_files.mark_known(seen)
        except Exception as error:  # of any kind: the watch must not end
            if reported != (reported := f"{type(error).__name__}: {error}"):
                _log.warning("new files: %s; trying again", reported)
        await asyncio.sleep(max(quiet_s / _SCANS, _REST * (time.monotonic() - start)))


async def judge_after_moves(deployment: str) -> None:
    """Start a run for each champion that was made one without videomar, until cancelled."""
    reported = ""
    while True:
        try:
            if (found := await asyncio.to_thread(unjudged_champion)) is not None:
                await _start(deployment, found, _MOVED)
        except Exception as error:  # of any kind: the watch must not end
            if reported != (reported := f"{type(error).__name__}: {error}"):
                _log.warning("champion: %s; trying again", reported)
        await asyncio.sleep(_EVERY_S)


def unjudged_champion() -> str | None:
    """Name of the last move of the alias `champion` if the gate has to judge it; a new one is recorded."""
    if not store_exists() or local_champion_is_settled():
        return None
    history = alias_history()
    return None if history.unjudged is None else history.keys[-1]


async def _start(deployment: str, key: str, tag: str) -> bool:
    """Start a run unless an earlier one started here is unfinished; the server starts one run per key."""
    async with get_client() as client:
        found = await client.read_deployment_by_name(deployment)
        unfinished = {"type": {"not_any_": [*TERMINAL_STATES]}}
        ours = {"deployment_id": {"any_": [found.id]}, "tags": {"all_": [tag]}, "state": unfinished}
        if await client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(ours), limit=1):
            return False
        await client.create_flow_run_from_deployment(found.id, tags=[tag], idempotency_key=key)
        return True
