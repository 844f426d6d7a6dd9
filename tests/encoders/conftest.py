"""A folder with a tiny random tokenizer of every kind."""

import math

import pytest
import torch
from torch import nn

from tests.conftest import small_params
from videomar.compute.seeding import step_generator
from videomar.encoders.causal import CausalTokenizer, save_tokenizer
from videomar.encoders.load import load_tokenizer

# Kind: time stride, space stride. Each encodes to 4 channels.
STRIDES = {"ours": (4, 8), "cosmos8": (8, 8), "cosmos16": (8, 16), "torchscript": (8, 16)}
KINDS = list(STRIDES)


def redraw(network):
    """Draw every weight, so that nothing is trivially zero, for outputs of about the inputs' size."""
    generator = step_generator(0, 0)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.dim() > 1:
                weight.normal_(0, 1 / math.sqrt(weight[0].numel()), generator=generator)
            elif not weight.any():
                weight.normal_(0, 0.1, generator=generator)
    return network.eval()


class Encoder(nn.Module):
    """Holds the first frame still for a stride, then one convolution; returns more than the latents."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, channels, (8, 16, 16), (8, 16, 16))

    def forward(self, video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        latents = self.conv(torch.cat([video[:, :, :1].repeat(1, 1, 7, 1, 1), video], 2))
        return latents, torch.zeros(1)


class Decoder(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose3d(channels, 3, (8, 16, 16), (8, 16, 16))

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return self.conv(latents)[:, :, 7:]


def write_torchscript(folder, encoder, decoder):
    folder.mkdir(parents=True, exist_ok=True)
    torch.jit.script(encoder).save(folder / "encoder.jit")
    torch.jit.script(decoder).save(folder / "decoder.jit")


def write_tokenizer(kind, folder):
    if kind == "ours":
        save_tokenizer(redraw(CausalTokenizer(small_params().tokenizer)), folder)
    elif kind == "torchscript":
        write_torchscript(folder, redraw(Encoder(4)), redraw(Decoder(4)))
    else:
        from diffusers import AutoencoderKLCosmos

        widths = (8, 12, 8, 16)
        model = AutoencoderKLCosmos(
            latent_channels=4,
            encoder_block_out_channels=widths,
            decode_block_out_channels=widths,
            num_layers=1,
            spatial_compression_ratio=STRIDES[kind][1],
        )
        redraw(model).decoder.conv_out.conv_t.weight.data *= 0.02  # or `decode` would clamp most pixels
        model.save_pretrained(folder)


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Kind -> folder; not to be written to."""
    root = tmp_path_factory.mktemp("tokenizers")
    for kind in KINDS:
        write_tokenizer(kind, root / kind)
    return {kind: root / kind for kind in KINDS}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def tokenizer(kind, folders):
    return load_tokenizer(folders[kind])
