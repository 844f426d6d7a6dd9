import dataclasses
import json
import logging
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from tests.support.fake_cuda import FakeCuda
from videomar.config import TextParams
from videomar.encoders import text as text_module
from videomar.encoders.text import MINILM_FILES, NoText, TransformersText, load_text_encoder, pad_states
from videomar.errors import DataError

CAPTIONS = ["a red ball rolls", "two blue boxes fall down and a red ball rolls over them", "a ball", "boxes"]
MARKS = {"qwen2": 0, "t5": 1, "bert": 2}
KINDS = list(MARKS)
TOLERANCE = 1e-5


def write_tokenizer(folder, kind, **settings):
    """Of the captions' words: bytes without marks, pieces with an end, word pieces with start and end."""
    words = sorted({word for caption in CAPTIONS for word in caption.split()})
    if kind == "qwen2":
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        known = ["<|endoftext|>", *letters, "al", "all"]
        ids = {token: number for number, token in enumerate(known)}
        tokenizer = Tokenizer(models.BPE(ids, [("a", "l"), ("al", "l")]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        named = {"eos_token": "<|endoftext|>"}
    elif kind == "t5":
        known = ["<pad>", "</s>", "<unk>", "\u2581", *"abdelorsvx", *("\u2581" + word for word in words)]
        tokenizer = Tokenizer(
            models.Unigram([(token, -len(known) / len(token)) for token in known], unk_id=2)
        )
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        named = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    else:
        named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
        known = [*named.values(), *words[:-2], *"orv", *("##" + letter for letter in "elorsv")]
        ids = {token: number for number, token in enumerate(known)}
        tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = {"t5": ("$A </s>", ["</s>"]), "bert": ("[CLS] $A [SEP]", ["[CLS]", "[SEP]"])}
    if kind in ends:
        template, tokens = ends[kind]
        pairs = [(token, tokenizer.token_to_id(token)) for token in tokens]
        tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=pairs)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named, **settings)
    fast.save_pretrained(folder)
    return tokenizer.get_vocab_size()


SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}


def network(kind, words):
    """A network of two layers, 16 wide, with drawn weights."""
    torch.manual_seed(0)
    if kind == "qwen2":
        config = transformers.Qwen2Config(vocab_size=words, num_key_value_heads=1, **SMALL)
        return transformers.Qwen2ForCausalLM(config).eval()
    if kind == "t5":
        config = transformers.T5Config(
            vocab_size=words, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0
        )
        return transformers.T5ForConditionalGeneration(config).eval()
    return transformers.BertModel(transformers.BertConfig(vocab_size=words, **SMALL)).eval()


