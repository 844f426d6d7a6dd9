"""params.yaml as it was before resources stood apart."""

from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
SHIPPED = (ROOT / "params.yaml").read_text()
SECTIONS = SHIPPED[: SHIPPED.index("\n# How the stages run")]
"""The shipped file without its resources."""


def yaml_word(value: object) -> str:
    """A value as YAML writes it."""
    return "null" if value is None else str(value).lower()


def old_text() -> str:
    """The shipped numbers in the old layout; each resource has a comment above it and one beside it."""
    text = SECTIONS
    for section, values in yaml.safe_load(SHIPPED)["resources"].items():
        lines = "".join(
            f"  # above {section}.{key}\n  {key}: {yaml_word(value)}  # beside {section}.{key}\n"
            for key, value in values.items()
        )
        text = text.replace(f"\n{section}:\n", f"\n{section}:\n{lines}")
    return text
