"""Who is notified of what: the three lines `notifications` of prefect.yaml.

    notifications:
      events: [failed, promoted, refused]
      to: TEAM_ADDRESS

`to` names an environment variable, so that no file holds the address, which contains a password or token; or
a notification block that a user made in Prefect's pages, as `slack-webhook/team`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import yaml

from videomar.errors import VideomarError

EVENTS = ("failed", "promoted", "refused")
"""A flow run failed or crashed; the gate promoted a version; the gate refused one."""
_KEYS = {"events", "to"}
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BLOCK = re.compile(r"[a-z0-9-]+/[a-z0-9-]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Notifications:
    """What is sent, and where to: `address` or `block` is set."""

    events: tuple[str, ...]
    """Some of EVENTS."""
    address: str | None
    """Address in the form of Apprise, as `jsons://host/path`. It is a secret: never write or print it."""
    block: str | None
    """Slug of a block's type, and its name, as `slack-webhook/team`."""


def read_notifications(file: Path, environment: Mapping[str, str]) -> Notifications | None:
    """The notifications of a prefect.yaml; None if it asks for none.

    Raises:
        VideomarError: they are malformed, or the variable that they name is not set.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        line = " ".join(str(error).split())
        raise VideomarError(f"{file}: got {line}, expected deployments of flows; fix the file") from None
    given = content.get("notifications") if isinstance(content, dict) else None
    if given is None:
        return None
    if not isinstance(given, dict) or set(given) != _KEYS:
        _refuse(file, f"keys {sorted(map(str, given))}", "`events` and `to`")
    events, to = given["events"], given["to"]
    if not isinstance(events, list) or not events or not all(event in EVENTS for event in events):
        _refuse(file, f"events {events}", f"a list of some of {', '.join(EVENTS)}")
    if isinstance(to, str) and _BLOCK.fullmatch(to):
        return Notifications(events=tuple(events), address=None, block=to)
    if not isinstance(to, str) or not _VARIABLE.fullmatch(to):
        # It may be the secret itself, which must not reach a log.
        rule = (
            "the name of an environment variable that holds the address, or a block like slack-webhook/team"
        )
        _refuse(file, "another `to` (not shown, as it may be a secret)", rule)
    if not environment.get(to):
        raise VideomarError(
            f"{to}: got nothing, expected the address for `notifications` of {file}, like jsons://HOST/PATH; "
            "export it, or remove `notifications`"
        )
    return Notifications(events=tuple(events), address=environment[to], block=None)


def _refuse(file: Path, what: str, rule: str) -> NoReturn:
    raise VideomarError(f"{file}: notifications: got {what}, expected {rule}; fix the file")
