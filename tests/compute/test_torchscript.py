"""TorchScript files compute, and nothing else."""

import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from videomar.compute.torchscript import _NAMESPACES, _WITH_FILES, load_torchscript
from videomar.errors import CheckpointError

WRITTEN = "written_by_a_program"
# Operators that take a text: of Python's own types, or the name of a variant, such as a way of padding.
HARMLESS_PREFIXES = ("_linalg_", "_sparse_", "_test_", "fft_", "linalg_")
HARMLESS = """
    Delete Float Int StringIndex ModuleContainerIndex RaiseException AddStatValue __contains__ __getitem__
    _set_item add any clear copy count device dict eq ge get gt index items keys le len list lt ne ord pop
    popitem remove setdefault slice sort sorted update values warn
    __interpolate __upsample _assert_async _assert_scalar _functional_assert_async _functional_assert_scalar
    _convolution_mode conv1d conv2d conv3d _mixed_dtypes_linear div div_ divide divide_ einsum gelu gelu_
    gelu_backward get_autocast_dtype index_reduce index_reduce_ meshgrid nanquantile quantile pad pad_sequence
    scatter scatter_ scatter_reduce scatter_reduce_ searchsorted segment_reduce _segment_reduce_backward stft
"""


class Writing(nn.Module):
    """Writes a file as soon as it is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    @torch.jit.export
    def __getstate__(self) -> tuple[Tensor, bool]:
        return self.weight, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, bool]) -> None:
        self.weight, self.training = state[0], state[1]
        torch.save(state[0], "written_by_a_program")

    def forward(self, frames: Tensor) -> Tensor:
        return frames


class Network(nn.Module):
    """What such files are made of: layers, branches, loops, texts, lists."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv3d(3, 4, 3, padding="same"), nn.BatchNorm3d(4), nn.GELU()])

    def forward(self, frames: Tensor, save_memory: bool = False) -> Tensor:
        if frames.dim() != 5:
            raise ValueError(f"got {frames.dim()} axes")
        for layer in self.layers:
            frames = layer(frames)
        kept = [frames[:, :, frame] for frame in range(frames.shape[2])]
        return nn.functional.interpolate(torch.stack(kept, 2), scale_factor=2.0, mode="nearest")


def changed(file: Path, into: Path, name: str, content: bytes) -> Path:
    """The archive with one more entry, which may have the name of another."""
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(into, "w") as new:
        for entry in old.infolist():
            new.writestr(entry, old.read(entry))
        new.writestr(f"{old.namelist()[0].partition('/')[0]}/{name}", content)
    return into


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("network") / "network.jit"
    torch.jit.script(Network().eval()).save(file)
    return file


def test_network_computes_what_it_did(network: Path) -> None:
    frames = torch.randn(1, 3, 2, 4, 4)
    assert torch.equal(load_torchscript(network)(frames), torch.jit.load(network)(frames))


def test_program_that_writes_a_file_is_refused_before_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.jit.script(Writing()).save(tmp_path / "writing.jit")
    with pytest.raises(CheckpointError, match="got a program with the operator `save`, expected"):
        load_torchscript(tmp_path / "writing.jit")
    assert not (tmp_path / WRITTEN).exists()
    torch.jit.load(tmp_path / "writing.jit")
    assert (tmp_path / WRITTEN).exists(), "else the file was harmless, and this test shows nothing"


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("CODE/__torch__.PY", "torch.from_file", "the operator `from_file`"),
        ("code/a.py", "getattr(torch, 'sa\\x76e')(x, y)", "the operator `save`"),
        ("code/a.py", "x.save(y)", "the operator `save`"),
        ("code/a.py", "ops.profiler.f(x)", "operators of `profiler`"),
        ("code/a.py", "o = ops; o.c10d.f(x)", "operators under another name"),
        ("code/a.py", "x : __torch__.torch.classes.c10d.Store", "classes in C++"),
        ("data.pkl", pickle.dumps("__torch__.torch.classes.c10d.Store"), "values of classes in C++"),
    ],
)
def test_each_way_out_is_refused(
    network: Path, tmp_path: Path, name: str, content: str | bytes, problem: str
) -> None:
    given = content.encode() if isinstance(content, str) else content
    with pytest.raises(CheckpointError) as caught:
        load_torchscript(changed(network, tmp_path / "file.jit", name, given))
    assert f"file.jit: got a program with {problem}, expected one that only computes" in str(caught.value)


@pytest.mark.parametrize("text", ["def f(:", "\0", "x = 'one", f"x = {'-' * 200_000}1"])
def test_text_that_cannot_be_read_is_refused(network: Path, tmp_path: Path, text: str) -> None:
    with pytest.raises(CheckpointError, match=r"file\.jit: got .*, expected a TorchScript file"):
        load_torchscript(changed(network, tmp_path / "file.jit", "code/a.py", text.encode()))


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 and no more", b"RELOADED"])
def test_other_files_are_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file.jit").write_bytes(content)
    with pytest.raises(
        CheckpointError, match=r"file\.jit: got .*, expected a TorchScript file; copy it again"
    ):
        load_torchscript(tmp_path / "file.jit")


def test_damaged_compressed_entry_is_refused_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "file.jit"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/code/a.py", "x = 1\n" * 1000)
    content = bytearray(file.read_bytes())
    content[60:70] = bytes(10)
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"file\.jit: got .*, expected a TorchScript file"):
        load_torchscript(file)


def with_texts() -> Iterator[str]:
    """Operators that a program may use and that take a text, but not as their own subject."""
    for schema in torch._C._jit_get_all_schemas():
        namespace, _, name = schema.name.partition("::")
        given = [(argument.name, str(argument.type)) for argument in schema.arguments]
        of_text = given[:1] in ([("self", "str")], [("s", "str")])
        if namespace in _NAMESPACES and not of_text and any("str" in kind for _, kind in given):
            yield name


def test_every_operator_that_takes_a_text_is_known() -> None:
    """An operator without a text cannot name a file."""
    found = {name for name in with_texts() if not name.startswith(HARMLESS_PREFIXES)}
    assert found - {*HARMLESS.split()} == _WITH_FILES
