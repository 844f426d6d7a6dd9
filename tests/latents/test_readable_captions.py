"""Captions that an encoder cannot read are counted and named; a multilingual encoder reads them."""

import dataclasses
import logging

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from videomar.encoders.minilm import load_prompt_encoder
from videomar.encoders.text import load_text_encoder
from videomar.latents.readable_captions import (
    Reading,
    find_losses,
    prompt_note,
    read_captions,
    warn_of_losses,
)

CHINESE = "一只红猫向左跑", "一只蓝狗向右跳"
ARABIC = "قطة حمراء تركض يسارا"
UNREAD = (*CHINESE, ARABIC, "🐈🏃", "кошка бежит налево", "\u200d\ufe0f")
READ = (
    "a red cat runs left",
    "a red cat runs 🐈",
    "café à la crème",
    "ein Ball rollt über die Straße",
    "USA",
)


@pytest.fixture(scope="module", params=["pipeline", "prompts"])
def minilm(request, params):
    load = load_prompt_encoder if request.param == "prompts" else load_text_encoder
    return load(dataclasses.replace(params.text, encoder="minilm", prefix="film: "))


def test_packaged_encoder_cannot_read_other_scripts_and_emoji_but_english_and_its_neighbours(minilm):
    readings = read_captions(minilm, [*UNREAD, *READ, "", " \n"])
    unread = [reading.is_unreadable for reading in readings]
    assert unread == [True] * len(UNREAD) + [False] * (len(READ) + 2)
    assert readings[-2:] == [Reading(0, 0.0)] * 2


def test_counts_are_those_of_the_encoder_before_the_cut(minilm):
    short, long = "a ball rolls", "a ball rolls " * 20
    assert [reading.num_tokens for reading in read_captions(minilm, [short, long])] == [7, 64]
    assert [len(states) for states in minilm.encode([short, long])] == [7, 24]


def test_losses_are_counted_and_a_few_are_named(minilm, caplog):
    captions = [*UNREAD, *READ, "", "word " * 40]
    losses = find_losses(captions, read_captions(minilm, captions), 24)
    assert (losses.num_captions, len(losses.unreadable), len(losses.cut)) == (12, 6, 1)
    with caplog.at_level(logging.WARNING):
        warn_of_losses(losses, 24)
    unreadable, cut = (record.getMessage() for record in caplog.records)
    assert unreadable.startswith("6 of 12 captions cannot be read by the text encoder")
    assert "and 3 more" in unreadable
    assert "text.encoder to the folder of a multilingual model" in unreadable
    assert cut.startswith('1 of 12 captions are cut ("word word')
    assert "the longest has 44 tokens, text.max_tokens is 24" in cut
    assert "\n" not in unreadable + cut
    caplog.clear()
    warn_of_losses(find_losses(READ, read_captions(minilm, READ), 24), 24)
    assert not caplog.records


def test_prompt_that_cannot_be_read_has_a_note_of_one_line(minilm):
    assert "knows 14% of the prompt's words" in prompt_note(minilm, CHINESE[0])
    assert "knows only the letters of the prompt's words" in prompt_note(minilm, ARABIC)
    assert prompt_note(minilm, READ[0]) == prompt_note(minilm, "") == ""


def test_no_encoder_loses_nothing(params):
    none = load_text_encoder(dataclasses.replace(params.text, encoder="none"))
    readings = read_captions(none, [*UNREAD, ""])
    assert find_losses([*UNREAD, ""], readings, 24).lines(24) == []
    assert "trained without words" in prompt_note(none, "a cat")
    assert prompt_note(none, " ") == ""


# Words of two scripts, as a multilingual vocabulary has them.
WORDS = ["一只", "红", "蓝", "猫", "狗", "向左跑", "向右跳", "▁a", "▁red", "▁cat", "▁", "跑"]
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def unigram(specials):
    known = [*specials, *WORDS]
    tokenizer = Tokenizer(models.Unigram([(piece, -1.0) for piece in known], unk_id=specials.index("<unk>")))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


