"""What lies in a folder is found out, and refused in words where it is no tokenizer."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.encoders.conftest import Decoder, Encoder, write_torchscript
from videomar.encoders.load import copy_tokenizer, load_tokenizer
from videomar.errors import CheckpointError

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(kind, folders, tmp_path):
    """A copy that may be spoilt."""
    return shutil.copytree(folders[kind], tmp_path / "coder")


def test_missing_tokenizer_is_refused_with_the_files_wanted(tmp_path):
    (tmp_path / "model.bin").touch()
    wanted = "got model.bin, expected tokenizer.json and tokenizer.safetensors .*config.json and "
    with pytest.raises(CheckpointError, match=rf"{wanted}{WEIGHTS}.*encoder.jit and decoder.jit"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("kind", ["cosmos8"])
def test_weights_of_another_class_are_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"_class_name": "AutoencoderKLWan"}))
    with pytest.raises(CheckpointError, match="size mismatch .* expected AutoencoderKLWan; copy"):
        load_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps(config | {"_class_name": "AutoencoderOfNobody"}))
    with pytest.raises(CheckpointError, match=r"got AutoencoderOfNobody, expected a class of diffusers \d"):
        load_tokenizer(folder)


@pytest.mark.parametrize("kind", ["cosmos8"])
def test_tensors_that_do_not_fit_are_named(folder):
    tensors = load_file(folder / WEIGHTS)
    bias = "decoder.conv_in.conv_s.bias"
    save_file({name: tensors[name] for name in tensors if name != bias}, folder / WEIGHTS, {"format": "pt"})
    with pytest.raises(CheckpointError, match=f"got 1 tensors missing or unknown .{bias}., expected none"):
        load_tokenizer(folder)
    save_file(tensors | {bias: torch.zeros(3)}, folder / WEIGHTS, {"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"{bias}.*\[3\].*\[16\]"):
        load_tokenizer(folder)


@pytest.mark.parametrize("kind", ["cosmos8"])
def test_bfloat16_weights_are_computed_in_float32(folder):
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    assert {weight.dtype for weight in load_tokenizer(folder).parameters()} == {torch.float32}


def test_torchscript_computes_in_its_own_format(tmp_path):
    write_torchscript(tmp_path, Encoder(4).bfloat16(), Decoder(4).bfloat16())
    latents = load_tokenizer(tmp_path).encode(torch.zeros(1, 3, 9, 32, 32))
    assert latents.dtype == torch.float32
    assert torch.equal(latents, latents.bfloat16().float())


def test_torchscript_files_of_two_tokenizers_are_refused(tmp_path):
    write_torchscript(tmp_path, Encoder(4), Decoder(6))
    with pytest.raises(CheckpointError, match="expected a continuous video tokenizer that returns video"):
        load_tokenizer(tmp_path)
    (tmp_path / "encoder.jit").write_bytes(b"no script")
    with pytest.raises(CheckpointError, match="encoder.jit: got no TorchScript archive, expected"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("kind", ["ours"])
def test_lacking_number_is_named(folder):
    (folder / "tokenizer.json").write_text('{"channels": 4, "time_stride": 4, "space_stride": 8}')
    with pytest.raises(CheckpointError, match="got no hidden_size, depth, expected channels, time_stride"):
        load_tokenizer(folder)


@pytest.mark.parametrize("kind", ["ours"])
def test_folder_is_not_copied_to_itself(folder):
    with pytest.raises(CheckpointError, match="expected two folders"):
        copy_tokenizer(folder, folder)
    load_tokenizer(folder)


def test_diffusers_is_imported_only_when_used(folders):
    code = (
        "import pathlib, sys, videomar.encoders.load as loading\n"
        f"loading.load_tokenizer(pathlib.Path({str(folders['ours'])!r}))\n"
        "print('diffusers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