def write_model(folder, kind, shard_size="1GB", **settings):
    network(kind, write_tokenizer(folder, kind, **settings)).save_pretrained(
        folder, max_shard_size=shard_size
    )
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: write_model(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


@pytest.fixture
def qwen2(folders, tmp_path):
    return shutil.copytree(folders["qwen2"], tmp_path / "copy")


def token_ids(folder, text):
    return Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids


def bare_states(kind, folder, text):
    """The last hidden states of one text, computed without padding by the class of network itself."""
    ids = token_ids(folder, text)
    model = network(kind, Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size())
    part = {"qwen2": lambda: model.model, "t5": lambda: model.encoder, "bert": lambda: model}[kind]()
    with torch.no_grad():
        return part(input_ids=torch.tensor([ids])).last_hidden_state[0]


@pytest.mark.parametrize("kind", KINDS)
def test_states_are_the_last_hidden_states_of_the_real_tokens(folders, kind):
    encoder = TransformersText(folders[kind], 60)
    assert encoder.channels == 16
    for caption, states in zip(CAPTIONS, encoder.encode(CAPTIONS), strict=True):
        expected = bare_states(kind, folders[kind], caption)
        assert states.shape == expected.shape
        assert (states - expected).abs().max() < TOLERANCE
        assert states.std() > 0.1


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", KINDS)
def test_states_do_not_depend_on_the_batch(tmp_path, kind, side):
    encoder = TransformersText(write_model(tmp_path, kind, padding_side=side), 60)
    together = encoder.encode(CAPTIONS)
    assert len({len(states) for states in together}) > 2
    for caption, states in zip(CAPTIONS, together, strict=True):
        [alone] = encoder.encode([caption])
        assert alone.shape == states.shape
        assert (alone - states).abs().max() < TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("published", [torch.float32, torch.bfloat16])
def test_states_of_a_gpu_are_those_of_the_cpu_and_come_back_there(folders, kind, published):
    here, there = TransformersText(folders[kind], 60), TransformersText(folders[kind], 60)
    there._config.dtype = published
    # Read before: transformers builds networks on the device `meta`, by which the harness knows its GPU.
    narrow = published == torch.bfloat16
    model = text_module._load_model(folders[kind], there._config, published)
    with FakeCuda() as cuda, pytest.MonkeyPatch.context() as patch:
        asked = []
        patch.setattr(text_module, "_load_model", lambda *given: asked.append(given[-1]) or model)
        there.device = torch.device("cuda")
        states = there.encode(CAPTIONS)
    assert asked == [published]
    assert cuda.waits["item"] <= 2  # transformers itself asks whether anything is masked
    for ours, theirs in zip(states, here.encode(CAPTIONS), strict=True):
        assert ours.device.type == "cpu"
        assert ours.dtype == torch.float32
        assert (ours - theirs).abs().mean() < (0.05 if narrow else TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_counted_without_reading_weights(folders, kind):
    encoder = TransformersText(folders[kind], 60)
    counts = encoder.num_tokens([*CAPTIONS, " "])
    assert "model" not in vars(encoder)
    assert counts == [len(states) for states in encoder.encode([*CAPTIONS, " "])]
    assert encoder.num_bytes == (folders[kind] / "model.safetensors").stat().st_size


@pytest.mark.parametrize("kind", KINDS)
def test_empty_caption_is_the_null_text_despite_the_prefix(folders, kind):
    encoder = TransformersText(folders[kind], 60, "two boxes: ")
    shapes = [tuple(states.shape) for states in encoder.encode(["", "a ball", " \n"])]
    assert shapes[0] == shapes[2] == (0, 16)
    assert shapes[1][0] > MARKS[kind]
    assert [tuple(states.shape) for states in encoder.encode([""])] == [(0, 16)]
    assert encoder.encode([]) == []


@pytest.mark.parametrize("kind", KINDS)
def test_prefix_stands_before_the_caption_and_its_states_are_kept(folders, kind):
    plain = TransformersText(folders[kind], 60)
    told = TransformersText(folders[kind], 60, "two blue ")
    assert torch.equal(told.encode(["boxes"])[0], plain.encode(["two blue boxes"])[0])
    assert len(told.encode(["boxes"])[0]) > len(plain.encode(["boxes"])[0])


@pytest.mark.parametrize("kind", KINDS)
def test_long_captions_are_cut_with_one_warning(folders, kind, caplog):
    lengths = [len(token_ids(folders[kind], "a " + caption)) for caption in CAPTIONS]
    limit = sorted(lengths)[1]
    encoder = TransformersText(folders[kind], limit, "a ")
    with caplog.at_level(logging.WARNING):
        states = encoder.encode([*CAPTIONS, ""])
    assert [len(rows) for rows in states] == [min(length, limit) for length in lengths] + [0]
    message = f"2 of 4 captions are cut: the longest has {max(lengths)} tokens, text.max_tokens is {limit}"
    assert [record.getMessage() for record in caplog.records] == [message]
    caplog.clear()
    encoder.encode([CAPTIONS[lengths.index(min(lengths))]])
    assert not caplog.records


def test_cut_text_of_a_decoder_has_the_states_of_its_beginning(folders):
    full = TransformersText(folders["qwen2"], 60).encode(CAPTIONS[1:2])[0]
    cut = TransformersText(folders["qwen2"], 5).encode(CAPTIONS[1:2])[0]
    assert (full[:5] - cut).abs().max() < TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
def test_shards_give_the_states_of_one_file(folders, tmp_path, kind):
    write_model(tmp_path, kind, shard_size="4KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    whole, sharded = (TransformersText(folder, 60).encode(CAPTIONS) for folder in (folders[kind], tmp_path))
    assert all(torch.equal(one, other) for one, other in zip(whole, sharded, strict=True))


def test_t5_folder_may_hold_the_encoder_alone(folders, tmp_path):
    write_tokenizer(tmp_path, "t5")
    transformers.T5EncoderModel.from_pretrained(folders["t5"]).save_pretrained(tmp_path)
    whole, half = (TransformersText(folder, 60).encode(CAPTIONS)[1] for folder in (folders["t5"], tmp_path))
    assert torch.equal(whole, half)


def test_weights_in_half_precision_give_states_in_full(qwen2):
    weights = {name: value.bfloat16() for name, value in load_file(qwen2 / "model.safetensors").items()}
    save_file(weights, qwen2 / "model.safetensors", {"format": "pt"})
    config = json.loads((qwen2 / "config.json").read_text()) | {"dtype": "bfloat16"}
    (qwen2 / "config.json").write_text(json.dumps(config))
    assert TransformersText(qwen2, 60).encode(CAPTIONS)[0].dtype == torch.float32


def test_content_hash_covers_weights_tokenizer_length_and_prefix(qwen2, folders):
    hashes = {TransformersText(qwen2, 60).content_hash}
    assert hashes == {TransformersText(folders["qwen2"], 60).content_hash}
    hashes.add(TransformersText(qwen2, 61).content_hash)
    hashes.add(TransformersText(qwen2, 60, "a ").content_hash)
    tokenizer = qwen2 / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + "\n")
    hashes.add(TransformersText(qwen2, 60).content_hash)
    weights = load_file(qwen2 / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, qwen2 / "model.safetensors", {"format": "pt"})
    hashes.add(TransformersText(qwen2, 60).content_hash)
    assert len(hashes) == 5


def test_content_hash_covers_every_shard(tmp_path):
    write_model(tmp_path, "qwen2", shard_size="4KB")
    hashes = {TransformersText(tmp_path, 60).content_hash}
    shards = sorted(tmp_path.glob("*.safetensors"))
    for shard in shards:
        weights = load_file(shard)
        next(iter(weights.values())).view(-1)[0] += 1
        save_file(weights, shard, {"format": "pt"})
        hashes.add(TransformersText(tmp_path, 60).content_hash)
    assert len(hashes) == len(shards) + 1


@pytest.mark.parametrize(
    ("removed", "lacks"),
    [
        ("config.json", r"lacks config\.json, expected"),
        ("model.safetensors", r"lacks weights \(model\.safetensors, or model\.safetensors\.index\.json"),
        ("tokenizer.json", r"lacks a tokenizer \(tokenizer\.json, or vocab\.txt, or vocab\.json with merges"),
        ("*", r"lacks config\.json; weights .*; a tokenizer "),
    ],
)
def test_folder_without_files_is_refused_with_their_names(qwen2, params, removed, lacks):
    for path in qwen2.glob(removed):
        path.unlink()
    (qwen2 / "pytorch_model.bin").touch()
    with pytest.raises(DataError, match=lacks) as refusal:
        load_text_encoder(dataclasses.replace(params.text, encoder=str(qwen2)))
    assert str(qwen2) in str(refusal.value)


def test_missing_shards_are_all_named(tmp_path):
    write_model(tmp_path, "qwen2", shard_size="4KB")
    gone = sorted(path.name for path in tmp_path.glob("*.safetensors"))[1:3]
    for name in gone:
        (tmp_path / name).unlink()
    with pytest.raises(DataError, match=f"lacks {gone[0]}; {gone[1]}, expected"):
        TransformersText(tmp_path, 60)


def test_slow_tokenizer_files_will_do(folders, tmp_path):
    folder = shutil.copytree(folders["bert"], tmp_path / "slow")
    words = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(sorted(words, key=words.get)))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    states = [TransformersText(path, 60).encode(["a ball"])[0] for path in (folder, folders["bert"])]
    assert torch.equal(*states)


def damage_weights(folder):
    (folder / "model.safetensors").write_bytes(b"nothing of use")


def damage_index(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text("[]")


def name_unknown_kind(folder):
    (folder / "config.json").write_text('{"model_type": "oracle"}')


def name_foreign_code(folder):
    config = {
        "model_type": "oracle",
        "auto_map": {"AutoConfig": "oracle.Config", "AutoModel": "oracle.Model"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "oracle.py").write_text("raise SystemExit('run')")


def damage_config(folder):
    (folder / "config.json").write_text("{")


def damage_tokenizer(folder):
    (folder / "tokenizer.json").write_text("{}")


def drop_tensor(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_weights, "expected a model that transformers reads offline"),
        (damage_index, "index.json is damaged, expected JSON with a weight_map"),
        (name_unknown_kind, "oracle"),
        (name_foreign_code, "without custom code"),
        (damage_config, "expected a model that transformers reads offline"),
        (damage_tokenizer, "expected a model that transformers reads offline"),
        (drop_tensor, r"lacks the tensors layers\.1\.mlp\.up_proj\.weight, expected all weights"),
    ],
)
def test_damaged_folder_is_refused_in_one_line(params, qwen2, damage, message):
    damage(qwen2)
    with pytest.raises(DataError, match=message) as refusal:
        load_text_encoder(dataclasses.replace(params.text, encoder=str(qwen2)))
    assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("kind", "max_tokens", "prefix", "message"),
    [
        (
            "bert",
            2,
            "",
            "got 2 tokens, expected more than the 2 that text.prefix and the model's special tokens",
        ),
        ("qwen2", 1, "b", "got 1 tokens, expected more than the 1 that"),
        ("bert", 65, "", "got 65 tokens, expected at most 64, which is what the model in"),
    ],
)
def test_length_that_cannot_work_is_refused(folders, kind, max_tokens, prefix, message):
    with pytest.raises(DataError, match=message):
        TransformersText(folders[kind], max_tokens, prefix)