def save(tokenizer, folder, template, **named):
    tokens = [token for token in template.split() if token != "$A"]
    ids = [(token, tokenizer.token_to_id(token)) for token in tokens]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named).save_pretrained(folder)
    return tokenizer.get_vocab_size()


def write_xlm_r(folder):
    """As multilingual MiniLM and XLM-R: one tokenizer of pieces, a BERT-like network."""
    tokenizer = unigram(["<s>", "<pad>", "</s>", "<unk>"])
    named = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    size = save(tokenizer, folder, "<s> $A </s>", **named)
    config = transformers.XLMRobertaConfig(
        vocab_size=size, max_position_embeddings=34, initializer_range=0.3, pad_token_id=1, **SMALL
    )
    transformers.XLMRobertaModel(config).save_pretrained(folder)


def write_t5_like(kind):
    """As mT5 and umT5."""

    def write(folder):
        tokenizer = unigram(["<pad>", "</s>", "<unk>"])
        named = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
        size = save(tokenizer, folder, "$A </s>", **named)
        config, network = getattr(transformers, f"{kind}Config"), getattr(transformers, f"{kind}EncoderModel")
        shape = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
        network(config(vocab_size=size, **shape)).save_pretrained(folder)

    return write


def write_bert(folder):
    """As multilingual BERT: one word piece for each Chinese letter."""
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    letters = dict.fromkeys("".join(CHINESE))
    known = [*named.values(), *letters, "a", "red", "cat"]
    tokenizer = Tokenizer(models.WordPiece({word: n for n, word in enumerate(known)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.normalizer = normalizers.BertNormalizer(handle_chinese_chars=True)
    size = save(tokenizer, folder, "[CLS] $A [SEP]", **named)
    config = transformers.BertConfig(
        vocab_size=size, max_position_embeddings=32, initializer_range=0.3, **SMALL
    )
    transformers.BertModel(config).save_pretrained(folder)


def write_qwen2(folder):
    """A language model that spells unknown words in bytes."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    known = ["<|endoftext|>", *letters]
    tokenizer = Tokenizer(models.BPE({token: n for n, token in enumerate(known)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")
    fast.save_pretrained(folder)
    config = transformers.Qwen2Config(
        vocab_size=len(known), num_key_value_heads=1, max_position_embeddings=32, **SMALL
    )
    transformers.Qwen2Model(config).save_pretrained(folder)


@pytest.mark.parametrize(
    "write",
    [write_xlm_r, write_t5_like("MT5"), write_t5_like("UMT5"), write_bert, write_qwen2],
    ids=["xlm_r", "mt5", "umt5", "bert", "qwen2"],
)
def test_multilingual_encoder_is_one_key_away_and_keeps_captions_apart(params, tmp_path, write):
    torch.manual_seed(0)
    write(tmp_path)
    text = dataclasses.replace(params.text, encoder=str(tmp_path), prefix="", max_tokens=30)
    encoder = load_text_encoder(text)
    captions = [*CHINESE, "a red cat"]
    readings = read_captions(encoder, captions)
    assert not any(reading.unknown_share for reading in readings)
    assert not any(reading.is_unreadable for reading in readings[:2])
    cat, dog, english = encoder.encode(captions)
    assert cat.shape == dog.shape == (readings[0].num_tokens, 16)
    assert (cat - dog).abs().max() > 0.01
    assert english.shape[0] == readings[2].num_tokens
    unknown = read_captions(encoder, ["ξψω"])[0]
    assert unknown.unknown_share == 0 if write is write_qwen2 else unknown.is_unreadable


def test_packaged_encoder_has_equal_states_for_captions_that_it_cannot_read(minilm):
    cat, dog = minilm.encode(["红猫", "蓝狗"])
    assert (cat - dog).abs().max() == 0
