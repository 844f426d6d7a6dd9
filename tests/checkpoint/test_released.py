"""The import, against what the released layout computes: written out below, in float64."""

import argparse
import math
import pickle

import pytest
import torch
from safetensors.torch import save_file

from tests.cli.test_cli import run
from videomar.checkpoint.folder import load, read_manifest
from videomar.checkpoint.released import import_released
from videomar.errors import CheckpointError

WIDTH, HEADS, HEAD_DIM, BLOCKS, FEED = 48, 3, 16, 3, 176
CHANNELS, TEXT, CAPTION = 5, 7, 6
HEAD_WIDTH, HEAD_BLOCKS = 24, 2
TOLERANCE = 1e-4


def released(outputs=2 * CHANNELS, tables=(), token_channels=CHANNELS, seed=0):
    """A state dict of the released layout, every tensor drawn; `tables` names the blocks that have one."""
    generator = torch.Generator().manual_seed(seed)
    state = {}

    def linear(name, rows, columns, bias=True):
        state[f"{name}.weight"] = torch.randn(rows, columns, generator=generator) / math.sqrt(columns)
        if bias:
            state[f"{name}.bias"] = 0.3 * torch.randn(rows, generator=generator)

    def norm(name, width, bias=True):
        state[f"{name}.weight"] = 1 + 0.3 * torch.randn(width, generator=generator)
        if bias:
            state[f"{name}.bias"] = 0.3 * torch.randn(width, generator=generator)

    linear("z_proj", WIDTH, token_channels)
    linear("context_embed", WIDTH, TEXT)
    state["fake_latent"] = torch.randn(1, CAPTION, WIDTH, generator=generator)
    state["mask_token"] = torch.randn(1, 1, WIDTH, generator=generator)
    for number in range(BLOCKS):
        block = f"decoder_blocks.{number}"
        norm(f"{block}.norm1", WIDTH)
        norm(f"{block}.norm2", WIDTH)
        linear(f"{block}.attn1.wqkv", 3 * WIDTH, WIDTH, bias=False)
        linear(f"{block}.attn2.wq", WIDTH, WIDTH, bias=False)
        linear(f"{block}.attn2.wkv", 2 * WIDTH, WIDTH, bias=False)
        for attention in ("attn1", "attn2"):
            linear(f"{block}.{attention}.wo", WIDTH, WIDTH, bias=False)
            norm(f"{block}.{attention}.q_norm", HEAD_DIM, bias=False)
            norm(f"{block}.{attention}.k_norm", HEAD_DIM, bias=False)
        linear(f"{block}.ff.net.0.proj", FEED, WIDTH, bias=False)
        linear(f"{block}.ff.net.2", WIDTH, FEED, bias=False)
        if number in tables:
            state[f"{block}.scale_shift_table"] = torch.randn(6, WIDTH, generator=generator)
    norm("decoder_norm", WIDTH)
    net = "diffloss.net"
    linear(f"{net}.time_embed.mlp.0", HEAD_WIDTH, 256)
    linear(f"{net}.time_embed.mlp.2", HEAD_WIDTH, HEAD_WIDTH)
    linear(f"{net}.cond_embed", HEAD_WIDTH, WIDTH)
    linear(f"{net}.input_proj", HEAD_WIDTH, token_channels)
    for number in range(HEAD_BLOCKS):
        norm(f"{net}.res_blocks.{number}.in_ln", HEAD_WIDTH)
        linear(f"{net}.res_blocks.{number}.mlp.0", HEAD_WIDTH, HEAD_WIDTH)
        linear(f"{net}.res_blocks.{number}.mlp.2", HEAD_WIDTH, HEAD_WIDTH)
        linear(f"{net}.res_blocks.{number}.adaLN_modulation.1", 3 * HEAD_WIDTH, HEAD_WIDTH)
    linear(f"{net}.final_layer.adaLN_modulation.1", 2 * HEAD_WIDTH, HEAD_WIDTH)
    linear(f"{net}.final_layer.linear", outputs, HEAD_WIDTH)
    return state


def apply_linear(state, name, x):
    return torch.einsum("...i,oi->...o", x, state[f"{name}.weight"]) + state.get(f"{name}.bias", 0)


def standardised(x, eps):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.pow(2).mean(-1, keepdim=True) + eps).sqrt()


def apply_norm(state, name, x, eps):
    return standardised(x, eps) * state[f"{name}.weight"] + state[f"{name}.bias"]


