"""The registered model `videomar` in MLflow: its versions, their evidence, decisions and aliases.

Each step of a release may be repeated after an interruption: the version is found again, the decision is
kept, and the alias moves last, with an entry in its history (champion_history.py).
"""

import json
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videomar.config.layout import Layout
from videomar.errors import VideomarError
from videomar.files import sha256_of
from videomar.provenance.checkout import results_sha256
from videomar.registry.champion_history import CHAMPION as CHAMPION
from videomar.registry.champion_history import MODEL as MODEL
from videomar.registry.champion_history import History, champions, settled_history
from videomar.tracking.mlflow_store import open_client

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHALLENGER = "challenger"
LINEAGE_TAGS = (
    "git_commit",
    "git_dirty",
    "uncommitted",
    "lock_sha256",
    "ledger_sha256",
    "tokenizer_sha256",
    "checkpoint_sha256",
    "checkpoint_step",
    "weights_sha256",
    "parent",
    "parent_version",
    "parent_run",
    "parent_weights_sha256",
    "training_run",
    "machine",
    "processor",
    "devices",
    "threads",
)
"""Tags of a version, and of the run with its evidence, that tell what it was made from."""
ORIGIN_TAG = "origin"
"""Tag of a version that was registered from a model folder: JSON of all that is known of its making."""
_EVIDENCE = "evidence"
_JUDGED_AGAIN = "judged_again"
"""Subfolder of the evidence with a folder for each later evaluation; prefix of their tags."""
_HERE = Layout()
_LONGEST_DESCRIPTION = 5000
"""Characters in MLflow's tables; PostgreSQL refuses more."""


@dataclass(frozen=True, slots=True)
class Version:
    """One registered version of the model."""

    number: str
    run_id: str
    tags: Mapping[str, str]

    @property
    def step(self) -> str:
        """Optimizer step of its checkpoint."""
        return self.tags.get("checkpoint_step", "unknown")

    @property
    def decision(self) -> dict[str, Any] | None:
        """The gate's decision about it: `promote`, `reasons`, `figures`; None before it has decided."""
        return json.loads(self.tags["decision"]) if "decision" in self.tags else None

    @property
    def origin(self) -> dict[str, Any] | None:
        """What is known of a version that was registered from a folder; None for the pipeline's own."""
        return json.loads(self.tags[ORIGIN_TAG]) if ORIGIN_TAG in self.tags else None

    @property
    def judged_again(self) -> dict[str, dict[str, str]]:
        """Time and code of each later evaluation, by the key of its fingerprint."""
        prefix = f"{_JUDGED_AGAIN}."
        return {
            name.removeprefix(prefix): json.loads(text)
            for name, text in self.tags.items()
            if name.startswith(prefix)
        }

    @property
    def last_judged_again(self) -> str | None:
        """Key of the latest of these; by their numbers, because clocks are set back."""
        found = self.judged_again
        order = {key: (int(about.get("number", 0)), about["at"]) for key, about in found.items()}
        return max(order, key=lambda key: order[key], default=None)

    def __str__(self) -> str:
        return f"{MODEL} version {self.number} (checkpoint step {self.step})"


def find_released(lock: Path) -> Version | None:
    """The version made from this dvc.lock, if its release is complete."""
    version = find_version(open_client(), lock)
    return version if version is not None and is_released(version) else None


def is_released(version: Version) -> bool:
    """Whether every step of a version's release was done: alias `challenger`, decision, report."""
    return "released_at" in version.tags and not _is_newer(version, challenger())


def name_challenger(version: Version) -> None:
    """Set the alias `challenger` to a version unless it names a newer one. May be repeated."""
    if _is_newer(version, challenger()):
        open_client().set_registered_model_alias(MODEL, CHALLENGER, version.number)


def _is_newer(version: Version, other: Version | None) -> bool:
    return other is None or int(other.number) < int(version.number)


def champion() -> Version | None:
    """The version that the alias `champion` names; None if none was ever promoted.

    Raises:
        VideomarError: the history has a champion, but the version, its run or the alias was deleted.
    """
    history = settled_history(open_client())
    if history.expected is None:
        return None
    if history.alias is None:
        raise VideomarError(
            f"champion: got no alias, expected version {history.expected}, which was deleted, or the alias "
            "was; `videomar rollback` goes back to the champion before"
        )
    return require_run(version_of(history.alias))


