"""Tokenizers on a GPU that is not there: no device mixes, no wait, the same latents."""

import pytest
import torch

from tests.encoders.conftest import KINDS
from tests.support.fake_cuda import CudaTensor, FakeCuda
from videomar.compute.device import autocast
from videomar.compute.seeding import step_generator
from videomar.encoders.causal import CausalTokenizer
from videomar.encoders.load import load_tokenizer
from videomar.encoders.train_tokenizer import batch_loss

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="test_gpu.py runs the same on a real one")


# Python does not see the tensors of TorchScript's own interpreter.
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "torchscript"])
def test_tokenizer_stays_on_the_gpu(tokenizer, kind, folders):
    """Encoding in chunks and decoding; latents and pictures are those of the CPU."""
    frames = tokenizer.num_frames(3)
    video = torch.rand(1, 3, frames, 32, 32, generator=step_generator(0, 0)) * 2 - 1
    with FakeCuda() as cuda:
        there = load_tokenizer(folders[kind], "cuda")
        given = video.to("cuda")
        cuda.clear()
        latents = there.encode(given, 2)
        decoded = there.decode(latents, 2)
        assert not cuda.waits, cuda.places
        assert all(isinstance(x, CudaTensor) for x in (latents, decoded))
        assert decoded.shape == video.shape
        assert torch.allclose(latents.cpu(), tokenizer.encode(video, 2), atol=1e-4)
        assert torch.allclose(decoded.cpu(), tokenizer.decode(latents.cpu(), 2), atol=1e-3)


def test_training_step_of_our_tokenizer_waits_for_nothing(params):
    own = params.tokenizer
    video = torch.rand(2, 3, 5, 16, 16, generator=step_generator(0, 0)) * 2 - 1
    with FakeCuda() as cuda:
        tokenizer = CausalTokenizer(own).initialise(step_generator(0, -3)).to("cuda")
        optimizer = torch.optim.AdamW(tokenizer.parameters(), lr=1e-3, weight_decay=0.0)
        device = tokenizer.latent_mean.device
        parts = [video.to(device), video[..., :8].to(device)]
        generator = step_generator(0, 0, device=device)
        cuda.clear()
        with autocast(device):
            loss, error = batch_loss(tokenizer, own, parts, generator)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tokenizer.parameters(), 1.0)
        optimizer.step()
        assert not cuda.waits, cuda.places
        assert isinstance(error, CudaTensor)
        assert 0 < error.item() < loss.item() < 10
