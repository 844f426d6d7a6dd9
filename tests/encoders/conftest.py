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
STRIDES = {
    "ours": (4, 8),
    "cosmos8": (8, 8),
    "cosmos16": (8, 16),
    "torchscript": (8, 16),
    "wan": (4, 8),
    "ltx": (4, 8),
    "cogvideox": (4, 8),
}
KINDS = list(STRIDES)
WITH_MOMENTS = ("ours", "wan", "ltx", "cogvideox")


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


def small_autoencoder(kind, **changed):
    """A random network of a class of diffusers, of 4 channels and a few weights."""
    import diffusers

    narrow = {"block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 2}
    three = {
        "block_out_channels": (8, 8, 8),
        "decoder_block_out_channels": (8, 8, 8),
        "down_block_types": ("LTXVideoDownBlock3D",) * 3,
        "downsample_type": ("conv",) * 3,
        "upsample_residual": (False,) * 3,
        "upsample_factor": (1,) * 3,
        "layers_per_block": (1,) * 4,
        "decoder_layers_per_block": (1,) * 4,
        "decoder_inject_noise": (False,) * 4,
        "spatio_temporal_scaling": (True, True, False),
        "decoder_spatio_temporal_scaling": (True, True, False),
    }
    statistics = {"latents_mean": [0.1, 0.2, 0.3, 0.4], "latents_std": [1.0, 2.0, 3.0, 4.0]}
    wide = {"encoder_block_out_channels": (32,) * 4, "decoder_block_out_channels": (32,) * 4}
    name, settings = {
        "wan": (
            "AutoencoderKLWan",
            {"base_dim": 8, "z_dim": 4, "dim_mult": [1, 2, 2, 2], "num_res_blocks": 1, **statistics},
        ),
        "ltx": ("AutoencoderKLLTXVideo", {**three, "patch_size": 2, "decoder_causal": True}),
        "cogvideox": ("AutoencoderKLCogVideoX", {**narrow, "scaling_factor": 0.7}),
        "mochi": ("AutoencoderKLMochi", {**wide, **statistics, "layers_per_block": (1,) * 5}),
        "hunyuan": ("AutoencoderKLHunyuanVideo", narrow),
        "image": ("AutoencoderKL", {"block_out_channels": (8,), "norm_num_groups": 2}),
    }[kind]
    if kind != "wan":
        settings = {**settings, "latent_channels": 4}
    return redraw(getattr(diffusers, name)(**{**settings, **changed}))


def write_tokenizer(kind, folder):
    if kind == "ours":
        save_tokenizer(redraw(CausalTokenizer(small_params().tokenizer)), folder)
    elif kind == "torchscript":
        write_torchscript(folder, redraw(Encoder(4)), redraw(Decoder(4)))
    elif kind in WITH_MOMENTS:
        small_autoencoder(kind).save_pretrained(folder)
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
