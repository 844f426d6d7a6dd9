"""Resources apart: what says how a run goes stands below `resources`, where no stage of DVC looks."""

import ast
import copy
import dataclasses
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.stage import Stage
from tests.support.old_layout import ROOT, SHIPPED, old_text
from videomar.config import TrainParams, load_own_params, load_params
from videomar.config.edit import read_preset, update_params
from videomar.config.params import variants_of
from videomar.config.schema import LATER_RESOURCES, RESOURCE_KEYS, SECTIONS, set_keys
from videomar.config.section import Mark, fixed_keys, free_keys, keys_marked
from videomar.errors import OldLayoutError, ParamsError
from videomar.ops.check_pipeline import params_findings

PLACES = [(section, key) for section, keys in RESOURCE_KEYS.items() for key in keys]
Raw = dict[str, Any]


@pytest.fixture
def raw() -> Raw:
    return yaml.safe_load(SHIPPED)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """params.yaml in the working folder; each test writes its own."""
    monkeypatch.chdir(tmp_path)
    return Path("params.yaml")


def refusal(file: Path, raw: Raw, load: Callable[[Path], object] = load_own_params) -> str:
    """What is said of a file; one line."""
    file.write_text(yaml.safe_dump(raw))
    with pytest.raises(ParamsError) as caught:
        load(file)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_key_stands_where_it_is_declared(raw: Raw) -> None:
    assert set(raw) == {*SECTIONS, "resources"}
    assert set(raw["resources"]) == set(RESOURCE_KEYS)
    for name, cls in SECTIONS.items():
        below = raw["resources"].get(name, {})
        assert set(below) == set(RESOURCE_KEYS.get(name, ()))
        assert {*raw[name], *below} == {field.name for field in dataclasses.fields(cls)}
        assert not set(raw[name]) & set(below)


@pytest.mark.parametrize("name", SECTIONS)
def test_what_results_depend_on_has_no_resource_and_no_choice_among_runs(name: str) -> None:
    section = getattr(load_params(ROOT / "params.yaml"), name)
    fixed, free = fixed_keys(section), free_keys(section)
    assert {**fixed, **free} == dataclasses.asdict(section)
    assert set(free) == {*keys_marked(SECTIONS[name], *Mark)}
    assert not set(fixed) & set(free)


def test_choices_among_runs_stand_in_their_section(raw: Raw) -> None:
    chosen = keys_marked(TrainParams, Mark.SELECTION)
    assert set(chosen) == {"runs", "search", "num_samples", "select_by", "asha"}
    assert set(chosen) <= set(raw["train"])


