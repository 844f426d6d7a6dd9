"""What a table of scores depends on, so that unlike tables are never compared by mistake.

A score moves with the code and the weights that made it, with the size and number of what it was asked of,
with the seeds, the device and the versions of libraries. Two tables are compared only where all that can move
a score is the same; what only says where a table came from (host, time, threads) may differ and is shown.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from videomar.environment import processor_kind
from videomar.errors import DataError
from videomar.provenance.code_hash import SCORES, code_hash
from videomar.provenance.made_with import package_versions

if TYPE_CHECKING:
    import torch

INFORMATIVE = ("processor", "threads")
"""Keys that may differ: they move a score by rounding at most, as two runs on one machine do."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """All that a table of scores depends on."""

    code: str
    """Hash of the code that makes the clips and the scores, see `code_hash`."""
    weights: Mapping[str, str]
    """sha256 by extractor or backbone."""
    clips: str
    """sha256 of what was judged: ids of clips, prompts and truths, in order."""
    split: str
    """The part of the data that it was asked of."""
    num_clips: int
    num_frames: int
    context_frames: tuple[int, ...]
    """Frames given, one entry for each kind of task."""
    size_px: tuple[int, int]
    """Height and width."""
    fps: float
    seeds: tuple[int, ...]
    device: str
    """cpu, or the name of the accelerator."""
    libraries: Mapping[str, str]
    processor: str
    """As `environment.processor_kind` names it; before 2026-11-30 only the type, as `x86_64`."""
    threads: int

    def to_json(self) -> str:
        """The fingerprint as text that `from_json` reads."""
        return json.dumps(asdict(self), indent=1, sort_keys=True)

    @property
    def comparable_sha256(self) -> str:
        """One hash of all keys that must be equal: equal hashes mean that tables may be compared."""
        kept = {key: value for key, value in asdict(self).items() if key not in INFORMATIVE}
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def from_json(text: str) -> Fingerprint:
    """The fingerprint that `to_json` wrote.

    Raises:
        DataError: the text is none, or of a version with other keys.
    """
    try:
        values: dict[str, Any] = json.loads(text)
        named: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return Fingerprint(**named)
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f"fingerprint: got {error}, expected the keys {[field.name for field in fields(Fingerprint)]}; "
            "evaluate again"
        ) from None


def recorded_in(facts: Mapping[str, Any]) -> Fingerprint | None:
    """The fingerprint that evaluation.json states; None where it states none.

    Raises:
        DataError: it has other keys.
    """
    stated = facts.get("fingerprint")
    return None if stated is None else from_json(json.dumps(stated))


def differences(a: Fingerprint, b: Fingerprint) -> dict[str, tuple[Any, Any]]:
    """What differs, informative keys too: key, or `key.part` of a mapping, to both values."""
    left, right = _flat(asdict(a)), _flat(asdict(b))
    keys = [*left, *(key for key in right if key not in left)]
    return {key: (left.get(key), right.get(key)) for key in keys if left.get(key) != right.get(key)}


def what_forbids(a: Fingerprint, b: Fingerprint) -> list[str]:
    """Each key that differs and must not, with both values; none where tables may be compared."""
    return [
        f"{key} {_short(one)} against {_short(other)}"
        for key, (one, other) in differences(a, b).items()
        if key.split(".")[0] not in INFORMATIVE
    ]


def compare(a: Fingerprint, b: Fingerprint) -> dict[str, tuple[Any, Any]]:
    """Refuse two tables that may not be compared; returns what differs and may.

    Raises:
        DataError: naming each key that differs and must not, with both values.
    """
    if against := what_forbids(a, b):
        told = "; ".join(against)
        raise DataError(
            f"comparison: got {told}, expected equal fingerprints; evaluate both in one environment"
        )
    return differences(a, b)


def clips_sha256(rows: Sequence[tuple[str, str, bytes]]) -> str:
    """Hash of what is judged: id, prompt and the truth's bytes of each clip, in their order."""
    digest = hashlib.sha256()
    for clip_id, prompt, truth in rows:
        for part in (clip_id.encode(), prompt.encode(), truth):
            digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()


def environment(device: "torch.device | str") -> dict[str, Any]:
    """The fields of a fingerprint that are this process's own: all but weights, clips and seeds."""
    import torch  # here, because the gate compares fingerprints without it

    device = torch.device(device)
    on_gpu = device.type == "cuda"
    return {
        "code": code_hash(SCORES),
        "device": torch.cuda.get_device_name(device) if on_gpu else device.type,
        "libraries": package_versions(),
        "processor": processor_kind(),
        "threads": torch.get_num_threads(),
    }


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{part}": of_part for part, of_part in value.items()}
        else:
            flat[key] = value
    return flat


def _short(value: Any) -> str:
    """A value for one line: hashes by their first digits."""
    text = "none" if value is None else str(value)
    return text[:12] if len(text) == 64 else text
