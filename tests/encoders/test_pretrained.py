"""A pretrained tokenizer is checked before any clip is decoded, and loaded once for that."""

import dataclasses
import shutil

import pytest

from stages import list_clips
from tests.conftest import ROOT
from videomar.config.edit import update_params
from videomar.encoders import pretrained
from videomar.encoders.pretrained import check_pretrained
from videomar.errors import CheckpointError, ParamsError


def with_folder(params, folder, **changed):
    own = {"pretrained": str(folder), "channels": 4, "time_stride": 8, "space_stride": 16}
    ingest = {"num_frames": 17, "shorter_clips": (9,), "side_multiple_px": 16}
    encode = {"moments": changed.pop("moments", False)}
    for section in (own, ingest):
        section.update({key: changed[key] for key in section.keys() & changed.keys()})
    return dataclasses.replace(
        params,
        tokenizer=dataclasses.replace(params.tokenizer, **own),
        ingest=dataclasses.replace(params.ingest, **ingest),
        encode=dataclasses.replace(params.encode, **encode),
    )


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"channels": 16}, "tokenizer.channels: got 16, expected 4, as the tokenizer in .* has"),
        ({"time_stride": 4}, "tokenizer.time_stride: got 4, expected 8, as"),
        ({"space_stride": 8}, "tokenizer.space_stride: got 8, expected 16, as"),
        ({"num_frames": 21}, r"ingest.num_frames: got \[21\], expected 1 . a multiple of 8, the time"),
        ({"shorter_clips": (9, 5)}, r"ingest.shorter_clips: got \[9, 5\], expected 1 . a multiple of 8"),
        ({"side_multiple_px": 8}, "ingest.side_multiple_px: got 8, expected a multiple of 16, the space"),
        ({"moments": True}, "encode.moments: got True, expected false, because the tokenizer in .* is"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(changed, line, params, folders, tmp_path):
    record = tmp_path / "pretrained.json"
    check_pretrained(with_folder(params, folders["cosmos16"]), record)
    with pytest.raises(ParamsError, match=line):
        check_pretrained(with_folder(params, folders["cosmos16"], **changed), record)


def test_unchanged_folder_is_loaded_once(params, folders, tmp_path, monkeypatch):
    folder, record = shutil.copytree(folders["cosmos16"], tmp_path / "coder"), tmp_path / "pretrained.json"
    loaded, real = [], pretrained.load_tokenizer
    monkeypatch.setattr(pretrained, "load_tokenizer", lambda path: loaded.append(path) or real(path))
    for _ in range(2):
        check_pretrained(with_folder(params, folder), record)
    assert len(loaded) == 1
    record.write_text("{")
    check_pretrained(with_folder(params, folder), record)
    assert len(loaded) == 2
    weights = folder / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="coder: got .* expected AutoencoderKLCosmos; copy both files"):
        check_pretrained(with_folder(params, folder), record)


def test_pipeline_refuses_it_before_it_reads_a_clip(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "params.yaml"
    shutil.copy(ROOT / "params.yaml", own)
    update_params(own, {"samples": {"source": "clips"}, "tokenizer": {"pretrained": "lost"}})
    with pytest.raises(SystemExit) as caught:
        list_clips.main(["--raw", "raw", "--out", "clips.json", "--named", "named", "--params", str(own)])
    assert caught.value.code == 1
    assert "lost: got no file, expected tokenizer.json" in capsys.readouterr().err
    assert not (tmp_path / "clips.json").exists()
