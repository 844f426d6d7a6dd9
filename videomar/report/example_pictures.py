"""Held-out pictures with their prompts, kept in a model's folder for a first try.

examples/prompts.json   file and prompt of each, in order
examples/NAME.png       the first frame of a clip that the model was not trained on
"""

import json
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from videomar.evaluation.generated import Clip, read_generated
from videomar.files import write_json

EXAMPLES = "examples"
_PROMPTS = "prompts.json"
_MOST = {"simulated": 4}
"""Examples of a group, which have different prompts; of other groups two."""


class Example(NamedTuple):
    """A picture to start from, and what happens then."""

    picture: Path
    prompt: str


def write_examples(generated: Path, model: Path) -> list[Path]:
    """Write the first held-out clips of each group by id, with different prompts, into a model's folder.

    Args:
        generated: generated.parquet of the evaluation.
        model: folder of the model.

    Returns:
        The files written.
    """
    folder = model / EXAMPLES
    folder.mkdir(parents=True)
    listed = []
    for clip in _chosen([kinds["truth"] for kinds in read_generated(generated)]):
        name = f"{clip.clip_id}.png"
        Image.fromarray(clip.frames[0]).save(folder / name)
        listed.append({"picture": name, "prompt": clip.prompt})
    write_json(folder / _PROMPTS, listed)
    return sorted(folder.iterdir())


def read_examples(model: Path) -> list[Example]:
    """The examples in a model's folder; none if it has no such file, or one that is not ours."""
    folder = model / EXAMPLES
    try:
        listed = json.loads((folder / _PROMPTS).read_text("utf-8"))
        found = [Example(folder / Path(row["picture"]).name, str(row["prompt"])) for row in listed]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [example for example in found if example.picture.is_file()]


def _chosen(truths: list[Clip]) -> list[Clip]:
    chosen: list[Clip] = []
    for clip in sorted(truths, key=lambda clip: (clip.group != "simulated", clip.group, clip.clip_id)):
        same = [other for other in chosen if other.group == clip.group]
        new = clip.prompt not in [other.prompt for other in same]
        if new and len(same) < _MOST.get(clip.group, 2):
            chosen.append(clip)
    return chosen
