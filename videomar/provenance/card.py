"""The card of a model: what it is and is not, in Markdown, with the header that hubs read."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_TAGS = ("image-to-video", "autoregressive", "diffusion-head", "videomar")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
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
    clips: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Kept clips by group and split."""
    num_videos: int = 0
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
    license: str = "other"
    """Identifier that hubs know, as `apache-2.0`; `other` = see section Licences."""
    parents: Sequence[str] = ()
    """Models that it was fine-tuned or converted from; those as OWNER/NAME are linked by hubs."""
    registered: bool = False
    """Whether it is in an MLflow registry, which the section on loading then explains."""


def model_card(facts: CardFacts, header: bool = True) -> str:
    """Return the card as Markdown, with the header in YAML that hubs read, or without."""
    parts = [
        *([_header(facts)] if header else []),
        f"# {facts.name}",
        "Image-to-video by autoregression over continuous tokens (VideoMAR): a picture and words to a clip.",
        *_data(facts),
        *(
            ["## Parents", "\n".join(f"- {_cell(parent)}" for parent in facts.parents)]
            if facts.parents
            else []
        ),
        *_table("Training", facts.training),
        *_metrics(facts),
        "## Limits",
        "\n".join(f"- {limit}" for limit in _LIMITS),
        "## How to load",
        _loading(facts.registered),
        *_table("Lineage", facts.lineage),
    ]
    return "\n\n".join(parts) + "\n"


def _data(facts: CardFacts) -> list[str]:
    if not facts.clips:
        return ["## Data", "Not recorded with these weights.", "## Licences", "Not stated."]
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


def _parents(parents: Sequence[str]) -> list[str]:
    return ["## Parents", "\n".join(f"- {parent}" for parent in parents)] if parents else []


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
    rows = [f"| {_cell(name)} | {_cell(value)} |" for name, value in values.items() if value]
    if not rows:
        return []
    return [f"{'#' * level} {title}", "\n".join(["| what | value |", "|---|---|", *rows])]


def _cell(text: str) -> str:
    """Text that cannot end its cell of the table."""
    return " ".join(str(text).replace("|", "\\|").split())


def _header(facts: CardFacts) -> str:
    """The metadata that hubs read; each value is JSON, which is YAML, too."""
    values: dict[str, object] = {
        "library_name": "videomar",
        "pipeline_tag": "image-to-video",
        "license": facts.license,
        "tags": _TAGS,
    }
    if facts.license == "other":
        values |= {"license_name": "see-licences-below", "license_link": "README.md#licences"}
    if linked := [parent for parent in facts.parents if _HUB_ID.fullmatch(parent)]:
        values["base_model"] = linked
    if facts.metrics:
        metrics = [
            {"type": name, "name": name, "value": round(value, 6)} for name, value in facts.metrics.items()
        ]
        data = {"name": "held-out clips of the same sources", "type": "held-out"}
        task = {"type": "image-to-video"}
        results = [{"task": task, "dataset": data, "metrics": metrics}]
        values["model-index"] = [{"name": facts.name, "results": results}]
    return "\n".join(["---", *(f"{name}: {json.dumps(value)}" for name, value in values.items()), "---"])


def _loading(registered: bool) -> str:
    code = [
        "```python",
        "import videomar",
        "",
        'model = videomar.load("champion")  # or a version, this folder, OWNER/NAME on a hub',
        'clip = model("first.png", prompt="what happens", seed=0)  # uint8 (F, H, W, 3)',
        "```",
    ]
    served = [
        "",
        "```python",
        "import base64, mlflow, pandas",
        "# MLFLOW_TRACKING_URI names the store",
        'model = mlflow.pyfunc.load_model("models:/videomar@champion")',
        'image = base64.b64encode(open("first.png", "rb").read()).decode()',
        'table = pandas.DataFrame({"image": [image], "prompt": ["what happens"]})',
        'video = model.predict(table, params={"seed": 0})["video"][0]',
        'open("clip.mp4", "wb").write(base64.b64decode(video))',
        "```",
        "",
        "`mlflow models serve -m models:/videomar@champion --env-manager local` answers the same over HTTP:",
        'POST `{"dataframe_split": {"columns": ["image", "prompt"], "data": [[BASE64, TEXT]]}}` to',
        "`/invocations` returns `predictions`, each with `video`: the bytes of an mp4 file in base64.",
    ]
    return "\n".join(code + served if registered else code)
