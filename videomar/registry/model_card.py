"""The model card of a registered version, in Markdown, from its evidence."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from videomar.registry.evidence import LINEAGE, read_lineage, text_of
from videomar.registry.versions import Version, download_evidence, keep_description

CARD = "model_card.md"
_SHOWN_TAGS = (
    "git_commit",
    "git_dirty",
    "lock_sha256",
    "ledger_sha256",
    "tokenizer_sha256",
    "checkpoint_sha256",
)

_LIMITS = (
    "It knows only what its clips show: motion, scenes and words beyond them come out wrong or not at all.",
    "A prompt counts where the training clips had captions; elsewhere the picture decides.",
    "Clips longer or larger than trained work by a sliding window and get worse with length.",
    "The figures are of held-out clips of the same sources; they say nothing of other footage.",
    "It has no filter: what is made with it is the user's to answer for.",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class CardFacts:
    """Contents of a card; what is not known is left empty."""

    name: str
    clips: Mapping[tuple[str, str], int]
    """Kept clips by group and split."""
    num_videos: int
    credits: str = ""
    """Licences and attributions, from the folder of the clips."""
    training: Mapping[str, str] = field(default_factory=dict)
    """Steps, seconds, machine and the like, by name."""
    figures: Sequence[Mapping[str, Any]] = ()
    """The gate's: name, value, low, high, n; decibels."""
    reasons: Sequence[str] = ()
    """The gate's reasons."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    lineage: Mapping[str, str] = field(default_factory=dict)


def write_card(version: Version) -> str:
    """Write the card of a version into its run and its description; return its text."""
    with tempfile.TemporaryDirectory() as folder:
        card = model_card(_facts(version, download_evidence(version, Path(folder))))
    keep_description(version, card, CARD)
    return card


def model_card(facts: CardFacts) -> str:
    """Return the card as Markdown."""
    parts = [
        f"# {facts.name}",
        "Image-to-video by autoregression over continuous tokens (VideoMAR): a picture and words to a clip.",
        *_data(facts),
        *_table("Training", facts.training),
        *_metrics(facts),
        "## Limits",
        "\n".join(f"- {limit}" for limit in _LIMITS),
        "## How to load",
        _loading(),
        *_table("Lineage", facts.lineage),
    ]
    return "\n\n".join(parts) + "\n"


def _data(facts: CardFacts) -> list[str]:
    total = sum(facts.clips.values())
    rows = [f"| {_cell(group)} | {_cell(split)} | {n} |" for (group, split), n in sorted(facts.clips.items())]
    table = "\n".join(["| group | split | clips |", "|---|---|---:|", *rows])
    licences = "\n".join(f"- {line}" for line in facts.credits.splitlines() if line.strip())
    unknown = "Not stated: the clips are the user's own, and so are their licences."
    return [
        "## Data",
        f"{total} clips of {facts.num_videos} videos.",
        table,
        "## Licences",
        licences or unknown,
    ]


def _metrics(facts: CardFacts) -> list[str]:
    rows = []
    for figure in facts.figures:
        unit = figure.get("unit", "dB")
        value, low, high = (f"{figure[key]:+.{2 if unit else 3}f}" for key in ("value", "low", "high"))
        rows.append(f"| {_cell(figure['name'])} | {value} {unit} | {low} to {high} | {figure['n']} |")
    head = ["| comparison | mean | interval | clips |", "|---|---:|---|---:|"]
    judged = ["\n".join([*head, *rows])] if rows else ["No comparison with an interval yet."]
    words = ["Gate: " + " ".join(facts.reasons)] if facts.reasons else []
    plain = {name: f"{value:g}" for name, value in facts.metrics.items()}
    return ["## Metrics", *judged, *words, *_table("All figures of the evaluation", plain, level=3)]


def _table(title: str, values: Mapping[str, str], level: int = 2) -> list[str]:
    if not values:
        return []
    rows = [f"| {_cell(name)} | {_cell(value)} |" for name, value in values.items()]
    return [f"{'#' * level} {title}", "\n".join(["| what | value |", "|---|---|", *rows])]


def _cell(text: str) -> str:
    """Text that cannot end its cell of the table."""
    return " ".join(str(text).replace("|", "\\|").split())


def _loading() -> str:
    code = [
        "```python",
        "import base64, mlflow, pandas",
        "# MLFLOW_TRACKING_URI names the store",
        'model = mlflow.pyfunc.load_model("models:/videomar@champion")',
        'table = pandas.DataFrame({"image": ["first.png"], "prompt": ["what happens"]})',
        'video = model.predict(table, params={"seed": 0})["video"][0]',
        'open("clip.mp4", "wb").write(base64.b64decode(video))',
        "```",
        "",
        "`mlflow models serve -m models:/videomar@champion --env-manager local` answers the same over HTTP:",
        'POST `{"dataframe_split": {"columns": ["image", "prompt"], "data": [[BASE64, TEXT]]}}` to',
        "`/invocations` returns `predictions`, each with `video`: the bytes of an mp4 file in base64.",
    ]
    return "\n".join(code)


def _facts(version: Version, evidence: Path) -> CardFacts:
    lineage = evidence / LINEAGE
    clips = read_lineage(lineage) if lineage.is_file() else None
    counts = {} if clips is None else clips.groupby(["group", "split"]).size().to_dict()
    train, decision = _metrics_of(evidence, "train"), version.decision or {}
    training = {"checkpoint step": version.step, "machine": version.tags.get("machine", "")}
    training |= {name: f"{train[name]:g}" for name in ("steps", "loss", "seconds") if name in train}
    return CardFacts(
        name=f"videomar version {version.number}",
        clips={(str(group), str(split)): int(count) for (group, split), count in counts.items()},
        num_videos=0 if clips is None else int(clips["video"].nunique()),
        credits=text_of(evidence / "CREDITS.txt"),
        training=training,
        figures=decision.get("figures", ()),
        reasons=decision.get("reasons", ()),
        metrics=_metrics_of(evidence, "evaluate"),
        lineage={name: version.tags[name] for name in _SHOWN_TAGS if name in version.tags},
    )


def _metrics_of(evidence: Path, stage: str) -> dict[str, float]:
    return json.loads(text_of(evidence / "metrics" / f"{stage}.json") or "{}")
