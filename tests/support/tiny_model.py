"""An untrained model and tokenizer as files, for tests that generate clips."""

import dataclasses
from pathlib import Path

from tests.conftest import lively
from videomar import checkpoint
from videomar.checkpoint.manifest import ModelShape
from videomar.compute.seeding import step_generator
from videomar.config import Params
from videomar.encoders.causal import CausalTokenizer, save_tokenizer
from videomar.encoders.load import tokenizer_files
from videomar.training.state import untrained


def write_tiny_model(params: Params, folder: Path) -> Path:
    """A model folder for clips of 16 pixels and 9 frames, without captions."""
    params = dataclasses.replace(
        params,
        ingest=dataclasses.replace(params.ingest, size_px=16, num_frames=9),
        text=dataclasses.replace(params.text, encoder="none"),
        model=dataclasses.replace(params.model, conditions=("motion",)),
        sample=dataclasses.replace(params.sample, num_unmask_steps=2, num_diffusion_steps=2),
    )
    coder = CausalTokenizer(params.tokenizer).initialise(step_generator(0, 0))
    save_tokenizer(coder, folder / "coder")
    shape = ModelShape(params.model, params.tokenizer.channels, 1, params.text.max_tokens)
    weights = lively(untrained(shape, 0)).state_dict()
    parts = checkpoint.read_parts(tokenizer_files(folder / "coder"), params, "# tiny\n")
    identity = {"train": {"seed": 0}}
    return checkpoint.save(folder, 0, shape, {"model": weights, "ema": weights}, identity, parts=parts)
