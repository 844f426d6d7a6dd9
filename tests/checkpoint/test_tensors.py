"""Files written tensor by tensor are safetensors files, and no tensor is made before its turn."""

import pytest
import torch
from safetensors.torch import load_file

from videomar.checkpoint.tensors import Later, each_tensor, in_order, save_file

DTYPES = (
    torch.float64,
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
)


@pytest.mark.parametrize("shape", [(), (1,), (0, 3), (3, 5), (2, 1, 7)])
def test_file_holds_what_was_written(tmp_path, shape):
    written = {f"{dtype}": (torch.arange(64.0) % 5)[: max(1, torch.Size(shape).numel())] for dtype in DTYPES}
    tensors = {
        f"a.{number}": (values if shape != (0, 3) else values[:0]).reshape(shape).to(dtype)
        for number, (dtype, values) in enumerate(zip(DTYPES, written.values(), strict=True))
    }
    save_file(tensors, tmp_path / "file.safetensors")
    for found in (load_file(tmp_path / "file.safetensors"), dict(each_tensor(tmp_path / "file.safetensors"))):
        assert found.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert found[name].dtype == tensor.dtype
            assert found[name].shape == tensor.shape
            assert torch.equal(found[name], tensor)


def test_columns_and_transposed_tensors_are_written_as_they_read(tmp_path):
    tensor = torch.arange(24.0).reshape(4, 6)
    save_file({"t": tensor.T, "column": tensor[:, 1]}, tmp_path / "file")
    found = load_file(tmp_path / "file")
    assert torch.equal(found["t"], tensor.T)
    assert torch.equal(found["column"], tensor[:, 1])


def test_tensors_are_made_one_at_a_time_in_the_order_of_the_file(tmp_path):
    made, sizes = [], []
    path = tmp_path / "file"

    def maker(name: str, dtype: torch.dtype):
        def make() -> torch.Tensor:
            made.append(name)
            sizes.append(path.stat().st_size)
            return torch.full((100_000,), len(made), dtype=dtype)

        return Later(torch.Size([100_000]), dtype, make)

    tensors = {
        name: maker(name, dtype) for name, dtype in zip("abc", (torch.uint8, *DTYPES[1:3]), strict=True)
    }
    save_file(tensors, path)
    assert made == in_order(tensors) == ["b", "c", "a"]
    # The header is small, and may still be in a buffer.
    assert [size // 100_000 for size in sizes] == [0, 4, 6]
    assert [int(load_file(path)[name][0]) for name in made] == [1, 2, 3]
