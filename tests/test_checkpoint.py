import pytest
import torch

from videomar import checkpoint
from videomar.checkpoint import ModelShape
from videomar.errors import CheckpointError
from videomar.training.loop import untrained


@pytest.fixture
def shape(params):
    return ModelShape(params.model, 4, 6, 5)


def write(folder, step, shape):
    weights = untrained(shape, step).state_dict()
    return checkpoint.save(folder, step, shape, {"model": weights, "ema": weights}, {"train": {"seed": step}})


def test_load_gives_the_saved_network(shape, tmp_path):
    write(tmp_path, 3, shape)
    loaded = checkpoint.load(str(tmp_path), weights="model")
    assert loaded.step == 3
    assert loaded.params == shape.params
    for name, value in untrained(shape, 3).state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], value)


def test_folder_of_steps_gives_its_newest(shape, tmp_path):
    for step in (5, 40, 9):
        write(tmp_path, step, shape)
    assert checkpoint.load(tmp_path).step == 40


def test_prune_keeps_the_newest(shape, tmp_path):
    for step in (1, 2, 3):
        write(tmp_path, step, shape)
    (tmp_path / ".draft-x").mkdir()
    checkpoint.prune(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000002", "step_00000003"]


def test_failed_save_leaves_nothing(shape, tmp_path):
    with pytest.raises(TypeError):
        checkpoint.save(tmp_path, 1, shape, {}, made_with=object())
    assert not list(tmp_path.iterdir())


def test_changed_byte_is_found(shape, tmp_path):
    path = write(tmp_path, 1, shape) / "ema.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"ema\.safetensors: missing or damaged"):
        checkpoint.load(path.parent)


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_folder_without_checkpoint_is_refused(tmp_path, name):
    with pytest.raises(CheckpointError, match=r"no checkpoint\.json"):
        checkpoint.load(tmp_path / name)
