import json
import os
import resource
import signal

import pytest
import torch

from videomar import checkpoint
from videomar.checkpoint import folder
from videomar.checkpoint.manifest import ModelShape
from videomar.errors import CheckpointError
from videomar.training.state import untrained


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


def test_prune_keeps_the_best(shape, tmp_path):
    for step in (1, 2, 3):
        write(tmp_path, step, shape)
    checkpoint.prune(tmp_path, 1, best=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000001", "step_00000003"]


def test_damaged_newest_is_passed_over_with_a_warning_that_names_it(shape, tmp_path, caplog):
    for step in (1, 2):
        write(tmp_path, step, shape)
    path = tmp_path / "step_00000002/model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # of the same size: only its hash tells
    path.write_bytes(data)
    assert checkpoint.latest(tmp_path) == path.parent
    assert checkpoint.load(tmp_path).step == 1
    assert f"{path}: missing or damaged, got " in caplog.text


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", None])
def test_torn_manifest_is_passed_over(shape, tmp_path, content):
    write(tmp_path, 1, shape)
    manifest = write(tmp_path, 2, shape) / "checkpoint.json"
    manifest.unlink() if content is None else manifest.write_bytes(content)
    assert checkpoint.latest(tmp_path).name == "step_00000001"
    assert checkpoint.load(tmp_path).step == 1


DAMAGES = {
    "no files": lambda manifest: manifest.pop("files"),
    "no shape": lambda manifest: manifest.pop("shape"),
    "no step": lambda manifest: manifest.pop("step"),
    "no parameters": lambda manifest: manifest.pop("made_with"),
    "files as a list": lambda manifest: manifest.update(files=["model.safetensors"]),
    "file without its size": lambda manifest: manifest["files"]["ema.safetensors"].pop("bytes"),
    "file without its hash": lambda manifest: manifest["files"]["ema.safetensors"].pop("sha256"),
    "file without facts": lambda manifest: manifest["files"].update({"ema.safetensors": 7}),
    "shape without parameters": lambda manifest: manifest["shape"].pop("params"),
    "shape without a size": lambda manifest: manifest["shape"].pop("text_channels"),
    "parameters without a key": lambda manifest: manifest["shape"]["params"].pop("head"),
    "unknown parameter": lambda manifest: manifest["shape"]["params"].update(wings=2),
    "impossible parameter": lambda manifest: manifest["shape"]["params"].update(num_heads=7),
    "parameter of another kind": lambda manifest: manifest["shape"]["params"].update(hidden_size="wide"),
    "shape as a list": lambda manifest: manifest["shape"].update(params=[]),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_manifest_that_lacks_something_is_refused_in_one_line(shape, tmp_path, damage):
    path = write(tmp_path, 1, shape) / "checkpoint.json"
    manifest = json.loads(path.read_text())
    damage(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(
        CheckpointError, match=r"checkpoint\.json: .*got .*expected .*; it is damaged"
    ) as error:
        checkpoint.load(path.parent)
    assert len(str(error.value).splitlines()) == 1


def test_model_of_before_progress_was_kept_still_loads(shape, tmp_path):
    path = write(tmp_path, 1, shape) / "checkpoint.json"
    manifest = json.loads(path.read_text())
    del manifest["progress"]
    path.write_text(json.dumps(manifest))
    assert checkpoint.load(path.parent).step == 1


@pytest.mark.parametrize("content", ["[]", "7", "null", '"words"'])
def test_manifest_that_is_no_object_is_refused(shape, tmp_path, content):
    path = write(tmp_path, 1, shape) / "checkpoint.json"
    path.write_text(content)
    with pytest.raises(CheckpointError, match="got no object, expected keys step, shape"):
        checkpoint.load(path.parent)


def test_looking_for_the_newest_reads_no_weights(shape, tmp_path, monkeypatch):
    """Hashing gigabytes at each look would take minutes: only loading compares hashes, and once."""
    write(tmp_path, 1, shape)
    hashed = []
    real = folder.sha256_of
    monkeypatch.setattr(folder, "sha256_of", lambda path: hashed.append(path.name) or real(path))
    checkpoint.latest(tmp_path)
    assert hashed == []
    checkpoint.load(tmp_path)
    assert sorted(hashed) == ["ema.safetensors", "model.safetensors"]


def test_full_disk_is_one_clear_error_and_leaves_the_old_ones(shape, tmp_path):
    """A limit on the size of a file stands for the disk: writing fails part of the way."""
    write(tmp_path, 1, shape)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(CheckpointError, match="could not be written .* before it are intact"):
            write(tmp_path, 2, shape)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, old)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]
    assert checkpoint.load(tmp_path).step == 1


def test_files_and_folders_are_on_disk_before_the_name_is(shape, tmp_path, monkeypatch):
    """The manifest after what it names, both before the rename, and the rename itself."""
    events = []
    fsync, replace = folder.fsync, os.replace
    monkeypatch.setattr(folder, "fsync", lambda path: events.append(path.name) or fsync(path))
    monkeypatch.setattr(os, "replace", lambda a, b: events.append("rename") or replace(a, b))
    write(tmp_path, 1, shape)
    draft = events[3]
    assert draft.startswith(".draft-")
    expected = ["model.safetensors", "ema.safetensors", "checkpoint.json", draft, "rename", tmp_path.name]
    assert events == expected


def test_failed_save_leaves_nothing(shape, tmp_path):
    with pytest.raises(TypeError):
        checkpoint.save(tmp_path, 1, shape, {}, run_spec=object())
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
