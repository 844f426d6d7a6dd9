"""Errors and findings with a message for the user: `<where>: got <value>, expected <rule>; <what to do>`."""

from dataclasses import dataclass

BIN = ".venv/bin/"
"""Prefix of commands in findings, which run from the repository's root without an activated environment."""


class VideomarError(Exception):
    """A problem that the user can fix. Shown as one line, never as a traceback."""


class ParamsError(VideomarError, ValueError):
    """params.yaml holds an unknown key, a wrong type or an impossible value."""


class OldLayoutError(ParamsError):
    """params.yaml has keys at their old places; `videomar migrate` moves them."""


class DataError(VideomarError):
    """A file or folder given to the pipeline is missing, empty or invalid."""


class CheckpointError(VideomarError):
    """A checkpoint is missing, damaged, or was made with other parameters."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Two records of one fact that should agree and do not, as `videomar doctor` reports it."""

    where: str
    """File, version or service."""
    what: str
    """What it is, and what was expected."""
    fix: str
    """A command, run from the repository's root."""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}\n    fix: {self.fix}"

    def to_dict(self) -> dict[str, str]:
        """Return the finding as JSON, with `fix` under its old name, too, for one release."""
        return {
            "where": self.where,
            "what": self.what,
            "fix": self.fix,
            "mend": self.fix,  # codespell:ignore mend
        }
