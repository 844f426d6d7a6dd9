"""What training starts from when clips are chosen: the shipped model for clips of one's own, else nothing.

    params.yaml as it came   <->   the schedule of presets/finetune.yaml, train.start_from: shipped, and the
    (presets/small.yaml)           keys that decide the sizes of the shipped network, where they differ

Both directions change the same keys, so going back to the sample clips leaves the file as it came.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from videomar.checkpoint.model_folder import PARAMS_FILE
from videomar.config import Params, load_own_params, load_params
from videomar.config.edit import read_preset, update_params, with_changes
from videomar.config.models import ModelParams
from videomar.config.params import variants_of
from videomar.hub.shipped import FOLDER, SHIPPED

NOTHING = "nothing"
Start = Literal["shipped", "nothing"]
"""What a user may ask for."""
SCRATCH, TUNED = "small", "finetune"
"""Presets with the values of both."""
NETWORK: Mapping[str, tuple[str, ...]] = {
    "ingest": ("size_px", "side_multiple_px", "fps", "num_frames"),
    "tokenizer": ("pretrained", "channels", "time_stride", "space_stride", "hidden_size", "depth"),
    "text": ("encoder", "prefix", "max_tokens"),
    "model": tuple(field.name for field in fields(ModelParams)),
}
"""Keys that decide the sizes of a network, and the size and rate of the clips that its weights have seen."""
Values = dict[str, dict[str, Any]]
"""By section and key."""
_SHOWN = 4


def choose_start(path: Path, presets: Path, own_clips: bool, wanted: Start | None = None) -> str | None:
    """Set in params.yaml what training starts from; return a line about it if there is something to say.

    Args:
        path: params.yaml.
        presets: Folder with the presets.
        own_clips: Whether the clips are now the user's instead of samples; False = the other way round.
        wanted: What the user asked for; None = the shipped weights for own clips, as long as the keys that
            matter are as they came, and nothing for samples.
    """
    if not (FOLDER / PARAMS_FILE).is_file():
        return None
    params, scratch = load_own_params(path), read_preset(presets, SCRATCH)
    network = _part(scratch, NETWORK)
    tuned = _tuned(read_preset(presets, TUNED), with_changes(FOLDER / PARAMS_FILE, network))
    if wanted is None and own_clips:
        if params.train.start_from is not None:
            return None
        if theirs := _what_the_user_decided(params, scratch, tuned):
            return _line(
                NOTHING, f"as {theirs}; `use-clips FOLDER --start-from {SHIPPED}` sets what it needs"
            )
    if wanted == SHIPPED or (wanted is None and own_clips):
        update_params(path, _tuned(tuned, params))
        other = f"`use-clips FOLDER --start-from {NOTHING}` trains from random weights"
        return _line(SHIPPED, f"with its tokenizer and the schedule of the preset {TUNED}; {other}")
    if params.train.start_from is None or (wanted is None and params.train.start_from != SHIPPED):
        return None
    # What the user wrote since then stays.
    stays = set(_differing(params, tuned)) - {"train.start_from", "train.lora"}
    back = {
        name: {key: scratch[name][key] for key in values if f"{name}.{key}" not in stays}
        for name, values in tuned.items()
    }
    update_params(path, back)
    kept = f"; {_some(sorted(stays))} as you wrote it" if stays else ""
    return _line(NOTHING, f"with the schedule of the preset {SCRATCH}{kept}")


def _tuned(preset: Values, params: Params) -> Values:
    """Add to a preset that fine-tunes what parameters must change to start from the shipped weights."""
    shipped = load_params(FOLDER / PARAMS_FILE)
    found = {**preset, "train": {**preset["train"], "start_from": SHIPPED}}
    for section, keys in NETWORK.items():
        ours, theirs = getattr(params, section), getattr(shipped, section)
        changed = [key for key in keys if getattr(ours, key) != getattr(theirs, key)]
        values = {key: _in_one_line(getattr(theirs, key)) for key in changed}
        found[section] = {**found.get(section, {}), **values}
    return {section: values for section, values in found.items() if values}


def _what_the_user_decided(params: Params, scratch: Values, tuned: Values) -> str:
    """Why the shipped weights would not be what this file asks for; empty if all is as it came."""
    if variants_of(params):
        return "train.runs or train.search says what is trained"
    changed = _differing(params, {**_part(scratch, tuned), **_part(scratch, NETWORK)})
    return f"{_some(changed)} not as it came" if changed else ""


def _part(values: Values, keys: Mapping[str, Collection[str]]) -> Values:
    """Those of the values whose keys are asked for."""
    return {
        name: {key: value for key, value in values.get(name, {}).items() if key in wanted}
        for name, wanted in keys.items()
    }


def _differing(params: Params, values: Values) -> list[str]:
    """Keys, as `section.key`, that have other values in the parameters."""
    other = with_changes(FOLDER / PARAMS_FILE, values)  # whose other keys do not matter
    return [
        f"{name}.{key}"
        for name, keys in values.items()
        for key in keys
        if getattr(getattr(params, name), key) != getattr(getattr(other, name), key)
    ]


def _in_one_line(value: Any) -> Any:
    """A list as params.yaml has it, in brackets; any other value as it is."""
    if not isinstance(value, list | tuple):
        return value
    from ruamel.yaml.comments import CommentedSeq

    found = CommentedSeq(value)
    found.fa.set_flow_style()
    return found


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{shown}{more} {'are' if len(names) > 1 else 'is'}"


def _line(start: str, why: str) -> str:
    weights = "the shipped model" if start == SHIPPED else "random weights"
    return f"params.yaml: training starts from {weights}, {why}"