def opponent_of(version: Version) -> Version | None:
    """The champion that a version is judged against; None if there is none.

    That is the present one; for a version that was made champion with other tools, the one before.
    """
    history = settled_history(open_client())
    found = history.unjudged
    if found is not None and found.after == version.number:
        return earlier_champion(history)[0]
    return champion()


def earlier_champion(history: History) -> tuple[Version | None, list[str]]:
    """The newest champion before the present one that still exists, and a line for each that was passed."""
    passed: list[str] = []
    for number in reversed(champions(history.moves)[:-1]):
        try:
            return require_run(version_of(number)), passed
        except VideomarError as error:
            passed.append(f"passed over: {error}")
    return None, passed


def challenger() -> Version | None:
    """The version that the alias `challenger` names: the newest candidate."""
    return _by_alias(CHALLENGER)


def find_model(name: str) -> Version:
    """The version that an alias or a number names.

    Raises:
        VideomarError: there is none, or its run was deleted.
    """
    if name not in (CHAMPION, CHALLENGER):
        return require_run(version_of(name))
    found = champion() if name == CHAMPION else challenger()
    if found is None:
        newest = challenger()
        remedy = (
            "run `make run`" if newest is None else f"`{CHALLENGER}` names the newest candidate, {newest}"
        )
        raise VideomarError(f"model: got {name}, but there is none yet; {remedy}, or give a version's number")
    return require_run(found)


def require_run(version: Version) -> Version:
    """The version itself, if the run that holds its evidence is still there.

    Raises:
        VideomarError: the run was deleted.
    """
    from mlflow.exceptions import MlflowException

    try:
        stage = open_client().get_run(version.run_id).info.lifecycle_stage
    except MlflowException:
        stage = "gone"
    if stage != "active":
        raise VideomarError(
            f"{version}: got a {stage} run {version.run_id}, expected the run of its evidence; "
            "`mlflow runs restore` brings a deleted one back, `videomar rollback` leaves this version"
        )
    return version


def version_of(number: str) -> Version:
    """A registered version by its number.

    Raises:
        VideomarError: there is no such version.
    """
    from mlflow.exceptions import MlflowException

    try:
        return _version(open_client().get_model_version(MODEL, number))
    except MlflowException:
        raise VideomarError(
            f"model version: got {number}, expected a registered version of {MODEL}"
        ) from None


def all_versions() -> list[Version]:
    """Every registered version, the oldest first."""
    found = [_version(item) for item in open_client().search_model_versions(f"name = '{MODEL}'")]
    return sorted(found, key=lambda version: int(version.number))


def aliases_of(version: Version) -> list[str]:
    """The aliases that name a version."""
    return sorted(open_client().get_model_version(MODEL, version.number).aliases)


def evidence_folder(key: str = "") -> str:
    """Folder of a run's artifacts with the evidence of its registration, or of a later evaluation."""
    return f"{_EVIDENCE}/{_JUDGED_AGAIN}/{key}" if key else _EVIDENCE


def download_evidence(version: Version, into: Path, folder: str = _EVIDENCE) -> Path:
    """Download the evidence of a version's run. The returned folder does not exist if the run has none."""
    from mlflow.exceptions import MlflowException

    try:
        return _download(version, folder, into)
    except (MlflowException, OSError):
        return into / folder


def evaluation_of(version: Version, folder: str = _EVIDENCE) -> "pd.DataFrame":
    """Scores of a version by clip and kind, from its evidence."""
    import pandas as pd

    with tempfile.TemporaryDirectory() as into:
        return pd.read_parquet(_download(version, f"{folder}/{_HERE.evaluation.name}", Path(into)))


def evaluation_details_of(version: Version, folder: str = _EVIDENCE) -> dict[str, Any]:
    """The evaluation.json beside these rows; empty for a version without one."""
    path = f"{folder}/{_HERE.evaluation_details.name}"
    if path not in [item.path for item in open_client().list_artifacts(version.run_id, folder)]:
        return {}
    with tempfile.TemporaryDirectory() as into:
        return json.loads(_download(version, path, Path(into)).read_text("utf-8"))