def apply_rms(state, name, x):
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * state[f"{name}.weight"]


def turned(x, places):
    """Vectors (S, 16) of one head at (time, row, column): pairs as complex numbers, turned axis by axis."""
    out, start = [], 0
    for axis, dim in enumerate((HEAD_DIM // 2, HEAD_DIM // 4, HEAD_DIM // 4)):
        half = dim // 2
        pairs = torch.complex(x[:, start : start + half], x[:, start + half : start + dim])
        speeds = [10_000 ** (-2 * i / dim) for i in range(half)]
        angles = torch.tensor([[place[axis] * speed for speed in speeds] for place in places]).double()
        pairs = pairs * torch.polar(torch.ones_like(angles), angles)
        out += [pairs.real, pairs.imag]
        start += dim
    return torch.cat(out, -1)


def attend(q, k, v):
    scores = torch.einsum("ik,jk->ij", q, k) / math.sqrt(q.shape[-1])
    weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
    return torch.einsum("ij,jk->ik", weights, v)


def self_attention(state, name, x, places, tokens_per_frame):
    fused = apply_linear(state, f"{name}.wqkv", x)
    heads = []
    for head in range(HEADS):
        q, k, v = fused[:, head * 3 * HEAD_DIM : (head + 1) * 3 * HEAD_DIM].split(HEAD_DIM, -1)
        q = turned(apply_rms(state, f"{name}.q_norm", q), places)
        k = turned(apply_rms(state, f"{name}.k_norm", k), places)
        frames = []
        for start in range(0, len(x), tokens_per_frame):
            end = start + tokens_per_frame
            frames.append(attend(q[start:end], k[:end], v[:end]))
        heads.append(torch.cat(frames))
    return apply_linear(state, f"{name}.wo", torch.cat(heads, -1))


def cross_attention(state, name, x, caption):
    queries, fused = apply_linear(state, f"{name}.wq", x), apply_linear(state, f"{name}.wkv", caption)
    heads = []
    for head in range(HEADS):
        k, v = fused[:, head * 2 * HEAD_DIM : (head + 1) * 2 * HEAD_DIM].split(HEAD_DIM, -1)
        q = queries[:, head * HEAD_DIM : (head + 1) * HEAD_DIM]
        heads.append(attend(apply_rms(state, f"{name}.q_norm", q), apply_rms(state, f"{name}.k_norm", k), v))
    return apply_linear(state, f"{name}.wo", torch.cat(heads, -1))


def gelu(x):
    return x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def reference_trunk(state, latents, token_mask, text, text_mask, patch_size=1):
    """(B, T, L, D), one clip and one frame at a time."""
    state = {name: value.double() for name, value in state.items()}
    num_frames, rows, columns = latents.shape[2], *(side // patch_size for side in latents.shape[3:])
    places = [(t, y, x) for t in range(num_frames) for y in range(rows) for x in range(columns)]
    clips = []
    for clip, hidden, words, real in zip(latents.double(), token_mask, text.double(), text_mask, strict=True):
        x = torch.stack(
            [
                state["mask_token"].flatten()
                if hidden[t, row * columns + column]
                else apply_linear(
                    state,
                    "z_proj",
                    clip[
                        :,
                        t,
                        row * patch_size : (row + 1) * patch_size,
                        column * patch_size : (column + 1) * patch_size,
                    ].flatten(),
                )
                for t, row, column in places
            ]
        )
        caption = apply_linear(state, "context_embed", words[real]) if real.any() else state["fake_latent"][0]
        for number in range(BLOCKS):
            block = f"decoder_blocks.{number}"
            nothing = torch.tensor([[0.0], [0.0], [1.0]] * 2).expand(6, WIDTH)
            shift1, scale1, gate1, shift2, scale2, gate2 = state.get(f"{block}.scale_shift_table", nothing)
            read = apply_norm(state, f"{block}.norm1", x, 1e-5) * (1 + scale1) + shift1
            x = x + gate1 * self_attention(state, f"{block}.attn1", read, places, rows * columns)
            x = x + cross_attention(state, f"{block}.attn2", x, caption)
            read = apply_norm(state, f"{block}.norm2", x, 1e-5) * (1 + scale2) + shift2
            inner = gelu(apply_linear(state, f"{block}.ff.net.0.proj", read))
            x = x + gate2 * apply_linear(state, f"{block}.ff.net.2", inner)
        x = apply_norm(state, "decoder_norm", x, 1e-6)
        clips.append(x.reshape(num_frames, rows * columns, WIDTH))
    return torch.stack(clips)


def silu(x):
    return x / (1 + torch.exp(-x))


def reference_head(state, noisy, steps, hidden):
    """(n, outputs); `steps` of a thousand."""
    state = {name: value.double() for name, value in state.items()}
    net = "diffloss.net"
    angles = torch.stack([steps.double() * 10_000 ** (-i / 128) for i in range(128)], -1)
    waves = torch.cat([angles.cos(), angles.sin()], -1)
    told = apply_linear(
        state, f"{net}.time_embed.mlp.2", silu(apply_linear(state, f"{net}.time_embed.mlp.0", waves))
    )
    told = told + apply_linear(state, f"{net}.cond_embed", hidden.double())
    x = apply_linear(state, f"{net}.input_proj", noisy.double())
    for number in range(HEAD_BLOCKS):
        block = f"{net}.res_blocks.{number}"
        modulation = apply_linear(state, f"{block}.adaLN_modulation.1", silu(told))
        shift, scale, gate = modulation.split(HEAD_WIDTH, -1)
        inner = apply_norm(state, f"{block}.in_ln", x, 1e-6) * (1 + scale) + shift
        x = x + gate * apply_linear(
            state, f"{block}.mlp.2", silu(apply_linear(state, f"{block}.mlp.0", inner))
        )
    shift, scale = apply_linear(state, f"{net}.final_layer.adaLN_modulation.1", silu(told)).split(
        HEAD_WIDTH, -1
    )
    return apply_linear(state, f"{net}.final_layer.linear", standardised(x, 1e-6) * (1 + scale) + shift)


def clips(grid, num_frames=3, channels=CHANNELS):
    """Latents of three clips, hidden tokens, captions: one padded, one full, one empty."""
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(3, channels, num_frames, *grid, generator=generator)
    text = torch.randn(3, CAPTION, TEXT, generator=generator)
    text_mask = torch.tensor([[1, 1, 0, 0, 0, 0], [1] * 6, [0] * 6]).bool()
    return latents, text, text_mask, generator


def imported(tmp_path, state, **options):
    torch.save(state, tmp_path / "released.pth")
    import_released(tmp_path / "released.pth", tmp_path / "ours", **options)
    return tmp_path / "ours"


@pytest.mark.parametrize("tables", [(), range(BLOCKS), (1,)], ids=["no tables", "tables", "one table"])
@pytest.mark.parametrize("grid", [(2, 3), (4, 1)], ids=str)
def test_trunk_computes_what_the_released_layout_says(tmp_path, grid, tables, measured):
    state = released(tables=tables)
    latents, text, text_mask, generator = clips(grid)
    token_mask = torch.rand(3, 3, grid[0] * grid[1], generator=generator) < 0.4
    hidden = load(imported(tmp_path, state)).model.trunk(latents, token_mask, text, text_mask)
    expected = reference_trunk(state, latents, token_mask, text, text_mask)
    assert expected.std() > 0.5
    law = f"import: trunk against the released layout, {len(tables)} scale_shift_tables"
    measured(law, (hidden - expected).abs().max(), TOLERANCE)


def test_trunk_with_shorter_captions_computes_the_same(tmp_path):
    state = released()
    latents, text, text_mask, _ = clips((2, 2))
    token_mask = torch.zeros(3, 3, 4, dtype=torch.bool)
    hidden = load(imported(tmp_path, state)).model.trunk(latents, token_mask, text[:, :2], text_mask[:, :2])
    expected = reference_trunk(state, latents, token_mask, text[:, :2], text_mask[:, :2])
    assert (hidden - expected).abs().max() < TOLERANCE


def test_trunk_with_patches_computes_what_the_layout_says(tmp_path):
    state = released(token_channels=8, outputs=16)
    latents, text, text_mask, generator = clips((4, 6), channels=2)
    token_mask = torch.rand(3, 3, 6, generator=generator) < 0.4
    loaded = load(imported(tmp_path, state, patch_size=2))
    assert loaded.shape.latent_channels == 2
    hidden = loaded.model.trunk(latents, token_mask, text, text_mask)
    expected = reference_trunk(state, latents, token_mask, text, text_mask, patch_size=2)
    assert (hidden - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize(("kind", "outputs", "scale"), [("ddpm", 2 * CHANNELS, 1), ("flow", CHANNELS, 1000)])
@pytest.mark.parametrize("stated", [True, False])
def test_head_computes_what_the_released_layout_says(tmp_path, kind, outputs, scale, stated, measured):
    state = released(outputs)
    loaded = load(imported(tmp_path, state, head=kind if stated else "auto"))
    assert loaded.params.head == kind
    generator = torch.Generator().manual_seed(2)
    noisy, hidden = (torch.randn(9, width, generator=generator) for width in (CHANNELS, WIDTH))
    steps = torch.tensor([0, 1, 2, 10, 100, 500, 750, 998, 999])
    out = loaded.model.head.predict(noisy, steps if kind == "ddpm" else steps / scale, hidden)
    expected = reference_head(state, noisy, steps, hidden)
    assert out.shape == (9, outputs)
    assert expected.std() > 0.3
    measured(f"import: {kind} head against the released layout", (out - expected).abs().max(), TOLERANCE)


def test_values_near_the_epsilons_of_the_norms_come_out_the_same(tmp_path):
    state = released(tables=(1,))
    small = ("z_proj", "mask_token", "ff.net.2", "wqkv", "wkv", "input_proj", "mlp.2.")
    for name in state:
        if any(part in name for part in small) and "time_embed" not in name:
            state[name] *= 1e-3
    model = load(imported(tmp_path, state)).model
    latents, text, text_mask, generator = clips((2, 3))
    token_mask = torch.rand(3, 3, 6, generator=generator) < 0.4
    expected = reference_trunk(state, latents, token_mask, text, text_mask)
    assert (model.trunk(latents, token_mask, text, text_mask) - expected).abs().max() < TOLERANCE
    noisy, hidden = (torch.randn(9, width, generator=generator) for width in (CHANNELS, WIDTH))
    expected = reference_head(state, noisy, torch.arange(9), hidden)
    assert (model.head.predict(noisy, torch.arange(9), hidden) - expected).abs().max() < TOLERANCE


def test_sizes_come_from_the_tensors(tmp_path):
    loaded = load(imported(tmp_path, released()))
    params, shape = loaded.params, loaded.shape
    assert (params.hidden_size, params.depth, params.num_heads) == (WIDTH, BLOCKS, HEADS)
    assert params.rope_axis_dims == (8, 4, 4)
    assert (params.head_width, params.head_depth) == (HEAD_WIDTH, HEAD_BLOCKS)
    assert (shape.latent_channels, shape.text_channels, shape.max_text_tokens) == (CHANNELS, TEXT, CAPTION)
    assert loaded.step == 0


def test_both_sets_of_weights_are_kept_apart(tmp_path):
    raw, ema = released(seed=0), released(seed=1, tables=(2,))
    namespace = argparse.Namespace(lr=1e-4, output_dir="out")
    content = {"model": raw, "model_ema": ema, "epoch": 3, "args": namespace, "optimizer": {"state": {}}}
    folder = imported(tmp_path, content)
    for weights, state in (("model", raw), ("ema", ema)):
        mask_token = load(folder, weights=weights).model.trunk.mask_token
        assert torch.equal(mask_token, state["mask_token"])


@pytest.mark.parametrize("wrap", ["model", "model_ema", None])
def test_one_set_of_weights_serves_as_both(tmp_path, wrap):
    state = released()
    folder = imported(tmp_path, {wrap: state} if wrap else state)
    for weights in ("model", "ema"):
        assert torch.equal(load(folder, weights=weights).model.trunk.mask_token, state["mask_token"])


def write_safetensors(state, folder):
    save_file(state, folder / "released.safetensors")
    return folder / "released.safetensors"


def write_old_pickle(state, folder):
    torch.save(state, folder / "released.pt", _use_new_zipfile_serialization=False)
    return folder / "released.pt"


def write_wrapped(state, folder):
    torch.save({f"module.{name}": value for name, value in state.items()}, folder / "released.pth")
    return folder / "released.pth"


@pytest.mark.parametrize("write", [write_safetensors, write_old_pickle, write_wrapped])
def test_every_kind_of_file_gives_the_same_checkpoint(tmp_path, write):
    state = released(tables=(0,))
    folder = imported(tmp_path, state)
    import_released(write(state, tmp_path), tmp_path / "other")
    ours, theirs = (load(path).model.state_dict() for path in (folder, tmp_path / "other"))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_are_stored_as_float32(tmp_path, dtype):
    state = {name: value.to(dtype) for name, value in released(tables=(1,)).items()}
    model = load(imported(tmp_path, state)).model
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    assert torch.equal(model.trunk.z_proj.weight, state["z_proj.weight"].float())


def test_tensors_that_share_memory_are_read(tmp_path):
    state = released()
    state["decoder_blocks.1.norm1.bias"] = state["decoder_blocks.0.norm1.bias"]
    model = load(imported(tmp_path, state)).model
    assert torch.equal(model.trunk.blocks[0].norm1.bias, model.trunk.blocks[1].norm1.bias)


def test_feed_forward_whose_ratio_is_no_round_number_keeps_its_width(tmp_path, monkeypatch):
    assert int(56 * (61 / 56)) == 60
    for name, size in (("WIDTH", 56), ("HEADS", 7), ("HEAD_DIM", 8), ("FEED", 61)):
        monkeypatch.setitem(globals(), name, size)
    assert load(imported(tmp_path, released())).model.trunk.blocks[0].ff[0].weight.shape == (61, 56)


def test_manifest_names_the_source(tmp_path):
    made_with = read_manifest(imported(tmp_path, released()))["made_with"]["imported"]
    assert made_with["file"] == "released.pth"
    assert len(made_with["sha256"]) == 64
    assert made_with["weights"] == ["model"]


def test_all_problems_are_listed_at_once(tmp_path):
    state = released(tables=(0,))
    del state["z_proj.weight"], state["decoder_blocks.1.attn1.wo.weight"], state["fake_latent"]
    state["decoder_blocks.0.scale_shift_table"] = torch.zeros(4, WIDTH)
    state["decoder_blocks.2.attn2.wkv.weight"] = torch.zeros(WIDTH, WIDTH)
    state["decoder_norm.bias"] = torch.zeros(WIDTH, 1)
    state["mask_token"] = torch.zeros(1, 1, WIDTH, dtype=torch.long)
    state["diffloss.net.input_proj.bias"][0] = torch.nan
    state["decoder_blocks.0.norm3.weight"] = torch.zeros(WIDTH)
    state["pos_embed"] = torch.zeros(2, 3)
    with pytest.raises(CheckpointError) as refusal:
        imported(tmp_path, state)
    problems = (
        f"missing: z_proj.weight ({WIDTH}, {CHANNELS}), decoder_blocks.1.attn1.wo.weight ({WIDTH}, {WIDTH}), "
        f"fake_latent (1, M, {WIDTH})",
        f"unknown: decoder_blocks.0.norm3.weight ({WIDTH}), pos_embed (2, 3)",
        f"decoder_norm.bias ({WIDTH}, 1) instead of ({WIDTH})",
        f"decoder_blocks.0.scale_shift_table (4, {WIDTH}) instead of (6, {WIDTH})",
        f"decoder_blocks.2.attn2.wkv.weight ({WIDTH}, {WIDTH}) instead of ({2 * WIDTH}, {WIDTH})",
        "not dense floats: mask_token torch.int64",
        f"not finite: diffloss.net.input_proj.bias ({HEAD_WIDTH})",
    )
    for problem in problems:
        assert problem in str(refusal.value)
    assert not (tmp_path / "ours").exists()


def test_problems_of_both_sets_are_listed(tmp_path):
    raw, ema = released(), released()
    del raw["mask_token"], ema["z_proj.bias"]
    with pytest.raises(
        CheckpointError, match=r"model_ema: z_proj\.bias \(48\), model: mask_token \(1, 1, 48\)"
    ):
        imported(tmp_path, {"model": raw, "model_ema": ema})


def test_whole_block_left_out_is_missing(tmp_path):
    state = {name: value for name, value in released().items() if not name.startswith("decoder_blocks.1.")}
    with pytest.raises(CheckpointError, match=r"missing: decoder_blocks\.1\.norm1\.weight \(48\)") as refusal:
        imported(tmp_path, state)
    assert str(refusal.value).count("decoder_blocks.1.") == 15


@pytest.mark.parametrize(("stated", "outputs"), [("flow", 2 * CHANNELS), ("ddpm", CHANNELS), ("auto", 7)])
def test_head_that_its_outputs_contradict_is_refused(tmp_path, stated, outputs):
    with pytest.raises(
        CheckpointError, match=rf"linear\.weight \({outputs}, 24\) instead of .*another --head"
    ):
        imported(tmp_path, released(outputs), head=stated)


def test_sets_of_different_size_are_refused(tmp_path):
    state = released()
    deeper = state | {
        name.replace("_blocks.0.", "_blocks.3."): value for name, value in state.items() if "decoder" in name
    }
    with pytest.raises(CheckpointError, match="model and model_ema differ in size"):
        imported(tmp_path, {"model": state, "model_ema": deeper})


def test_heads_that_cannot_be_turned_are_refused(tmp_path):
    state = {
        name: value[:12] if "_norm.weight" in name and "attn" in name else value
        for name, value in released().items()
    }
    with pytest.raises(CheckpointError, match="got heads of 12 channels, width 48, expected a multiple of 8"):
        imported(tmp_path, state)


def test_patches_that_do_not_divide_the_tokens_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="got tokens of 5 channels, expected a multiple of 2x2"):
        imported(tmp_path, released(), patch_size=2)


class _Trap:
    def __reduce__(self):
        return (pytest.fail, ("code from the file was run",))


CONTENTS = {
    "code.pth": lambda path: torch.save({"model": released(), "trap": _Trap()}, path),
    "code.pt": lambda path: path.write_bytes(pickle.dumps(_Trap())),
    "text.pth": lambda path: path.write_text("no tensors"),
    "empty.pth": lambda path: path.touch(),
    "short.pth": lambda path: (torch.save(released(), path), path.write_bytes(path.read_bytes()[:9000])),
    "text.safetensors": lambda path: path.write_text("no tensors"),
    "list.pth": lambda path: torch.save([torch.zeros(2)], path),
    "tensor.pth": lambda path: torch.save(torch.zeros(2), path),
    "other.pth": lambda path: torch.save({"state_dict": released(), "epoch": 3}, path),
    "nothing.pth": lambda path: torch.save({}, path),
    "weights.zip": lambda path: torch.save(released(), path),
    "folder.pth": lambda path: path.mkdir(),
}
MESSAGES = {
    "code.pth": "got more than tensors, expected tensors alone",
    "code.pt": "got more than tensors, expected tensors alone",
    "list.pth": "got the content (list), expected tensors by name",
    "tensor.pth": "expected",
    "other.pth": "got state_dict (dict), epoch (int), expected tensors by name",
    "nothing.pth": "missing: z_proj.weight (D, P), ",
    "weights.zip": "got suffix .zip, expected one with .pth, .pt, .safetensors",
    "folder.pth": "no such file",
    "absent.pth": "no such file",
}


@pytest.mark.parametrize("name", [*CONTENTS, "absent.pth"])
def test_file_of_another_kind_is_refused_in_one_line(tmp_path, monkeypatch, capsys, name):
    CONTENTS.get(name, lambda path: None)(tmp_path / name)
    assert run(monkeypatch, "import", str(tmp_path / name), "--out", str(tmp_path / "ours")) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"videomar: {tmp_path / name}: ")
    assert MESSAGES.get(name, "expected tensors alone") in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "ours").exists()


def test_command_tells_what_was_read(tmp_path, monkeypatch, capsys):
    state = released(CHANNELS, tables=(0, 2))
    torch.save({"model_ema": state}, tmp_path / "released.pth")
    out = tmp_path / "deep/ours"
    words = ["import", str(tmp_path / "released.pth"), "--out", str(out), "--head", "flow"]
    assert run(monkeypatch, *words) == 0
    count = sum(value.numel() for name, value in state.items() if "table" not in name)
    assert capsys.readouterr().out.splitlines() == [
        f"read model_ema: {count:,} parameters; 2 scale_shift_tables folded",
        "trunk: 3 blocks of width 48 with 3 heads",
        "head: flow, 2 blocks of width 24",
        "tokens: 5 channels of 1x1 positions",
        "captions: 6 tokens of 7 channels",
        f"wrote {out}",
        "weights alone: with --tokenizer and --text-encoder it becomes a model that generates clips",
    ]
    assert sorted(path.name for path in out.iterdir()) == [
        "checkpoint.json",
        "ema.safetensors",
        "model.safetensors",
    ]
    assert [path.name for path in out.parent.iterdir()] == ["ours"]


def test_folder_in_use_is_not_written_to(tmp_path, monkeypatch, capsys):
    folder = imported(tmp_path, released())
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert run(monkeypatch, "import", str(tmp_path / "released.pth"), "--out", str(folder)) == 1
    assert "exists already, expected a new folder" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_empty_folder_will_do(tmp_path):
    (tmp_path / "ours").mkdir()
    assert load(imported(tmp_path, released())).step == 0
