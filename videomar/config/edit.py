"""Edit params.yaml and leave every other byte as it is."""

from collections.abc import Mapping
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from videomar.config.params import load_own_params, read_params_file
from videomar.config.schema import Params, in_sections, refuse_misplaced, refuse_moved, set_keys
from videomar.errors import ParamsError
from videomar.files import atomic_write

if TYPE_CHECKING:
    from ruamel.yaml import YAML


def update_params(path: Path, changes: Mapping[str, Mapping[str, object]]) -> None:
    """Set keys of sections and keep comments and order.

    Args:
        path: params.yaml.
        changes: new values by section and key; each is set at its place in the file.

    Raises:
        ParamsError: the file is missing or damaged, or would be invalid afterwards; it is then unchanged.
    """
    load_own_params(path)
    yaml = round_trip()
    content = yaml.load(path.read_text(encoding="utf-8"))
    set_keys(content, changes)
    with atomic_write(path) as draft:
        with draft.open("w", encoding="utf-8") as file:
            yaml.dump(content, file)
        load_own_params(draft)


def with_changes(path: Path, changes: Mapping[str, Mapping[str, object]]) -> Params:
    """Return the parameters of a file with other values of some keys; the file stays as it is.

    Args:
        path: params.yaml.
        changes: values by section and key, as of `read_preset`.

    Raises:
        ParamsError: the file is missing or damaged, or would be invalid with these values.
    """
    load_own_params(path)
    with TemporaryDirectory() as folder:
        draft = Path(folder) / path.name
        copyfile(path, draft)
        update_params(draft, changes)
        return load_own_params(draft)


def read_preset(folder: Path, name: str) -> dict[str, Any]:
    """Return the values of `folder/NAME.yaml` by section and key, in the notation of the file.

    Raises:
        ParamsError: no such preset exists, or it has keys in a wrong place.
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
    """Return a YAML reader and writer that keeps comments, quotes, order and the notation of numbers."""
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    # ruamel writes an absent value as nothing; params.yaml uses the word null.
    yaml.representer.add_representer(
        type(None), lambda writer, _: writer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    return yaml
