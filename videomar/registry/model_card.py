"""The model card of a registered version, from its evidence."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

from videomar.provenance.card import CardFacts, model_card
from videomar.registry.ancestors import read_ancestors
from videomar.registry.evidence import LINEAGE, read_lineage, text_of
from videomar.registry.versions import MODEL, ORIGIN_TAG, Version, download_evidence, keep_description

CARD = "model_card.md"
_SHOWN_TAGS = (
    "git_commit",
    "git_dirty",
    "lock_sha256",
    "ledger_sha256",
    "tokenizer_sha256",
    "checkpoint_sha256",
    "weights_sha256",
    "parent_version",
    "parent_run",
    "parent_weights_sha256",
)


def write_card(version: Version) -> str:
    """Write the card of a version into its run and its description; return its text."""
    card = card_of(version, header=False)
    keep_description(version, card, CARD)
    return card


def card_of(version: Version, header: bool = True) -> str:
    """Return the card of a version, from its evidence."""
    with tempfile.TemporaryDirectory() as folder:
        evidence = download_evidence(version, Path(folder))
        return model_card(facts_of(f"{MODEL} version {version.number}", version.tags, evidence), header)


def facts_of(name: str, tags: Mapping[str, str], evidence: Path) -> CardFacts:
    """Read the facts of a version from its tags and the folder of its evidence."""
    lineage = evidence / LINEAGE
    clips = read_lineage(lineage) if lineage.is_file() else None
    counts = {} if clips is None else clips.groupby(["group", "split"]).size().to_dict()
    train, decision = _metrics_of(evidence, "train"), json.loads(tags.get("decision", "{}"))
    training = {"checkpoint step": tags.get("checkpoint_step", "unknown"), "machine": tags.get("machine", "")}
    training |= {name: f"{train[name]:g}" for name in ("steps", "loss", "seconds") if name in train}
    return CardFacts(
        name=name,
        clips={(str(group), str(split)): int(count) for (group, split), count in counts.items()},
        num_videos=0 if clips is None else int(clips["video"].nunique()),
        credits=text_of(evidence / "CREDITS.txt"),
        training=training,
        figures=decision.get("figures", ()),
        reasons=decision.get("reasons", ()),
        metrics=_metrics_of(evidence, "evaluate"),
        registered=True,
        parents=[*_origin(tags), *(ancestor.name for ancestor in read_ancestors(evidence))],
        lineage={tag: tags[tag] for tag in _SHOWN_TAGS if tag in tags},
    )


def _origin(tags: Mapping[str, str]) -> list[str]:
    """The file that the weights were imported from, if they were."""
    imported = json.loads(tags.get(ORIGIN_TAG, "{}")).get("imported")
    return [f"{imported['file']}, sha256 {imported['sha256']}"] if imported else []


def _metrics_of(evidence: Path, stage: str) -> dict[str, float]:
    return json.loads(text_of(evidence / "metrics" / f"{stage}.json") or "{}")
