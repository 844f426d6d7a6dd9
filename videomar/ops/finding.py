"""One mismatch, with the command that mends it."""

from dataclasses import dataclass

BIN = ".venv/bin/"
"""Commands are written so that they run from the repository's root without an activated environment."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Two places that should agree and do not."""

    where: str
    """File, version or service."""
    what: str
    """What is there, and what was expected."""
    mend: str
    """A command; from the repository's root."""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}\n    mend: {self.mend}"
