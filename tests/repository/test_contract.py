"""params.yaml, dvc.yaml, the dataclasses and the names of the contract say the same."""

import dataclasses
import inspect
import re
from pathlib import Path

import pytest
import yaml

from videomar.config import Params, load_params
from videomar.errors import ParamsError

ROOT = Path(__file__).parents[2]
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
LISTING = "list_clips"  # runs every time, so it leaves no metrics
STAGES = ["samples", "ingest", "curate", "train_tokenizer", "encode", "train", "sample", "evaluate"]


def test_stages_are_those_of_the_contract():
    assert list(PIPELINE) == [LISTING, *STAGES]


@pytest.mark.parametrize("stage", STAGES)
def test_stage_declares_its_script_its_params_and_its_metrics(stage):
    entry = PIPELINE[stage]
    assert f"stages/{stage}.py" in entry["deps"]
    assert set(entry.get("params", [])) <= {field.name for field in dataclasses.fields(Params)}
    assert next(iter(entry["metrics"][0])) == f"metrics/{stage}.json"
    for path in entry["deps"]:
        assert path.startswith(("data/", "checkpoints/")) or (ROOT / path).exists(), path


def test_no_value_of_a_user_reaches_a_shell():
    """DVC puts values of params.yaml into commands as they are; folders may have any name."""
    text = (ROOT / "dvc.yaml").read_text()
    assert "${" not in text
    assert "samples.source" in PIPELINE[LISTING]["params"]


@pytest.mark.parametrize("stage", STAGES)
def test_stage_depends_on_every_path_it_reads(stage):
    entry = PIPELINE[stage]
    names = {
        next(iter(item)) if isinstance(item, dict) else item
        for key in ("outs", "plots", "metrics")
        for item in entry.get(key, [])
    }
    for path in re.findall(r"--\w+ (\S+)", entry["cmd"]):
        assert path in entry["deps"] or path in names, path


def test_every_section_is_a_dependency_of_a_stage_or_of_the_gate():
    used = {name for stage in STAGES for name in PIPELINE[stage].get("params", [])}
    assert used | {"gate"} == {field.name for field in dataclasses.fields(Params)}


def test_file_of_a_model_registered_before_a_key_came_is_read(tmp_path):
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    del values["samples"]["ffmpeg"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    assert load_params(tmp_path / "params.yaml") == load_params(ROOT / "params.yaml")


def test_all_problems_of_a_parameter_file_are_named_at_once(tmp_path):
    text = (ROOT / "params.yaml").read_text()
    text = text.replace("depth: 4", "dpth: 4").replace("kl_weight: 1.0e-4", "kl_weight: 1e-4")
    text = text.replace("dtype: float16", "dtype: float8")
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ParamsError) as caught:
        load_params(tmp_path / "params.yaml")
    message = str(caught.value)
    for part in (
        "model.depth: missing",
        "model.dpth: unknown key",
        "1.0e-4, not 1e-4",
        "encode.dtype: got float8",
    ):
        assert part in message
    assert "\n" not in message


def test_missing_parameter_file_is_one_line(tmp_path):
    with pytest.raises(ParamsError, match="no such file"):
        load_params(tmp_path / "params.yaml")


def test_python_names_of_the_contract_exist():
    from videomar.checkpoint import load
    from videomar.model.head import FlowHead
    from videomar.model.transformer import Trunk
    from videomar.model.videomar import VideoMAR

    assert list(inspect.signature(load).parameters) == ["folder", "device", "weights"]
    assert list(inspect.signature(Trunk.forward).parameters)[1:] == [
        "latents",
        "token_mask",
        "text",
        "text_mask",
    ]
    assert list(inspect.signature(FlowHead.predict).parameters)[1:] == ["noisy", "time", "hidden"]
    assert list(inspect.signature(VideoMAR.generate).parameters)[1:] == [
        "context",
        "num_frames",
        "text",
        "text_mask",
        "sampling",
        "generator",
    ]


def test_parameters_of_an_older_model_take_later_keys_from_the_present_ones(tmp_path):
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    del content["ingest"]["aspect_ratios"]
    content["ingest"]["fps"] = 5.0
    (tmp_path / "older.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ParamsError, match="ingest.aspect_ratios: missing"):
        load_params(tmp_path / "older.yaml")
    completed = load_params(tmp_path / "older.yaml", newer=ROOT / "params.yaml")
    assert completed.ingest.fps == 5.0
    assert completed.ingest.aspect_ratios == load_params(ROOT / "params.yaml").ingest.aspect_ratios
    content["ingest"]["aspect_ratio"] = ["1:1"]
    (tmp_path / "older.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ParamsError, match="ingest.aspect_ratio: unknown key"):
        load_params(tmp_path / "older.yaml", newer=ROOT / "params.yaml")