def keep_judged_again(version: Version, key: str, files: Sequence[Path], about: Mapping[str, str]) -> Version:
    """Store the scores of a later evaluation as evidence of a version.

    Args:
        version: The version.
        key: Of the scores' fingerprint.
        files: evaluation.parquet and what belongs to it.
        about: State of the code; stored in the tag, with the time.
    """
    client = open_client()
    for file in files:
        client.log_artifact(version.run_id, str(file), evidence_folder(key))
    before = version_of(version.number).judged_again.values()
    number = 1 + max((int(known.get("number", 0)) for known in before), default=0)
    # The tag comes last: a version that has it has all the files.
    text = json.dumps({"at": _now(), "number": str(number), **about})
    client.set_model_version_tag(MODEL, version.number, f"{_JUDGED_AGAIN}.{key}", text)
    return version_of(version.number)


def download_model(version: Version) -> Path:
    """Local folder with the version's artifacts: the model folder `checkpoint`.

    Versions of before have `tokenizer` and `params.yaml` beside it; `open_model_folder` reads both kinds.
    """
    import mlflow

    open_client()
    return Path(mlflow.artifacts.download_artifacts(f"models:/{MODEL}/{version.number}")) / "artifacts"


def stored_folders(version: Version) -> dict[str, Path]:
    """Local folders of a version's `checkpoint` and `tokenizer`, and of the `code` that MLflow runs."""
    model = download_model(version)
    inside, beside = model / "checkpoint/tokenizer", model / "tokenizer"
    tokenizer = inside if inside.is_dir() else beside
    return {"checkpoint": model / "checkpoint", "tokenizer": tokenizer, "code": model.parent}


def record_decision(version: Version, decision: Mapping[str, Any]) -> Version:
    """Store the gate's decision (promote, reasons, figures) in the version's tags, with time and champion."""
    client, before = open_client(), opponent_of(version)
    tags = {
        "decided_at": _now(),
        "previous_champion": before.number if before is not None else "none",
        # Last: a version that has it has all. The id tells decisions of the same second apart.
        "decision": json.dumps({**decision, "id": uuid.uuid4().hex}),
    }
    for key, value in tags.items():
        client.set_model_version_tag(MODEL, version.number, key, value)
    return version_of(version.number)


def keep_description(version: Version, text: str, name: str) -> None:
    """Store a text as the version's description and, under a name, as an artifact of its run."""
    client = open_client()
    client.log_text(version.run_id, text, name)
    if len(text) > _LONGEST_DESCRIPTION:
        rest = f"\n\n(cut; the whole is `{name}` of the run)\n"
        text = text[: _LONGEST_DESCRIPTION - len(rest)] + rest
    client.update_model_version(MODEL, version.number, description=text)


def mark_released(version: Version) -> None:
    """Record that the release of a version is complete."""
    open_client().set_model_version_tag(MODEL, version.number, "released_at", _now())


def find_version(client: "MlflowClient", lock: Path) -> Version | None:
    """The newest version with the results of this dvc.lock; an old one is known by the file itself."""
    for tag, value in (("results_sha256", results_sha256(lock)), ("lock_sha256", sha256_of(lock))):
        found = client.search_model_versions(f"name = '{MODEL}' and tags.{tag} = '{value}'")
        if found:
            return _version(max(found, key=lambda version: int(version.version)))
    return None


def _download(version: Version, artifact: str, into: Path) -> Path:
    import mlflow

    open_client()
    return Path(
        mlflow.artifacts.download_artifacts(run_id=version.run_id, artifact_path=artifact, dst_path=str(into))
    )


def _by_alias(alias: str) -> Version | None:
    from mlflow.exceptions import MlflowException

    try:
        return _version(open_client().get_model_version_by_alias(MODEL, alias))
    except MlflowException:
        return None


def _version(version: "ModelVersion") -> Version:
    return Version(str(version.version), version.run_id or "none", dict(version.tags))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
