"""The command as a whole: help with examples, completion, a quick start, and the calls that it replaces."""

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from tests.conftest import ENVIRONMENT_AT_START
from tests.support.checkout import DVC_YAML, free_port
from tests.support.pipeline_outputs import REPOSITORY, write_outputs
from videomar.cli.app import app
from videomar.processes import Identity

WIDTH = 80  # columns of a terminal that nobody has widened
SLOW_TO_IMPORT = {"torch", "mlflow", "prefect", "ray", "dvc", "pandas", "numpy", "transformers"}


def verbs(group: Any = None, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every verb, and of the command itself."""
    group = group or typer.main.get_command(app)
    yield before
    for name, command in getattr(group, "commands", {}).items():
        yield from verbs(command, (*before, name)) if hasattr(command, "commands") else [(*before, name)]


VERBS = [verb for verb in verbs() if verb != ("ledger",)]


def shown_examples(help_text: str) -> list[str]:
    """The commands below `Example:` or `Examples:`, as they are printed."""
    _, _, end = help_text.partition(" Example")
    return [line.strip() for line in end.splitlines() if line.strip().startswith("videomar")]


def parsed(words: list[str]) -> tuple[str, ...]:
    """The verb that the words call; none of it is run.

    Raises:
        Exception: of typer, for wrong usage.
    """
    called: list[tuple[str, ...]] = []
    root = typer.main.get_command(app)

    def replace_callbacks(command: Any, name: tuple[str, ...]) -> None:
        for word, child in getattr(command, "commands", {}).items():
            replace_callbacks(child, (*name, word))
            if not hasattr(child, "commands"):
                child.callback = lambda word=word, **_: called.append((*name, word))

    replace_callbacks(root, ())
    root.main(words, prog_name="videomar", standalone_mode=False)
    (verb,) = called
    return verb


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_help_of_a_verb_ends_with_examples_that_parse(verb: tuple[str, ...]) -> None:
    done = CliRunner().invoke(app, [*verb, "--help"], env={"COLUMNS": str(WIDTH)})
    assert done.exit_code == 0
    examples = shown_examples(done.output)
    assert examples
    for example in examples:
        program, *words = shlex.split(example)
        assert program == "videomar"
        assert parsed(words) == verb or not verb, example


def test_examples_are_refused_that_no_verb_takes() -> None:
    """The test above can fail."""
    with pytest.raises(Exception, match="No such option"):
        parsed(["gc", "--forever"])
    with pytest.raises(Exception, match="No such command"):
        parsed(["fly"])


def test_help_lists_every_verb_in_a_panel_of_its_kind() -> None:
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": str(WIDTH)}).output
    panels: dict[str, list[str]] = {}
    title = ""
    for line in shown.splitlines():
        if line.startswith("╭─ "):
            title = line.strip("╭─╮ ")
            panels[title] = []
        elif line.startswith("│ ") and line[2] != " ":
            panels[title].append(line.split()[1])
    panels.pop("Options")
    assert list(panels) == ["Pipeline", "Models", "Registry", "Services", "Upkeep"]
    assert {"release", "report", "evaluate", "vbench", "promote"} <= set(panels["Registry"])
    assert panels["Services"] == ["up", "down"]
    assert "status" in panels["Pipeline"]
    assert sorted(name for names in panels.values() for name in names) == sorted(
        {verb[0] for verb in VERBS if verb}
    )


def videomar(folder: Path, *words: str, module: str = "videomar.cli", **more: str) -> Any:
    """Run the command, or another module, in a folder."""
    environment = {
        **ENVIRONMENT_AT_START,
        "PYTHONPATH": str(REPOSITORY),
        "PREFECT_HOME": str(folder / ".local/prefect"),
        **more,
    }
    command = [sys.executable, "-m", module, *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_help_and_completion_import_nothing_that_is_slow(tmp_path: Path) -> None:
    """In one process: the help of every verb, wrong usage, and what a shell asks for at each key."""
    code = f"""
import os, sys
from typer.testing import CliRunner
from videomar.cli.app import app
for verb in {VERBS!r}:
    assert CliRunner().invoke(app, [*verb, "--help"]).exit_code == 0
assert CliRunner().invoke(app, ["fly"]).exit_code == 2
for words in ("videomar use-preset ", "videomar generate --model "):
    asked = {{"_VIDEOMAR_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": words}}
    assert CliRunner().invoke(app, [], env=asked, prog_name="videomar").exit_code == 0
print(sorted({SLOW_TO_IMPORT!r} & {{name.partition(".")[0] for name in sys.modules}}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


@pytest.fixture
def on_path(tmp_path: Path) -> dict[str, str]:
    """An environment in which `videomar` can be called as an installed one."""
    script = tmp_path / "bin/videomar"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m videomar.cli "$@"\n')
    script.chmod(0o755)
    path = f"{script.parent}{os.pathsep}{os.environ['PATH']}"
    return {**ENVIRONMENT_AT_START, "PYTHONPATH": str(REPOSITORY), "PATH": path, "HOME": str(tmp_path)}


COMPLETED = [
    (["use-pr"], ["use-preset"]),
    (["ledger", ""], ["show", "diff", "remove"]),
    (["promote", "--fo"], ["--force"]),
    (["use-preset", "pa"], ["paper"]),
    (["generate", "--model", "ch"], ["champion", "challenger"]),
    (["import", "a.pth", "--head", ""], ["auto", "ddpm", "flow"]),
]


@pytest.mark.parametrize(("words", "expected"), COMPLETED, ids=lambda value: " ".join(value))
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completes_verbs_options_and_values(
    on_path: dict[str, str], shell: str, words: list[str], expected: list[str]
) -> None:
    """Bash itself runs what is installed there; what zsh and fish ask for is asked for here."""
    line = " ".join(["videomar", *words])
    asked = {"_VIDEOMAR_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": line}
    command = ["videomar"]
    if shell == "bash":
        listed = " ".join(shlex.quote(word) for word in ["videomar", *words])
        script = (
            f'eval "$(_VIDEOMAR_COMPLETE=source_bash videomar)"; COMP_WORDS=({listed}); '
            f"COMP_CWORD={len(words)}; _videomar_completion videomar; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        )
        asked, command = {}, ["bash", "-c", script]
    elif shell == "fish":
        asked["_TYPER_COMPLETE_FISH_ACTION"] = "get-args"
    done = subprocess.run(
        command, env={**on_path, **asked}, cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    found = done.stdout.replace('"', "\n").replace("\t", "\n").replace(":", "\n").split()
    assert set(expected) <= set(found), done.stdout
    assert not {"gc", "--version", "medium", "shipped"} & set(found)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_installed_in_the_shell_that_asks(on_path: dict[str, str], shell: str) -> None:
    home = Path(on_path["HOME"])
    code = f"import shellingham; shellingham.detect_shell = lambda *_: ({shell!r}, ''); "
    code += (
        "import sys; sys.argv = ['videomar', '--install-completion']; from videomar.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=on_path, cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    written = {
        "bash": ".bash_completions/videomar.sh",
        "zsh": ".zfunc/_videomar",
        "fish": ".config/fish/completions/videomar.fish",
    }
    assert "_VIDEOMAR_COMPLETE" in (home / written[shell]).read_text()


def folder_of_a_pipeline(folder: Path) -> Path:
    (folder / "dvc.yaml").write_text(DVC_YAML)
    for name in ("params.yaml", "prefect.yaml"):
        shutil.copy(REPOSITORY / name, folder)
    return folder


@pytest.mark.parametrize("verb", ["up", "status", "release", "report"])
def test_verb_of_a_pipeline_refuses_another_folder_and_writes_nothing(tmp_path: Path, verb: str) -> None:
    done = videomar(tmp_path, verb)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("videomar: dvc.yaml: no such file, expected the folder of a pipeline; ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("module", "old", "words", "code"),
    [
        ("videomar.services", ["down"], ["down"], 0),
        ("videomar.services", ["up"], ["up"], 1),
        ("flows.release", [], ["release"], 1),
        (
            "videomar.evaluation.vbench.measure",
            ["--python", "none", "--weights", "."],
            ["vbench", "--python", "none", "--weights", "."],
            1,
        ),
    ],
    ids=["down", "up", "release", "vbench"],
)
def test_verb_does_what_the_module_does_that_it_replaces(
    tmp_path: Path, module: str, old: list[str], words: list[str], code: int
) -> None:
    folder_of_a_pipeline(tmp_path)
    ports = {"VIDEOMAR_HOST": "0.0.0.0"}  # refused without passwords, so nothing is started
    before = videomar(tmp_path, *old, module=module, **ports)
    now = videomar(tmp_path, *words, **ports)
    assert (before.returncode, now.returncode) == (code, code), now.stderr
    assert before.stdout == now.stdout
    unnamed = [done.stderr.removeprefix("services: ").removeprefix("videomar: ") for done in (before, now)]
    assert unnamed[0] == unnamed[1]
    assert len(unnamed[0].splitlines()) == code


def test_option_of_up_asks_for_a_ray_head(tmp_path: Path) -> None:
    """As RAY=1 of make does: its port is looked at, too."""
    folder_of_a_pipeline(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = {"VIDEOMAR_RAY_PORT": str(taken.getsockname()[1])}
        ports |= {f"VIDEOMAR_{name}_PORT": str(free_port()) for name in ("MLFLOW", "PREFECT")}
        done = videomar(tmp_path, "up", "--ray", **ports)
    assert done.returncode == 1
    assert ports["VIDEOMAR_RAY_PORT"] in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_status_before_the_first_run_makes_nothing(tmp_path: Path) -> None:
    folder_of_a_pipeline(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    done = videomar(tmp_path, "status")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "services: none are up; `.venv/bin/videomar up` starts them",
        "pipeline: has not run yet; `make run` runs it",
        "champion: none",
        "challenger: none",
        "report: none",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_status_shows_services_and_what_is_wrong(tmp_path: Path) -> None:
    folder_of_a_pipeline(tmp_path)
    (tmp_path / ".local").mkdir()
    silent = f"http://127.0.0.1:{free_port()}"
    gone = list(Identity(os.getpid(), 0.0))  # another process had this number
    services = {
        "mlflow": {"address": silent, "ready": True, "deaths": 0, "processes": [gone]},
        "flows": {"address": None, "ready": False, "deaths": 0, "processes": [gone]},
    }
    record = {"supervisor": gone, "prefect_api": silent, "tracking_uri": None, "services": services}
    (tmp_path / ".local/services.json").write_text(json.dumps(record))
    lines = videomar(tmp_path, "status").stdout.splitlines()
    assert lines[:2] == [f"mlflow: {silent}", "flows: no page, not ready yet"]
    what = "its supervisor has ended, expected a living process"
    assert lines[-1] == f"problem: .local/services.json: {what}; fix: make up"
    found = json.loads(videomar(tmp_path, "status", "--json").stdout)
    assert found["services"]["mlflow"] == {"address": silent, "ready": True}
    assert found["problems"] == [lines[-1].removeprefix("problem: ")]


def test_status_of_a_damaged_pipeline_shows_the_rest(tmp_path: Path) -> None:
    """No folder of DVC, and a store that is none: each is a problem of one line."""
    folder_of_a_pipeline(tmp_path)
    (tmp_path / "dvc.lock").write_text("schema: '2.0'\n")
    (tmp_path / ".local").mkdir()
    (tmp_path / ".local/mlflow.db").write_bytes(b"no database of any kind")
    done = videomar(tmp_path, "status")
    assert (done.returncode, done.stderr) == (0, "")
    assert "report: none" in done.stdout.splitlines()
    problems = [line for line in done.stdout.splitlines() if line.startswith("problem: ")]
    assert len(problems) == 2
    assert "mlflow.db" in problems[0]
    assert "DVC repository" in problems[1]


@pytest.mark.slow
def test_release_report_and_status_agree(tmp_path: Path) -> None:
    write_outputs(tmp_path)
    folder_of_a_pipeline(tmp_path)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet"], cwd=tmp_path, check=True)
    refused = videomar(tmp_path, "report")
    assert refused.returncode == 1
    assert "dvc.lock: got no release of it, expected one; run `videomar release`" in refused.stderr
    released = videomar(tmp_path, "release")
    assert released.returncode == 0, released.stderr
    champion = "champion: videomar version 1 (checkpoint step 30)"
    assert released.stdout.splitlines()[-2:] == ["report: reports/index.html", champion]
    page = tmp_path / "reports/index.html"
    page.unlink()
    assert "report: none" in videomar(tmp_path, "status").stdout
    assert videomar(tmp_path, "report").stdout == "reports/index.html\n"
    assert "VideoMAR: videomar version 1" in page.read_text()
    found = json.loads(videomar(tmp_path, "status", "--json").stdout)
    versions = {name: found[name] for name in ("champion", "challenger", "released", "report")}
    assert versions == {
        **dict.fromkeys(("champion", "challenger", "released"), "1"),
        "report": "reports/index.html",
    }
    assert (found["changed"], found["problems"]) == (["first", "second"], [])
