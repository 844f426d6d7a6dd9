"""What the pages say exists: links, files, commands, options, stages, names of Python, ratios."""

import ast
import dataclasses
import functools
import importlib
import importlib.util
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import yaml

import videomar

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "samples/README.md"],
    key=lambda page: page.relative_to(ROOT).as_posix(),
)
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
FOLDERS = "videomar|stages|flows|tests|benchmarks|docs|samples|presets|deploy"
# Words of a sentence, and what a reader must fill in.
NOT_PATHS = re.compile(r"[*<>{}]|NAME|\.\.\.")
UNCLEAR = re.compile(r"\b(told|amiss|mends?|mended|anew|for ever|of one kind|shall|whoever|thereof)\b", re.I)

pages = pytest.mark.parametrize("page", PAGES, ids=NAMES)


def without_code(text: str) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


def inline_code(text: str) -> list[str]:
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose)]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """As GitHub and MkDocs make them of headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-") for heading in headings
    }


@pages
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


@pages
def test_every_path_it_names_exists(page: Path) -> None:
    for code in inline_code(page.read_text()):
        if re.fullmatch(rf"(?:{FOLDERS})/[\w./-]+", code) and not NOT_PATHS.search(code):
            assert (ROOT / code).exists(), code
        elif re.fullmatch(r"test_\w+\.py", code):
            assert list((ROOT / "tests").rglob(code)), code


def commands(text: str) -> Iterator[list[str]]:
    """Words of every command: of blocks of shell, and of `code` that begins like one."""
    lines = [line for block in blocks(text, "sh") for line in block.replace("\\\n", " ").splitlines()]
    for command in (part for line in [*lines, *inline_code(text)] for part in line.split("&&")):
        try:
            words = shlex.split(command, comments=True)
        except ValueError:
            continue
        while words and re.fullmatch(r"[A-Z][A-Z0-9_]*=.*", words[0]):
            words = words[1:]
        if words and words[0] == "export":
            continue
        if words:
            yield [words[0].removeprefix(".venv/bin/"), *words[1:]]


@functools.cache
def targets() -> set[str]:
    return set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


@functools.cache
def verbs() -> dict[str, set[str]]:
    """Options of each verb of the command `videomar`."""
    from videomar.cli.app import app

    found: dict[str, set[str]] = {}

    def walk(command, name: str) -> None:
        for verb, child in command.commands.items():
            if hasattr(child, "commands"):
                walk(child, f"{name}{verb} ")
            options = {option for parameter in child.params for option in parameter.opts}
            found[f"{name}{verb}"] = options | {"--help"}

    walk(typer.main.get_command(app), "")
    return found


def check_videomar(words: list[str]) -> None:
    if not words or words[0].startswith("--"):
        from videomar.cli.app import app

        own = {option for parameter in typer.main.get_command(app).params for option in parameter.opts}
        assert set(words) <= own | {"--help"}, words
        return
    verb = " ".join(words[:2]) if " ".join(words[:2]) in verbs() else words[0]
    assert verb in verbs()
    used = {
        word.partition("=")[0].strip("[]")
        for word in words
        if word.strip("[").startswith("--") and word != "--"
    }
    assert used <= verbs()[verb], (verb, used)


def check_dvc(words: list[str]) -> None:
    from dvc.cli.parser import get_main_parser

    known = next(action.choices for action in get_main_parser()._actions if action.dest == "cmd")
    assert words[0] in known
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    if words[0] == "repro":
        named = {word for word in words[1:] if not word.startswith("-") and re.fullmatch(r"[a-z_]+", word)}
        assert named <= set(stages), words


@pages
def test_every_command_exists(page: Path) -> None:
    for words in commands(page.read_text()):
        program, rest = words[0], words[1:]
        if program == "make":
            named = {word for word in rest if re.fullmatch(r"[a-z][a-z-]*", word)}
            assert named <= targets(), words
        elif program == "videomar" and rest[:1] != ["VERB"]:
            check_videomar(rest)
        elif program == "dvc" and rest:
            check_dvc(rest)
        elif program.startswith("python") and rest[:1] == ["-m"] and re.match(FOLDERS, rest[1]):
            assert rest[1].endswith(".NAME") or importlib.util.find_spec(rest[1]), words


@pages
def test_python_compiles_and_its_imports_exist(page: Path) -> None:
    for block in blocks(page.read_text(), "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module:
                module = importlib.import_module(node.module)
                assert [name.name for name in node.names if not hasattr(module, name.name)] == []


@pages
def test_names_of_the_code_that_the_site_explains_exist(page: Path) -> None:
    for name in re.findall(r"^::: ([\w.]+)$", page.read_text(), flags=re.MULTILINE):
        module, _, member = name.rpartition(".")
        assert hasattr(importlib.import_module(module), member), name


def test_site_explains_every_section_of_the_parameters() -> None:
    from videomar.config.schema import Params

    classes = {getattr(field.type, "__name__", field.type) for field in dataclasses.fields(Params)}
    explained = re.findall(
        r"^::: [\w.]+\.(\w+)$", (ROOT / "docs/guide/parameters.md").read_text(), flags=re.M
    )
    assert set(explained) == classes


def test_commands_page_names_every_verb() -> None:
    named = inline_code((ROOT / "docs/guide/commands.md").read_text())
    groups = {verb for verb in verbs() if any(other.startswith(f"{verb} ") for other in verbs())}
    missing = {
        verb
        for verb in set(verbs()) - groups
        if not any(code == f"videomar {verb}" or code.startswith(f"videomar {verb} ") for code in named)
    }
    assert missing == set()


def test_site_lists_every_page() -> None:
    listed = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text()))
    assert listed == {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}


def test_ratios_are_those_of_the_committed_benchmarks() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| `(\w+)` \| ([\d.]+) \|", (ROOT / "docs/evidence/benchmarks.md").read_text(), re.M
    )
    assert len(rows) >= 5
    for name, ratio, value in rows:
        measured = json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())["ratios"][ratio]
        digits = len(value.partition(".")[2])
        assert f"{measured:.{digits}f}" == value, (name, ratio)


def test_help_names_every_target_that_users_call() -> None:
    text = (ROOT / "Makefile").read_text()
    helped = set(re.findall(r"^#: make ([a-z-]+)", text, flags=re.MULTILINE))
    assert helped == targets() - {"help", "setup-dev"}
    assert re.search(r"^\.DEFAULT_GOAL := help$", text, flags=re.MULTILINE)


@pages
def test_words_are_plain(page: Path) -> None:
    assert UNCLEAR.findall(without_code(page.read_text())) == []


def test_citation_and_changelog_name_the_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == videomar.__version__
    assert videomar.__version__ in (ROOT / "CHANGELOG.md").read_text()
