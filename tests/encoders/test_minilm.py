"""The light reader of MiniLM against the one of the pipeline."""

import dataclasses
import subprocess
import sys

import pytest
import torch

from videomar.encoders.minilm import load_prompt_encoder
from videomar.encoders.text import NoText, load_text_encoder
from videomar.errors import DataError

CAPTIONS = ["a red circle moves left quickly", "", "  ", "x", "Ünïcode and 你好, twice", "a long one " * 20]


@pytest.fixture(scope="module")
def encoder(params):
    return load_prompt_encoder(dataclasses.replace(params.text, encoder="minilm", prefix="film: "))


def test_states_are_those_of_transformers_up_to_rounding(params, encoder, measured):
    text = dataclasses.replace(params.text, encoder="minilm", prefix="film: ")
    reference = load_text_encoder(text)
    pairs = list(zip(encoder.encode(CAPTIONS), reference.encode(CAPTIONS), strict=True))
    assert [ours.shape for ours, _ in pairs] == [theirs.shape for _, theirs in pairs]
    measured("MiniLM by torch's layer against transformers", max(
        (ours - theirs).abs().max() for ours, theirs in pairs if len(ours)
    ), 2e-5)  # fmt: skip
    assert encoder.content_hash == reference.content_hash


def test_long_caption_is_cut_with_a_warning(encoder, params, caplog):
    [states] = encoder.encode(["word " * 100])
    assert states.shape == (params.text.max_tokens, 384)
    assert "has 104 tokens, text.max_tokens is 24" in caplog.text


def test_length_without_room_for_a_caption_is_refused(params):
    text = dataclasses.replace(params.text, encoder="minilm", prefix="word " * 30)
    with pytest.raises(DataError, match="got 24 tokens, expected more than the 32"):
        load_prompt_encoder(text)


def test_other_encoders_are_those_of_the_pipeline(params):
    assert isinstance(load_prompt_encoder(dataclasses.replace(params.text, encoder="none")), NoText)


def test_a_prompt_needs_no_transformers():
    code = (
        "import sys\n"
        "from videomar.config import TextParams\n"
        "from videomar.encoders.minilm import load_prompt_encoder\n"
        "resources = {'num_workers': 1, 'device': 'cpu'}\n"
        "params = TextParams(encoder='minilm', prefix='', max_tokens=24, **resources)\n"
        "encoder = load_prompt_encoder(params)\n"
        "print(encoder.encode(['a prompt'])[0].shape, 'transformers' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{torch.Size([4, 384])} False"
