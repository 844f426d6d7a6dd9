"""Starts a deployment soon after new files: once they have stood still, and one run at a time."""

import asyncio
import logging
import time
from pathlib import Path

from prefect import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import TERMINAL_STATES

from flows.new_files import look
from flows.stillness import Watch

_TAG, _RECORDS = "new files", Path(".local/new_files")
_LOOKS, _SHARE = 6, 50  # looks in a quiet time; of the time between two, the part that a look may take
_log = logging.getLogger(__name__)


async def start_after_new_files(deployment: str, quiet_s: float) -> None:
    """Look and start for ever; a server or a folder that is away is asked again."""
    watch = Watch(_RECORDS / f"{deployment.replace('/', '.')}.json", quiet_s)
    told = ""
    while True:
        start = time.monotonic()
        try:
            seen = await asyncio.to_thread(look)
            if watch.is_due(seen, start) and await _start(deployment, f"{watch.known} -> {seen}"):
                watch.settle(seen)
        except Exception as error:  # whatever it is, the watch goes on
            if told != (told := f"{type(error).__name__}: {error}"):
                _log.warning("new files: %s; looking again", told)
        await asyncio.sleep(max(quiet_s / _LOOKS, _SHARE * (time.monotonic() - start)))


async def _start(deployment: str, key: str) -> bool:
    """Start a run, unless one that was started here has not ended; the server knows a wish by its key."""
    async with get_client() as client:
        found = await client.read_deployment_by_name(deployment)
        unended = {"type": {"not_any_": [*TERMINAL_STATES]}}
        like = {"deployment_id": {"any_": [found.id]}, "tags": {"all_": [_TAG]}, "state": unended}
        if await client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(like), limit=1):
            return False
        await client.create_flow_run_from_deployment(found.id, tags=[_TAG], idempotency_key=key)
        return True