def test_no_stage_depends_on_a_resource(raw: Raw) -> None:
    """So a changed one leaves `dvc status` clean: DVC compares what dvc.yaml names of params.yaml."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    named = {name for stage in stages.values() for name in stage["params"]}
    assert {name.partition(".")[0] for name in named} <= set(SECTIONS)
    changed = copy.deepcopy(raw)
    for section, key in PLACES:
        set_keys(changed, {section: {key: "changed"}})
    assert changed["resources"] != raw["resources"]
    for name in named:
        section, _, key = name.partition(".")
        assert (changed[section] == raw[section]) if not key else (changed[section][key] == raw[section][key])


def test_file_of_the_old_layout_is_refused_with_every_new_place(file: Path) -> None:
    file.write_text(old_text())
    with pytest.raises(OldLayoutError) as caught:
        load_own_params(file)
    said = str(caught.value)
    for section, key in PLACES:
        assert f"{section}.{key}: moved to resources.{section}.{key};" in said
    assert said.endswith("`videomar migrate` moves them and keeps comments")
    assert "\n" not in said


def test_file_of_a_model_registered_in_the_old_layout_says_the_same(tmp_path: Path) -> None:
    """The code that is stored with a model calls `load_params` with the file alone."""
    (tmp_path / "params.yaml").write_text(old_text())
    shipped = load_params(ROOT / "params.yaml")
    assert load_params(tmp_path / "params.yaml") == shipped
    assert load_params(tmp_path / "params.yaml", newer=ROOT / "params.yaml") == shipped


def test_key_that_came_later_is_taken_from_the_newer_file_also_below_resources(
    tmp_path: Path, raw: Raw
) -> None:
    del raw["resources"]["train"]["keep_best"], raw["resources"]["suite"]
    (tmp_path / "older.yaml").write_text(yaml.safe_dump(raw))
    assert load_params(tmp_path / "older.yaml", ROOT / "params.yaml") == load_params(ROOT / "params.yaml")


def test_file_from_before_every_stage_had_a_device_is_still_read(file: Path, raw: Raw) -> None:
    later = [(section, key) for section, keys in LATER_RESOURCES.items() for key in keys]
    for section, key in later:
        del raw["resources"][section][key]
    del raw["resources"]["text"]  # no key of it existed
    file.write_text(yaml.safe_dump(raw))
    for params in (load_own_params(file), load_params(file)):
        for section, key in later:
            assert getattr(getattr(params, section), key) == LATER_RESOURCES[section][key]
    assert load_params(file, ROOT / "params.yaml") == load_params(ROOT / "params.yaml")


@pytest.mark.parametrize("section", [name for name, keys in RESOURCE_KEYS.items() if "device" in keys])
def test_every_device_follows_one_rule(file: Path, raw: Raw, section: str) -> None:
    raw["resources"][section]["device"] = "gpu"
    rule = f"resources.{section}.device: got gpu, expected auto or cpu or cuda"
    assert rule in refusal(file, raw)


def test_stage_refuses_the_users_own_file_of_the_old_layout_and_reads_another(file: Path) -> None:
    file.write_text(old_text())
    with pytest.raises(OldLayoutError):
        Stage("some", [], metrics=False).params  # noqa: B018
    given = Stage("some", ["--params", str(file)], metrics=False).params
    assert given == load_params(ROOT / "params.yaml")


def test_doctor_names_the_verb_that_moves_keys(file: Path) -> None:
    file.write_text(old_text())
    (finding,) = params_findings(file)
    assert finding.fix == ".venv/bin/videomar migrate"
    shutil.copy(ROOT / "params.yaml", file)
    assert params_findings(file) == []


WRONG: dict[str, tuple[Callable[[Raw], object], str]] = {
    "resources missing": (
        lambda raw: raw.pop("resources"),
        "resources: missing, expected the sections ingest, tokenizer, text, encode, train, suite",
    ),
    "no mapping": (
        lambda raw: raw.update(resources=3),
        "resources: got 3, expected the sections ingest, tokenizer, text, encode, train, suite",
    ),
    "nothing below": (lambda raw: raw.update(resources=None), "resources: got None, expected the sections"),
    "section missing": (
        lambda raw: raw["resources"].pop("suite"),
        "resources.suite: missing, expected the keys threads, device",
    ),
    "section without keys": (
        lambda raw: raw["resources"].update(suite=None),
        "resources.suite: got None, expected the keys threads, device",
    ),
    "unknown section": (
        lambda raw: raw["resources"].update(sample={"threads": 1}),
        "resources.sample: unknown section, expected ingest or tokenizer or text or encode or train or suite",
    ),
    "wrong section": (
        lambda raw: raw["resources"]["encode"].update(threads=1),
        "resources.encode.threads: no such resource, expected num_workers or device or batch_clips",
    ),
    "no resource": (
        lambda raw: raw["resources"]["suite"].update(batch_size=4),
        "resources.suite.batch_size: no such resource, expected threads or device",
    ),
    "key missing": (
        lambda raw: raw["resources"]["train"].pop("device"),
        "resources.train.device: missing, expected a value",
    ),
    "wrong value": (
        lambda raw: raw["resources"]["train"].update(num_workers=0),
        "resources.train.num_workers: got 0, expected at least 1",
    ),
    "other section missing": (lambda raw: raw.pop("train"), "train: missing, expected a section"),
}


@pytest.mark.parametrize("name", WRONG)
def test_resources_that_are_wrong_are_one_clear_problem(file: Path, raw: Raw, name: str) -> None:
    change, message = WRONG[name]
    change(raw)
    said = refusal(file, raw)
    assert said.startswith(f"params.yaml: {message}")
    assert len(re.findall(r"; [\w.]+: ", said)) == 0


def test_problems_of_places_and_of_values_are_named_together(file: Path, raw: Raw) -> None:
    raw["resources"]["encode"]["threads"] = 1
    raw["model"]["dpth"] = raw["model"].pop("depth")
    said = refusal(file, raw)
    for part in ("resources.encode.threads: no such", "model.depth: missing", "model.dpth: unknown key"):
        assert part in said


def test_key_in_both_places_is_refused(file: Path, raw: Raw) -> None:
    raw["train"]["num_workers"] = 2
    assert "resources.train.num_workers: train.num_workers exists as well" in refusal(file, raw, load_params)
    assert "train.num_workers: moved to resources.train.num_workers" in refusal(file, raw)


@pytest.mark.parametrize(("section", "key"), PLACES)
def test_wrong_resource_is_named_by_its_place(file: Path, raw: Raw, section: str, key: str) -> None:
    set_keys(raw, {section: {key: []}})
    assert f"resources.{section}.{key}: got []" in refusal(file, raw)
    set_keys(raw, {section: {key: "other" if isinstance(before(section, key), str) else -1}})
    file.write_text(yaml.safe_dump(raw))
    try:
        load_own_params(file)
    except ParamsError as error:
        assert f" resources.{section}.{key}: got" in str(error)  # noqa: PT017


def before(section: str, key: str) -> object:
    return yaml.safe_load(SHIPPED)["resources"][section][key]


def test_changed_resource_is_written_to_its_place_and_nothing_else_changes(file: Path) -> None:
    file.write_text(SHIPPED)
    update_params(file, {"train": {"num_workers": 2, "seed": 7}})
    changed = SHIPPED.replace("    num_workers: null\n", "    num_workers: 2\n")
    assert file.read_text() == changed.replace("  seed: 0\n  # Runs", "  seed: 7\n  # Runs")
    update_params(file, {"train": {"num_workers": None, "seed": 0}})
    assert file.read_text() == SHIPPED


def test_file_of_the_old_layout_is_not_edited(file: Path) -> None:
    file.write_text(old_text())
    with pytest.raises(OldLayoutError):
        update_params(file, {"train": {"seed": 7}})
    assert file.read_text() == old_text()


def test_preset_may_set_resources(file: Path) -> None:
    file.write_text(SHIPPED)
    Path("mine.yaml").write_text(
        "train: {seed: 7}\nresources: {train: {num_workers: 2}, suite: {threads: 5}}"
    )
    update_params(file, read_preset(Path(), "mine"))
    params = load_own_params(file)
    assert (params.train.seed, params.train.num_workers, params.suite.threads) == (7, 2, 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "train: {num_workers: 3}",
            "my one.yaml: train.num_workers: moved to resources.train.num_workers; "
            "`videomar migrate 'my one.yaml'` moves",
        ),
        ("resources: {train: {seed: 3}}", "my one.yaml: resources.train.seed: no such resource"),
        ("train: [", "my one.yaml: no YAML"),
    ],
)
def test_preset_with_keys_in_wrong_places_is_refused(file: Path, text: str, message: str) -> None:
    Path("my one.yaml").write_text(text)
    with pytest.raises(ParamsError) as caught:
        read_preset(Path(), "my one")
    assert str(caught.value).startswith(message)


def test_run_side_by_side_may_have_resources_of_its_own(file: Path, raw: Raw) -> None:
    raw["train"]["runs"] = [{"name": "wide", "train": {"num_workers": 2, "seed": 3}}]
    file.write_text(yaml.safe_dump(raw))
    _, own = variants_of(load_own_params(file))["wide"]
    assert (own.train.num_workers, own.train.seed) == (2, 3)
    raw["train"]["runs"][0]["train"]["num_workers"] = 0
    assert "run wide: resources.train.num_workers: got 0" in refusal(file, raw)


def _texts() -> Iterator[tuple[str, str]]:
    """Every string of the code, docstrings among them, and the pages; docs/LOG.md is history."""
    for folder in ("videomar", "stages", "flows", "benchmarks", "docs"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield str(path), node.value
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        if path.name != "LOG.md":
            yield str(path), path.read_text()


def test_no_text_names_a_resource_where_it_does_not_stand() -> None:
    names = "|".join(rf"{section}\.{key}" for section, key in PLACES)
    wrong = re.compile(rf"(?<![\w.])({names})\b")
    assert [(path, found) for path, text in _texts() for found in wrong.findall(text)] == []


def test_all_values_that_break_rules_are_named_at_once(file: Path, raw: Raw) -> None:
    raw["train"] |= {"ema_decay": 1.0, "objective": "other"}
    raw["resources"]["suite"]["threads"] = 0
    message = refusal(file, raw)
    assert "train.ema_decay: got 1.0, expected 0 to below 1" in message
    assert "train.objective: got other, expected single_frame or all_frames" in message
    assert "resources.suite.threads: got 0, expected at least 1" in message


def test_section_that_is_made_without_pydantic_is_checked_too() -> None:
    train = load_params(ROOT / "params.yaml").train
    with pytest.raises(ParamsError, match=r"^resources\.train\.num_workers: got 0, expected at least 1$"):
        dataclasses.replace(train, num_workers=0)
