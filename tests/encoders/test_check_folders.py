"""Folders of weights that are refused before anything is decoded."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from stages import list_clips
from tests.conftest import small_params
from videomar.config import Params
from videomar.config.schema import set_keys
from videomar.encoders import check_folders as module
from videomar.encoders.check_folders import check_folders, table_of
from videomar.errors import CheckpointError, DataError, VideomarError


def with_folders(tokenizer: Path | None = None, text: Path | None = None) -> Params:
    params = small_params()
    return dataclasses.replace(
        params,
        tokenizer=dataclasses.replace(params.tokenizer, pretrained=tokenizer and str(tokenizer)),
        text=dataclasses.replace(params.text, encoder=str(text) if text else "none"),
    )


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """The files of a language model of 8 channels."""
    folder = tmp_path / "Qwen2 наш"
    folder.mkdir()
    save_file({"model.embed_tokens.weight": torch.zeros(20, 8)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2", "hidden_size": 8}))
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """A pair of TorchScript files."""
    folder = tmp_path / "cosmos"
    folder.mkdir()
    for name in ("encoder", "decoder"):
        torch.jit.script(torch.nn.Identity()).save(folder / f"{name}.jit")
    return folder


def test_whole_folders_and_packaged_encoders_pass(text: Path, tokenizer: Path) -> None:
    check_folders(with_folders(tokenizer, text))
    check_folders(with_folders())
    assert table_of(text / "model.safetensors")["model.embed_tokens.weight"]["shape"] == [20, 8]


def test_tokenizer_of_pieces_alone_needs_its_package_and_says_so(
    text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (text / "spiece.model").write_bytes(b"pieces")
    check_folders(with_folders(text=text))
    (text / "tokenizer.json").unlink()
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"got spiece.model alone, expected tokenizer.json .*sentencepiece"):
        check_folders(with_folders(text=text))
    monkeypatch.setattr(module, "find_spec", lambda name: name == "sentencepiece")
    check_folders(with_folders(text=text))


def test_missing_files_are_named(tmp_path: Path, text: Path, tokenizer: Path) -> None:
    (text / "tokenizer.json").unlink()
    with pytest.raises(DataError, match=r"text.encoder: .* lacks a tokenizer"):
        check_folders(with_folders(text=text))
    with pytest.raises(DataError, match=r"lacks config.json; weights"):
        check_folders(with_folders(text=tmp_path / "nothing"))
    (tokenizer / "decoder.jit").unlink()
    with pytest.raises(CheckpointError, match=r"got encoder.jit, expected .*encoder.jit and decoder.jit"):
        check_folders(with_folders(tokenizer))


@pytest.mark.parametrize(
    ("name", "content", "got"),
    [
        (
            "model.safetensors",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
            "without the table",
        ),
        ("model.safetensors", b"", "0 bytes without the table"),
        ("model.safetensors", (2).to_bytes(8, "little") + b"[]", "table is no object"),
        ("model.safetensors", (7).to_bytes(8, "little") + b'{"a":1}', "lacks shapes or offsets"),
        ("config.json", b"{", "Expecting property name"),
        ("config.json", b"[]", "no object"),
        ("tokenizer.json", b"\xff", "can't decode byte"),
    ],
)
def test_damaged_files_of_a_text_encoder_are_refused(text: Path, name: str, content: bytes, got: str) -> None:
    (text / name).write_bytes(content)
    with pytest.raises(
        DataError, match=rf"text.encoder: .*{name}: got .*{got}.*expected a whole .*copy it again"
    ):
        check_folders(with_folders(text=text))


def test_download_that_was_cut_off_is_refused(text: Path, tokenizer: Path) -> None:
    for folder, name, params in (
        (text, "model.safetensors", with_folders(text=text)),
        (tokenizer, "decoder.jit", with_folders(tokenizer)),
    ):
        path = folder / name
        path.write_bytes(path.read_bytes()[:-40])
        with pytest.raises(VideomarError, match=f"{name}: got .*expected a whole"):
            check_folders(params)


def test_weights_of_another_width_than_their_configuration_are_refused(text: Path) -> None:
    (text / "config.json").write_text(json.dumps({"hidden_size": 1536}))
    with pytest.raises(
        DataError, match="got weights of 8 channels and a config.json of 1536, expected the same"
    ):
        check_folders(with_folders(text=text))


def test_first_stage_refuses_before_it_writes(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (text / "model.safetensors").unlink()
    raw: dict[str, object] = {}
    set_keys(raw, dataclasses.asdict(with_folders(text=text)))
    (tmp_path / "params.yaml").write_text(json.dumps(raw))
    paths = ["--raw", str(tmp_path / "raw"), "--out", str(tmp_path / "clips.json")]
    with pytest.raises(SystemExit) as ended:
        list_clips.main(
            [*paths, "--named", str(tmp_path / "named"), "--params", str(tmp_path / "params.yaml")]
        )
    assert ended.value.code == 1
    assert "lacks weights" in capsys.readouterr().err
    assert not (tmp_path / "named").exists()
