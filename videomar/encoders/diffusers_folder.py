"""Load the network that `save_pretrained` of diffusers wrote to a folder. Nothing is downloaded.

A network of 32-bit numbers, whatever its file has, in inference mode; every tensor of the file is used, and
none is missing.
"""

import json
from pathlib import Path
from typing import Any

from videomar.errors import CheckpointError

DIFFUSERS_FILES = ("config.json", "diffusion_pytorch_model.safetensors")
_ADVICE = "copy both files of one autoencoder; in a folder of a whole pipeline they are in its part `vae`"


def diffusers_files(folder: Path) -> list[Path]:
    """Return the files that a network of diffusers consists of; none if the folder has something else."""
    files = [folder / name for name in DIFFUSERS_FILES]
    return files if all(file.is_file() for file in files) and class_of(folder) else []


def class_of(folder: Path) -> str | None:
    """Return the class that the folder's `config.json` names; None if it names none."""
    try:
        name = json.loads((folder / DIFFUSERS_FILES[0]).read_text("utf-8"))["_class_name"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return name if isinstance(name, str) else None


def load_network(folder: Path) -> Any:
    """Load the network in a folder that has `diffusers_files`.

    Raises:
        CheckpointError: diffusers is not installed or does not know the class, or tensors do not fit it.
    """
    name = str(class_of(folder))
    try:
        # Slow to import, and absent on a bare GPU machine, which our own tokenizer must not notice.
        import diffusers
        from diffusers.utils import logging
    except ImportError:
        rule = "the package diffusers; install it, or use a tokenizer that was trained here"
        raise CheckpointError(f"{folder}: got {name}, expected {rule}") from None
    kind = getattr(diffusers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, diffusers.ModelMixin)):
        rule = f"a class of diffusers {diffusers.__version__}; {_ADVICE}"
        raise CheckpointError(f"{folder}: got {name}, expected {rule}")
    logging.set_verbosity_error()  # missing tensors are an error below
    try:
        model, found = kind.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            low_cpu_mem_usage=False,
            output_loading_info=True,
        )
    except (RuntimeError, OSError, ValueError, TypeError) as error:
        got = " ".join(str(error).split())
        raise CheckpointError(f"{folder}: got {got}, expected {name}; {_ADVICE}") from None
    unfit = sorted({*found["missing_keys"], *found["unexpected_keys"]})
    if unfit:
        got = f"{len(unfit)} tensors missing or unknown ({', '.join(unfit[:8])})"
        raise CheckpointError(f"{folder}: got {got}, expected none; {_ADVICE}")
    return model.float().eval().requires_grad_(False)