def test_packaged_encoder_is_the_default(params):
    encoder = load_text_encoder(params.text)
    near, far, empty = encoder.encode(["a red ball", "red ball!", ""])
    assert near.shape == (5, 384)
    assert empty.shape == (0, 384)
    assert (near - far[: len(near)]).abs().max() > 0.1


def test_no_encoder_gives_the_null_text(params):
    encoder = load_text_encoder(dataclasses.replace(params.text, encoder="none"))
    assert isinstance(encoder, NoText)
    text, mask = pad_states(encoder.encode(["a ball", ""]), 3, encoder.channels)
    assert text.shape == (2, 3, 1)
    assert not mask.any()


def test_padding_marks_the_real_tokens():
    states = [torch.ones(2, 4), torch.ones(0, 4), torch.ones(3, 4)]
    text, mask = pad_states(states, 3, 4)
    assert mask.tolist() == [[True, True, False], [False] * 3, [True] * 3]
    assert torch.equal(text, mask[..., None].expand(3, 3, 4).float())


@pytest.mark.parametrize("shape", [(4, 4), (2, 5)])
def test_padding_refuses_states_of_another_encoder(shape):
    with pytest.raises(DataError, match=f"got {shape[0]} tokens of {shape[1]} channels, expected at most 3"):
        pad_states([torch.ones(shape)], 3, 4)


def test_packaged_encoder_is_the_original_byte_for_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    params = TextParams(encoder="minilm", prefix="", max_tokens=8, num_workers=1, device="cpu")
    assert load_text_encoder(params).content_hash
    monkeypatch.setitem(MINILM_FILES, "tokenizer.json", "0" * 64)
    with pytest.raises(DataError, match=r"tokenizer.json: got be50.*expected sha256 0000.*--force-reinstall"):
        load_text_encoder(params)
