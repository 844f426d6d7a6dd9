"""Move the keys of a params.yaml of the old layout to their present places."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from videomar.config.edit import round_trip
from videomar.config.params import read_params_file
from videomar.config.schema import in_sections, moved_keys, refuse_misplaced
from videomar.config.section import RESOURCES
from videomar.errors import ParamsError
from videomar.files import atomic_write

if TYPE_CHECKING:
    from ruamel.yaml.comments import CommentedMap

_ABOUT = """
How the stages run, not what comes out of them: none depends on these keys, so none runs again for them."""
_INDENT, _DEEPER = 4, 2


class _Moved(NamedTuple):
    """A key to move, with its comments."""

    section: str
    key: str
    value: object
    above: str
    """Comment in the lines above the key."""
    beside: str
    """Comment in the key's line."""
    column: int
    """Column of the comment beside the key."""


def migrate(path: Path) -> list[str]:
    """Move resources out of their sections and return a line for each moved key.

    The comments beside a key and in the lines right above it move with it. All other lines stay.

    Raises:
        ParamsError: the file cannot be read, or has a key in both places; it is then unchanged.
    """
    before = read_params_file(path)
    keys = moved_keys(before)
    if not keys:
        return []
    refuse_misplaced(before, path)
    with atomic_write(path) as draft:
        if not _write(draft, *_without(path.read_text("utf-8"), keys)) or _meaning(draft) != _meaning(path):
            rule = "numbers and words, a key a line; move them by hand"
            raise ParamsError(f"{path}: got resources that are written in another way, expected {rule}")
    return [f"{path}: {name}.{key} is now {RESOURCES}.{name}.{key}" for name, key in keys]


def _without(text: str, keys: Sequence[tuple[str, str]]) -> tuple[str, list[_Moved]]:
    """Remove the lines of these keys from the text; return the rest and the keys with their comments."""
    content, lines = round_trip().load(text), text.splitlines(keepends=True)
    moved = []
    for name, key in keys:
        section: CommentedMap = content[name]
        if section.fa.flow_style():
            moved.append(_Moved(name, key, section[key], "", "", 0))
            continue
        row = first = section.lc.key(key)[0]
        while lines[first - 1].lstrip().startswith("#"):
            first -= 1
        above = "\n".join(line.strip().lstrip("# ") for line in lines[first:row])
        comment = section.ca.items.get(key, [None] * 3)[2]
        beside = comment.value.split("\n")[0].lstrip("# ") if comment else ""
        column = comment.start_mark.column if comment else 0
        moved.append(_Moved(name, key, section[key], above, beside, column))
        lines[first : row + 1] = [""] * (row + 1 - first)
    for name in {name for name, _ in keys}:
        if all((name, key) in keys for key in content[name]) and not content[name].fa.flow_style():
            lines[content.lc.key(name)[0]] = ""
    return "".join(lines), moved


def _write(draft: Path, text: str, moved: Sequence[_Moved]) -> bool:
    """Write the text with the keys below `resources`; return False if it is not YAML without them."""
    from ruamel.yaml.comments import CommentedMap
    from ruamel.yaml.error import YAMLError

    yaml = round_trip()
    try:
        content = yaml.load(text)
    except YAMLError:
        return False
    if content is None:  # the file held nothing else
        content = CommentedMap()
    if not isinstance(content, CommentedMap):
        return False
    for one in moved:
        content.get(one.section, {}).pop(one.key, None)  # from a section in braces, whose keys have no lines
        _put(content, one)
    with draft.open("w", encoding="utf-8") as file:
        yaml.dump(content, file)
    return True


def _put(content: "CommentedMap", moved: _Moved) -> None:
    """Add a key below `resources`, with its comments."""
    from ruamel.yaml.comments import CommentedMap

    if RESOURCES not in content:
        content[RESOURCES] = CommentedMap()
        content.yaml_set_comment_before_after_key(RESOURCES, before=_ABOUT)
    section = content[RESOURCES].setdefault(moved.section, CommentedMap())
    section[moved.key] = moved.value
    if moved.above:
        section.yaml_set_comment_before_after_key(moved.key, before=moved.above, indent=_INDENT)
    if moved.beside:
        section.yaml_add_eol_comment(moved.beside, moved.key, column=moved.column + _DEEPER)


def _meaning(path: Path) -> dict[str, object]:
    """Content of a file regardless of its layout, without empty sections."""
    sections = in_sections(read_params_file(path))
    return {name: values for name, values in sections.items() if values}
