"""Operations of tokenizers, caption encoders and generation beside what PyTorch's own counter sees."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.conftest import small_params
from videomar.checkpoint.manifest import ModelShape
from videomar.config import TokenizerParams
from videomar.encoders.causal import CausalTokenizer
from videomar.errors import DataError
from videomar.ops.planning.plan_flops import (
    COSMOS_WEIGHTS,
    QWEN2,
    TextSize,
    caption_flops,
    generation_cost,
    text_size,
    tokenizer_flops,
)


@pytest.fixture
def tokenizer() -> TokenizerParams:
    return dataclasses.replace(small_params().tokenizer, channels=16, hidden_size=64, depth=3)


def counted(work) -> int:
    # The counter does not know the CPU's own kernel of attention.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        work()
    return counter.get_total_flops()


def test_our_tokenizer_takes_exactly_what_the_counter_sees(tokenizer: TokenizerParams) -> None:
    with FakeTensorMode():
        network = CausalTokenizer(tokenizer)
        video = torch.zeros(1, 3, 17, 64, 32)
        latents, _ = network.moments(video)
        encode, decode = (
            counted(lambda: network.moments(video)),
            counted(lambda: network.reconstruct(latents)),
        )
    flops = tokenizer_flops(tokenizer, (5, 8, 4), 0)
    assert flops == (encode, decode)
    assert flops.training == 3 * (encode + decode)


@pytest.mark.slow
def test_cosmos_by_pixel_is_what_the_counter_sees(tokenizer: TokenizerParams) -> None:
    """The true class with random weights that have no storage; the share of the edges depends on the size."""
    from diffusers import AutoencoderKLCosmos

    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        network = AutoencoderKLCosmos(spatial_compression_ratio=16, latent_channels=16)
        video = torch.zeros(1, 3, 33, 256, 256)
        latents = network.encode(video).latent_dist.mode()
        encode, decode = counted(lambda: network.encode(video)), counted(lambda: network.decode(latents))
    both = [network.encoder, network.decoder]
    assert sum(weight.numel() for part in both for weight in part.parameters()) == COSMOS_WEIGHTS
    planned = tokenizer_flops(
        dataclasses.replace(tokenizer, pretrained="elsewhere"), (0, 0, 0), video[0, 0].numel()
    )
    assert planned == pytest.approx((encode, decode), rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "qwen2"])
def test_captions_take_what_the_counter_sees(kind: str, tmp_path: Path) -> None:
    """Sizes are read from config.json as transformers writes it."""
    import transformers

    sizes = {"hidden_size": 64, "num_hidden_layers": 3, "intermediate_size": 96, "num_attention_heads": 4}
    if kind == "bert":
        config = transformers.BertConfig(**sizes, vocab_size=50)
        network = transformers.BertModel(config, add_pooling_layer=False)
    else:
        config = transformers.Qwen2Config(**sizes, vocab_size=50, num_key_value_heads=2)
        network = transformers.Qwen2Model(config)
    config.save_pretrained(tmp_path)
    size = text_size(dataclasses.replace(small_params().text, encoder=str(tmp_path)))
    ids = torch.zeros(1, 20, dtype=torch.long)
    with torch.no_grad():
        seen = counted(lambda: network(input_ids=ids))
    assert caption_flops(size, 20) == pytest.approx(seen, rel=0.02)
    assert size.layer_weights == sum(
        w.numel() for n, w in network.named_parameters() if "layer" in n and w.ndim == 2
    )
    assert not size.assumed


def test_text_encoder_that_is_not_there_has_the_size_of_qwen2(tmp_path: Path) -> None:
    params = dataclasses.replace(small_params().text, encoder=str(tmp_path / "none"))
    assert text_size(params) == QWEN2._replace(assumed=True)
    # Published: 1.54 billion parameters, 1.31 of them without the embedding.
    assert QWEN2.weights == pytest.approx(1.54e9, rel=0.01)
    assert QWEN2.layer_weights == pytest.approx(1.31e9, rel=0.01)
    assert text_size(dataclasses.replace(params, encoder="none")) == TextSize("none", 1, 0, 0, 0, False, 0)


def test_config_without_sizes_is_refused_in_one_line(tmp_path: Path) -> None:
    params = dataclasses.replace(small_params().text, encoder=str(tmp_path))
    for content in ({"hidden_size": 8}, {"hidden_size": None, "num_attention_heads": 2}, []):
        (tmp_path / "config.json").write_text(json.dumps(content))
        with pytest.raises(DataError, match=r"text.encoder: .*config.json: got no .*expected sizes"):
            text_size(params)


@pytest.mark.parametrize("guided", [True, False])
def test_generation_takes_what_the_counter_sees(guided: bool) -> None:
    """Frame by frame over the cache, guidance from half of the tokens on, fewer head steps later."""
    params = small_params()
    sampling = dataclasses.replace(
        params.sample,
        num_unmask_steps=3,
        num_diffusion_steps=5,
        final_diffusion_steps=2,
        cfg_scale=2.0 if guided else 1.0,
        cfg_from=0.5 if guided else 0.0,
        motion=None,
    )
    shape = dataclasses.replace(params.model, conditions=())
    model = ModelShape(shape, 4, 6, 5)
    network = model.build().initialise(torch.Generator().manual_seed(0)).eval()
    context, text = torch.zeros(2, 4, 1, 4, 4), torch.zeros(2, 5, 6)
    mask = torch.ones(2, 5, dtype=torch.bool)
    rows = [torch.Generator().manual_seed(row) for row in range(2)]
    seen = counted(lambda: network.generate(context, 3, text, mask, sampling, rows))
    cost = generation_cost(model, sampling, 16, 3, 1)
    # Of this small network the embedding of the time, which is not counted, is 2 %.
    assert 2 * cost.flops == pytest.approx(seen, rel=0.03)
    assert cost.passes == 2 * 3 + 2
    assert cost.head_steps == 2 * (5 + 4 + 2)
