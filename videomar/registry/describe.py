"""Writes the model card of a registered version into its run and its description, from its evidence."""

import json
import tempfile
from pathlib import Path

from videomar.registry.evidence import LINEAGE, read_lineage
from videomar.registry.model_card import CardFacts, model_card
from videomar.registry.versions import Version, download_evidence, keep_description

CARD = "model_card.md"
_LINEAGE = (
    "git_commit",
    "git_dirty",
    "lock_sha256",
    "ledger_sha256",
    "tokenizer_sha256",
    "checkpoint_sha256",
)


def write_card(version: Version) -> str:
    """Write the card of a version, with the gate's decision if there is one; gives its text."""
    with tempfile.TemporaryDirectory() as folder:
        card = model_card(_facts(version, download_evidence(version, Path(folder))))
    keep_description(version, card, CARD)
    return card


def _facts(version: Version, evidence: Path) -> CardFacts:
    lineage, credits = evidence / LINEAGE, evidence / "CREDITS.txt"
    clips = read_lineage(lineage) if lineage.is_file() else None
    counts = {} if clips is None else clips.groupby(["group", "split"]).size().to_dict()
    train, decision = _metrics(evidence, "train"), version.decision or {}
    training = {"checkpoint step": version.step, "machine": version.tags.get("machine", "")}
    training |= {name: f"{train[name]:g}" for name in ("steps", "loss", "seconds") if name in train}
    return CardFacts(
        name=f"videomar version {version.number}",
        clips={(str(group), str(split)): int(count) for (group, split), count in counts.items()},
        num_videos=0 if clips is None else int(clips["video"].nunique()),
        credits=credits.read_text("utf-8") if credits.is_file() else "",
        training=training,
        figures=decision.get("figures", ()),
        reasons=decision.get("reasons", ()),
        metrics=_metrics(evidence, "evaluate"),
        lineage={name: version.tags[name] for name in _LINEAGE if name in version.tags},
    )


def _metrics(evidence: Path, stage: str) -> dict[str, float]:
    path = evidence / "metrics" / f"{stage}.json"
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}
