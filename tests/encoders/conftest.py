"""A folder with a tiny random tokenizer of every kind, and ledgers of a few clips."""

import copy
import math
from dataclasses import asdict

import pandas
import pytest
import torch
from torch import nn

from tests.conftest import small_params
from tests.support.videos import run_ffmpeg
from videomar.compute.seeding import step_generator
from videomar.curation.ledger import ClipRow, write_ledger
from videomar.encoders import drawn_clips
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
SHAPE = {"clip_width_px": 32, "clip_height_px": 32, "num_frames": 17}
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


@pytest.fixture(scope="session")
def loaded():
    """Kind -> a loaded tokenizer; not to be changed."""
    return {}


@pytest.fixture
def tokenizer(kind, folders, loaded):
    if kind == "torchscript":
        return load_tokenizer(folders[kind])
    if kind not in loaded:
        loaded[kind] = load_tokenizer(folders[kind])
    return copy.deepcopy(loaded[kind])


@pytest.fixture
def few_draws(monkeypatch):
    """The linear start and the statistics of few clips: a second less in every test."""
    monkeypatch.setattr(drawn_clips, "PCA_CLIPS", 16)
    monkeypatch.setattr(drawn_clips, "STATISTICS_BATCH", 4)


def write_run(root, rows, name="a.mp4", seconds=6, size="64x64"):
    """`raw/NAME`, and a ledger of these clips (split, group, start_s, shape) of it."""
    (root / "raw").mkdir(exist_ok=True)
    if not (root / "raw" / name).exists():
        source = f"testsrc2=size={size}:rate=8:duration={seconds}"
        run_ffmpeg(root / "raw", "-f", "lavfi", "-i", source, name)
    made = [
        asdict(ClipRow(video=name, clip_id=f"c{n}", group=group, start_s=start_s, **shape)) | {"split": split}
        for n, (split, group, start_s, shape) in enumerate(rows)
    ]
    write_ledger(root / "ledger.parquet", pandas.DataFrame(made).assign(kept=True, cluster=None, shot=None))


@pytest.fixture(scope="session")
def mixed(tmp_path_factory):
    """Ten clips of two shapes and two groups."""
    root = tmp_path_factory.mktemp("mixed")
    wide = SHAPE | {"clip_width_px": 48}
    rows = [("train", ("simulated", "real")[n % 2], 0.25 * n, (SHAPE, wide)[n // 2 % 2]) for n in range(10)]
    write_run(root, [*rows, ("test", "simulated", 3.0, SHAPE), ("test", "real", 3.5, wide)])
    return root
