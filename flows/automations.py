"""Prefect's automations that notify people, and the events of ours that start them."""

import json
import socket
from datetime import timedelta
from pathlib import Path
from uuid import UUID

from apprise import Apprise
from prefect import get_client
from prefect.automations import Posture, SendNotification
from prefect.blocks.notifications import SlackWebhook
from prefect.client.orchestration import PrefectClient
from prefect.events import emit_event
from prefect.events.schemas.automations import AutomationCore, EventTrigger
from prefect.exceptions import ObjectNotFound
from pydantic import SecretStr

from videomar.environment import prefect_home
from videomar.errors import VideomarError
from videomar.registry.versions import Version
from videomar.services.notifications import EVENTS, Notifications

_BLOCK = "videomar-notifications"
# Prefect's server loads blocks of its own types only. This one hands any address to Apprise, which knows
# webhooks, mail and a hundred services, not only Slack.
_BLOCK_TYPE = "slack-webhook"
_OWNER_ONLY = 0o700  # Prefect encrypts the address with a key that is in the same database
_GATE = "videomar.version."
_SUBJECTS = {
    "failed": "flow {{ flow.name }} {{ event.resource['prefect.state-type'] | lower }}",
    "promoted": "{{ event.resource['prefect.resource.name'] }} promoted",
    "refused": "{{ event.resource['prefect.resource.name'] }} refused",
}
_REASONS = {
    "failed": "{{ event.resource['prefect.state-message'] }}",
    "promoted": "{{ event.payload.decision }}",
    "refused": "{{ event.payload.decision }}",
}


async def apply_notifications(wanted: Notifications | None) -> None:
    """Make the automations of Prefect's server those that prefect.yaml asks for, and no others of ours.

    Raises:
        VideomarError: the address is none that Apprise knows, or there is no such block.
    """
    async with get_client() as client:
        block = None if wanted is None else await _block(client, wanted)
        for event in EVENTS:
            name = f"videomar: {event}"
            found = await client.read_automations_by_name(name)
            if block is None or wanted is None or event not in wanted.events:
                for automation in found:
                    await client.delete_automation(automation.id)
                continue
            ours = automation_of(event, name, block)
            if found:
                ours.enabled = found[0].enabled  # who has switched it off in the pages has a reason
                await client.update_automation(found[0].id, ours)
            else:
                await client.create_automation(ours)
        if wanted is None or wanted.block not in (None, f"{_BLOCK_TYPE}/{_BLOCK}"):
            await _forget_address(client)


def automation_of(event: str, name: str, block: UUID) -> AutomationCore:
    """The automation that sends one message for each event of a kind."""
    match: dict[str, str | list[str]]
    if event == "failed":
        # By the type of the state, because its name may say more: Failed, TimedOut, Crashed.
        match = {"prefect.resource.id": "prefect.flow-run.*", "prefect.state-type": ["FAILED", "CRASHED"]}
        expect = "prefect.flow-run.*"
    else:
        match, expect = {"prefect.resource.id": f"{_GATE}*"}, f"{_GATE}{event}"
    trigger = EventTrigger(
        posture=Posture.Reactive,
        match=match,
        expect={expect},
        for_each={"prefect.resource.id"},
        threshold=1,
        within=timedelta(0),
    )
    here = json.dumps(f"{Path.cwd().name} on {socket.gethostname()}")  # quoted: its braces are no template
    action = SendNotification(
        block_document_id=block,
        subject=f"{{{{ {here} }}}}: {_SUBJECTS[event]}",
        body=f"{_REASONS[event]}\n{{% if flow_run %}}{{{{ flow_run | ui_url }}}}{{% endif %}}",
    )
    return AutomationCore(
        name=name, description="Made by `make up` from prefect.yaml", trigger=trigger, actions=[action]
    )


def announce(version: Version, decision: str, promoted: bool) -> None:
    """Tell Prefect what the gate decided on a version, in words."""
    verdict = "promoted" if promoted else "refused"
    resource = {"prefect.resource.id": f"{_GATE}{version.number}", "prefect.resource.name": str(version)}
    emit_event(event=f"{_GATE}{verdict}", resource=resource, payload={"decision": decision})


async def _block(client: PrefectClient, wanted: Notifications) -> UUID:
    """Id of the block that holds the address; ours is overwritten with each start."""
    if wanted.address is not None:
        if not Apprise().add(wanted.address):
            raise VideomarError(
                "notifications: got an address that Apprise does not know, expected one like "
                "jsons://HOST/PATH, mailtos://USER:PASSWORD@HOST or https://hooks.slack.com/services/...; "
                "see https://github.com/caronc/apprise"
            )
        prefect_home().chmod(_OWNER_ONLY)
        return await SlackWebhook(url=SecretStr(wanted.address)).asave(_BLOCK, overwrite=True)
    kind, _, name = (wanted.block or "").partition("/")
    try:
        return (await client.read_block_document_by_name(name, kind)).id
    except ObjectNotFound:
        raise VideomarError(
            f"notifications: got no block {wanted.block}, expected one; make it in Prefect's pages (Blocks)"
        ) from None


async def _forget_address(client: PrefectClient) -> None:
    """Delete the block that an earlier start made."""
    try:
        ours = await client.read_block_document_by_name(_BLOCK, _BLOCK_TYPE)
    except ObjectNotFound:
        return
    await client.delete_block_document(ours.id)
