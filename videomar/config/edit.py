"""Changes to params.yaml that leave every other byte as it is."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videomar.config.params import load_own_params, read_params_file
from videomar.config.schema import in_sections, refuse_misplaced, refuse_moved, set_keys
from videomar.errors import ParamsError
from videomar.files import atomic_write

if TYPE_CHECKING:
    from ruamel.yaml import YAML


def update_params(path: Path, changes: Mapping[str, Mapping[str, object]]) -> None:
    """Set keys of sections; comments and order stay.

    Args:
        path: params.yaml.
        changes: new values by section and key; each is set where it stands in the file.

    Raises:
        ParamsError: the file is missing or damaged, or would be wrong afterwards; it is then as it was.
    """
    load_own_params(path)
    yaml = round_trip()
    content = yaml.load(path.read_text(encoding="utf-8"))
    set_keys(content, changes)
    with atomic_write(path) as draft:
        with draft.open("w", encoding="utf-8") as file:
            yaml.dump(content, file)
        load_own_params(draft)


def read_preset(folder: Path, name: str) -> dict[str, Any]:
    """Values of `folder/NAME.yaml` by section and key, with the look they have there.

    Raises:
        ParamsError: there is no such preset, or it has keys in a wrong place.
    """
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in known:
        raise ParamsError(f"preset: got {name}, expected {' or '.join(known) or f'files in {folder}'}")
    path = folder / f"{name}.yaml"
    refuse_moved(read_params_file(path), path)
    content = round_trip().load(path.read_text("utf-8"))
    refuse_misplaced(content, path)
    return in_sections(content)


def round_trip() -> "YAML":
    """A reader and writer that keep comments, quotes, order and the notation of numbers."""
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    # An absent value is written as the word that the file uses.
    yaml.representer.add_representer(
        type(None), lambda writer, _: writer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    return yaml
