"""Released weights as a whole model, or refused with what does not fit them."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import videomar
from tests.checkpoint.test_released import CAPTION, CHANNELS, released
from videomar.checkpoint import MANIFEST
from videomar.cli.app import app
from videomar.compute.seeding import step_generator
from videomar.config import Params
from videomar.encoders.causal import CausalTokenizer, save_tokenizer
from videomar.errors import DataError
from videomar.hub.converted import import_model


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("released") / "released.pth"
    torch.save(released(), path)
    return path


def write_coder(params: Params, folder: Path, channels: int) -> Path:
    shape = dataclasses.replace(params.tokenizer, channels=channels)
    save_tokenizer(CausalTokenizer(shape).initialise(step_generator(0, 0)), folder)
    return folder


def wanted(params: Params, **ingest: object) -> Params:
    """Parameters of small clips without captions, with a motion score that the weights do not know."""
    return dataclasses.replace(
        params,
        ingest=dataclasses.replace(params.ingest, **{"size_px": 16, "num_frames": 9, **ingest}),
        text=dataclasses.replace(params.text, encoder="none"),
        sample=dataclasses.replace(params.sample, num_unmask_steps=2, num_diffusion_steps=30, motion=3.0),
    )


def test_import_with_a_tokenizer_is_a_whole_model(params: Params, source: Path, tmp_path: Path) -> None:
    coder = write_coder(params, tmp_path / "coder", CHANNELS)
    *_, last = import_model(source, tmp_path / "out", coder, wanted(params))
    assert (
        last
        == f"{tmp_path / 'out'}: a whole model; `videomar register {tmp_path / 'out'}` makes it a version"
    )
    model = videomar.load(tmp_path / "out")
    assert model(np.zeros((16, 16, 3), np.uint8), frames=5).shape == (5, 16, 16, 3)
    assert (model.params.sample.motion, model.params.text.max_tokens) == (None, CAPTION)
    assert "released.pth, sha256 " in (tmp_path / "out/README.md").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["coder", "out"]


@pytest.mark.parametrize(
    ("channels", "ingest", "message"),
    [
        (4, {}, "--tokenizer: got .*coder with latents of 4 channels, expected 5 as in the weights"),
        (CHANNELS, {"num_frames": 8}, "ingest.num_frames: got 8, expected 1 \\+ a multiple of .* stride 4"),
        (
            CHANNELS,
            {"side_multiple_px": 4},
            "ingest: got size_px 16 and side_multiple_px 4, expected multiples",
        ),
    ],
)
def test_what_does_not_fit_the_weights_is_refused_and_nothing_is_written(
    params: Params, source: Path, tmp_path: Path, channels: int, ingest: dict[str, object], message: str
) -> None:
    coder = write_coder(params, tmp_path / "coder", channels)
    with pytest.raises(DataError, match=message):
        import_model(source, tmp_path / "out", coder, wanted(params, **ingest))
    assert [path.name for path in tmp_path.iterdir()] == ["coder"]


def test_import_without_a_tokenizer_says_that_it_is_weights_alone(source: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["import", str(source), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[-1].startswith("weights alone: with --tokenizer")
    assert (tmp_path / "out" / MANIFEST).is_file()
