"""What Dockerfile and deploy/compose.yaml say, read as their engines read them."""

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "deploy/compose.yaml"
DOCKERFILE = ROOT / "Dockerfile"
WORDS: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
"""The compose file, variables as written."""
_VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


def instructions() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile: name and arguments, continued lines joined, without comments."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in joined.splitlines() if line.strip()]


def image_environment() -> dict[str, str]:
    """What the image sets for every program in it."""
    words = [word for name, text in instructions() if name == "ENV" for word in shlex.split(text)]
    return dict(word.split("=", 1) for word in words)


def health_command() -> list[str]:
    """The image's health check."""
    (check,) = (text for name, text in instructions() if name == "HEALTHCHECK")
    return json.loads(check.partition("CMD ")[2])


def services() -> dict[str, dict[str, Any]]:
    """The services of the compose file."""
    return WORDS["services"]


def own_services() -> dict[str, dict[str, Any]]:
    """Those that run from our image."""
    return {name: service for name, service in services().items() if "VIDEOMAR_IMAGE" in service["image"]}


def required() -> set[str]:
    """Variables without which the compose file is refused."""
    return {name for name, sign, _ in _VARIABLE.findall(COMPOSE.read_text()) if sign == "?"}


def filled(text: str, values: Mapping[str, str]) -> str:
    """The text with its variables: those given, or their defaults."""

    def value(found: re.Match[str]) -> str:
        name, sign, default = found.groups()
        return values[name] if name in values else default if sign == "-" else values[name]

    return _VARIABLE.sub(value, text).replace("$$", "$")


PASSWORDS = {name: letter * 48 for letter, name in zip("abcdefgh", sorted(required()), strict=False)}
"""Passwords of the form that are drawn for them."""
