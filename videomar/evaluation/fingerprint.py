"""What a table of scores depends on, so that incomparable tables are never compared by mistake.

A score depends on the code and the weights that made it, on the size and number of clips, on the seeds, the
device and the versions of libraries. Two tables are compared only if all of these are equal. What only says
where a table came from (processor, threads) may differ and is shown.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videomar.environment import processor_kind
from videomar.errors import DataError
from videomar.provenance.code_hash import SCORES, code_hash
from videomar.provenance.made_with import package_versions

if TYPE_CHECKING:
    import torch

INFORMATIVE = ("processor", "threads")
"""Keys that may differ: they change a score by rounding at most, as two runs on one machine do."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Everything that a table of scores depends on."""

    code: str
    """Hash of the code that makes the clips and the scores, see `code_hash`."""
    weights: Mapping[str, str]
    """sha256 by extractor or backbone."""
    clips: str
    """sha256 of the judged clips: ids, prompts and truths, in order."""
    split: str
    """The part of the data that the clips are from."""
    num_clips: int
    num_frames: int
    context_frames: tuple[int, ...]
    """Context frames, one entry for each kind of task."""
    size_px: tuple[int, int]
    """Height and width."""
    fps: float
    seeds: tuple[int, ...]
    device: str
    """cpu, or the name of the GPU, that scored the clips; and that which made them, if it is another."""
    libraries: Mapping[str, str]
    processor: str
    """As `environment.processor_kind` names it; before 2026-11-30 only the type, as `x86_64`."""
    threads: int

    @property
    def comparable_sha256(self) -> str:
        """Hash of all keys that must be equal; tables with equal hashes may be compared."""
        kept = {key: value for key, value in asdict(self).items() if key not in INFORMATIVE}
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def read_details(path: Path) -> dict[str, Any]:
    """The content of evaluation.json; empty if the file does not exist.

    Raises:
        DataError: the file is damaged.
    """
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{path}: got {error}, expected details of the suite; run `dvc repro evaluate`"
        ) from None


def recorded_fingerprint(details: Mapping[str, Any]) -> Fingerprint | None:
    """The fingerprint in evaluation.json; None if none was recorded.

    Raises:
        DataError: it has other keys, as another version of this code may have written.
    """
    recorded = details.get("fingerprint")
    if recorded is None:
        return None
    try:
        named: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in recorded.items()
        }
        return Fingerprint(**named)
    except (TypeError, AttributeError) as error:
        raise DataError(
            f"fingerprint: got {error}, expected the keys {[field.name for field in fields(Fingerprint)]}; "
            "evaluate again"
        ) from None


def differences(a: Fingerprint, b: Fingerprint) -> dict[str, tuple[Any, Any]]:
    """All differing keys, informative ones included: key, or `key.part` of a mapping, to both values."""
    left, right = _flat(asdict(a)), _flat(asdict(b))
    keys = [*left, *(key for key in right if key not in left)]
    return {key: (left.get(key), right.get(key)) for key in keys if left.get(key) != right.get(key)}


def incomparable_keys(a: Fingerprint, b: Fingerprint) -> list[str]:
    """Each key that must be equal and is not, with both values; empty if the tables may be compared."""
    return [
        f"{key} {_short(one)} against {_short(other)}"
        for key, (one, other) in differences(a, b).items()
        if key.split(".")[0] not in INFORMATIVE
    ]


def why_incomparable(details: Mapping[str, Any], others: Mapping[str, Any]) -> list[str]:
    """Why two runs of the suite may not be compared, in words; empty if they may, or if either is unknown."""
    try:
        own, other = recorded_fingerprint(details), recorded_fingerprint(others)
    except DataError as error:
        # A fingerprint that nobody can read forbids a comparison only with another fingerprint.
        return [str(error)] if "fingerprint" in details and "fingerprint" in others else []
    return incomparable_keys(own, other) if own is not None and other is not None else []


def clips_sha256(rows: Sequence[tuple[str, str, bytes]]) -> str:
    """Hash of the judged clips: id, prompt and truth of each, in order."""
    digest = hashlib.sha256()
    for clip_id, prompt, truth in rows:
        for part in (clip_id.encode(), prompt.encode(), truth):
            digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()


def environment(device: "torch.device | str") -> dict[str, Any]:
    """The fields of a fingerprint that describe this process: all but weights, clips and seeds."""
    import torch  # the gate compares fingerprints and must not need it

    from videomar.compute.device import device_kind

    return {
        "code": code_hash(SCORES),
        "device": device_kind(torch.device(device)),
        "libraries": package_versions(),
        "processor": processor_kind(),
        "threads": torch.get_num_threads(),
    }


def with_maker(fields: Mapping[str, Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a fingerprint, with the device that made the clips where another scored them.

    Args:
        fields: as of `environment`.
        metadata: that of the clips' file; files from before it said so were made on a CPU.
    """
    maker = str(metadata.get("device", "cpu"))
    same = maker == fields["device"]
    return {**fields, "device": fields["device"] if same else f"{fields['device']}, clips by {maker}"}


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{part}": of_part for part, of_part in value.items()}
        else:
            flat[key] = value
    return flat


def _short(value: Any) -> str:
    """A value in one line; a hash by its first digits."""
    text = "none" if value is None else str(value)
    return text[:12] if len(text) == 64 else text
