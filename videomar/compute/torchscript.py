"""TorchScript files of other people, loaded only if all that they can do is compute.

Such a file holds program text beside its weights, part of which runs while the file is loaded, and two of
PyTorch's operators write or map any file that the program names. Here the text is read first, and refused if
it uses these, or operators and classes beyond PyTorch's own.
"""

import ast
import io
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from videomar.errors import CheckpointError

# Of the operators `aten::` and `prim::`, which take a file's name.
_WITH_FILES = {"save", "from_file"}
_NAMESPACES = {"aten", "prim"}
# Classes that are written in C++, such as network stores; also in the file's values.
_FOREIGN_CLASSES = "classes"
_ZIP = b"PK\x03\x04"  # without it PyTorch takes the file for one of another format, which is not read here

# A deeply nested program is a MemoryError of Python's parser.
_UNREADABLE = (RuntimeError, ValueError, SyntaxError, MemoryError, EOFError, zipfile.BadZipFile, zlib.error)


def load_torchscript(file: Path, device: torch.device | str = "cpu") -> nn.Module:
    """Load a TorchScript file for inference.

    Raises:
        CheckpointError: it is none, or its program can do more than compute.
    """
    content = file.read_bytes()
    try:
        for problem in _problems(content):
            raise CheckpointError(
                f"{file}: got a program with {problem}, expected one that only computes; use safetensors"
            )
        return torch.jit.load(io.BytesIO(content), map_location=device).eval()
    except _UNREADABLE as error:
        # The lines above the last say where in the file; a program that is nested too deeply gives none.
        got = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise CheckpointError(f"{file}: got {got}, expected a TorchScript file; copy it again") from None


def _problems(content: bytes) -> Iterator[str]:
    """What a program of a TorchScript file can do beyond computing."""
    if not content.startswith(_ZIP):
        raise ValueError("no TorchScript archive")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for entry in archive.infolist():  # not by name: two may have the same
            name = entry.filename.lower()
            if name.endswith(".py"):
                yield from _problems_of_text(archive.read(entry).decode("utf-8"))
            elif name.endswith(".pkl") and f".{_FOREIGN_CLASSES}.".encode() in archive.read(entry):
                yield "values of classes in C++"


def _problems_of_text(text: str) -> Iterator[str]:
    namespaces = bases = 0
    # `getattr` with a text is another way to name an operator, hence the constants.
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Attribute(value=ast.Name(id="ops"), attr=namespace):
                namespaces += 1
                if namespace not in _NAMESPACES:
                    yield f"operators of `{namespace}`"
            case ast.Attribute(attr=word) | ast.Constant(value=str(word)) | ast.Name(id=word):
                bases += word == "ops" and isinstance(node, ast.Name)
                if word in _WITH_FILES:
                    yield f"the operator `{word}`"
                if word == _FOREIGN_CLASSES:
                    yield "classes in C++"
    if bases > namespaces:
        yield "operators under another name"
