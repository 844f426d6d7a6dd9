"""What training starts from once clips are chosen, and what of params.yaml that changes."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from tests.support.pipeline_outputs import REPOSITORY
from videomar.config import Params, load_params
from videomar.config.edit import read_preset, update_params
from videomar.config.params import params_text
from videomar.errors import CheckpointError
from videomar.hub import choose_start as module
from videomar.hub.choose_start import NETWORK, choose_start
from videomar.hub.start import refuse_misfits, starts_of

PRESETS = REPOSITORY / "presets"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """params.yaml as it came."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copy(REPOSITORY / "params.yaml", "params.yaml"))


@pytest.fixture
def another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """A shipped model of another shape than that of params.yaml."""
    own = load_params(module.FOLDER / "params.yaml")
    model = dataclasses.replace(own.model, depth=6, num_heads=2, rope_axis_dims=(24, 12, 12))
    tokenizer = dataclasses.replace(own.tokenizer, channels=24)
    other = dataclasses.replace(own, model=model, tokenizer=tokenizer)
    (tmp_path / "shipped").mkdir()
    (tmp_path / "shipped/params.yaml").write_text(params_text(other))
    monkeypatch.setattr(module, "FOLDER", tmp_path / "shipped")
    return other


def network_of(params: Params) -> dict[str, object]:
    return {f"{name}.{key}": getattr(getattr(params, name), key) for name in NETWORK for key in NETWORK[name]}


def test_every_key_that_changes_is_in_the_preset_that_brings_it_back() -> None:
    small, tuned = read_preset(PRESETS, module.SCRATCH), read_preset(PRESETS, module.TUNED)
    for name, keys in {**tuned, **NETWORK}.items():
        assert set(keys) <= set(small[name])


def test_own_clips_start_from_the_shipped_model_and_samples_from_nothing_again(path: Path) -> None:
    before = path.read_text()
    line = choose_start(path, PRESETS, own_clips=True)
    params = load_params(path)
    assert params.train.start_from == "shipped"
    assert line is not None
    assert "starts from the shipped model" in line
    assert network_of(params) == network_of(load_params(module.FOLDER / "params.yaml"))
    refuse_misfits(params, starts_of(params))
    assert "random weights" in str(choose_start(path, PRESETS, own_clips=False))
    assert path.read_text() == before
    assert choose_start(path, PRESETS, own_clips=False) is None


def test_shape_of_the_network_comes_with_its_weights_and_goes_with_them(path: Path, another: Params) -> None:
    before = path.read_text()
    choose_start(path, PRESETS, own_clips=True)
    assert network_of(load_params(path)) == network_of(another)
    assert "rope_axis_dims: [24, 12, 12]" in path.read_text()
    choose_start(path, PRESETS, own_clips=False)
    assert path.read_text() == before


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [("model", "depth", 2), ("train", "learning_rate", 1e-3)],
)
def test_parameters_of_the_user_are_not_overruled_unless_asked(
    path: Path, name: str, key: str, value: object
) -> None:
    update_params(path, {name: {key: value}})
    before = path.read_text()
    assert f"random weights, as {name}.{key} is not as it came" in str(choose_start(path, PRESETS, True))
    assert path.read_text() == before
    assert "the shipped model" in str(choose_start(path, PRESETS, True, "shipped"))
    params = load_params(path)
    assert params.train.start_from == "shipped"
    assert network_of(params) == network_of(load_params(module.FOLDER / "params.yaml"))


def test_start_that_the_user_wrote_stays(path: Path) -> None:
    update_params(path, {"train": {"start_from": 7}})
    before = path.read_text()
    for own_clips in (True, False):
        assert choose_start(path, PRESETS, own_clips) is None
        assert path.read_text() == before
    assert "random weights" in str(choose_start(path, PRESETS, True, "nothing"))
    assert load_params(path).train.start_from is None


def test_runs_side_by_side_stay_as_they_are(path: Path) -> None:
    update_params(path, {"train": {"runs": [{"name": "a"}, {"name": "b", "train": {"seed": 1}}]}})
    assert "train.runs or train.search says what is trained" in str(choose_start(path, PRESETS, True))
    assert load_params(path).train.start_from is None


def test_what_the_user_wrote_since_then_stays_on_the_way_back(path: Path) -> None:
    choose_start(path, PRESETS, own_clips=True)
    update_params(path, {"train": {"learning_rate": 1e-4, "lora": {"rank": 4, "alpha": 8}}})
    line = choose_start(path, PRESETS, own_clips=False)
    params = load_params(path)
    assert line is not None
    assert line.endswith("; train.learning_rate is as you wrote it")
    assert (params.train.start_from, params.train.lora, params.train.learning_rate) == (None, None, 1e-4)
    assert params.train.curriculum == load_params(REPOSITORY / "params.yaml").train.curriculum


def test_package_without_a_model_starts_from_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FOLDER", path.parent / "nowhere")
    before = path.read_text()
    assert choose_start(path, PRESETS, own_clips=True) is None
    assert path.read_text() == before


def test_misfit_is_refused_before_anything_is_decoded(path: Path) -> None:
    choose_start(path, PRESETS, own_clips=True)
    update_params(path, {"model": {"depth": 2}})
    params = load_params(path)
    with pytest.raises(CheckpointError, match=r"train.start_from: .*\(model.depth\)"):
        refuse_misfits(params, starts_of(params))
    update_params(path, {"model": {"depth": 4}, "text": {"encoder": "none"}})
    params = load_params(path)
    with pytest.raises(CheckpointError, match="train.start_from: shipped: .*text.encoder 'minilm'"):
        refuse_misfits(params, starts_of(params))
