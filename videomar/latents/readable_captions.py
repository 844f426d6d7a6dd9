"""What a text encoder reads of captions, and what is lost: words unknown to it, and words beyond its length.

An encoder made for one language turns the words of another into one and the same unknown token: two captions
that say different things then have equal states, and training learns nothing of either. Or it knows the
letters of another script, but no word of it, and spells every word.
"""

import logging
import unicodedata
from collections.abc import Sequence
from itertools import repeat
from typing import NamedTuple

from videomar.encoders.minilm import MiniLMText
from videomar.encoders.text import NoText, TextEncoder, TransformersText

MAX_UNKNOWN_SHARE = 0.2
"""A caption with more unknown tokens than this share is counted: one odd word in a sentence is no loss."""
_MAX_TOKENS_PER_LETTER = 0.8
"""Above, words are spelt: English has about 0.25 in encoders that know it, Korean 0.6."""
_FEW_LETTERS = 6
"""So few may be abbreviations, which are spelt in any language."""
_NO_ALPHABET = ("CJK ", "HIRAGANA ", "KATAKANA ")
"""Scripts, by the names of their letters in Unicode, one letter of which is a token with good reason."""
_SHOWN = 3
_SHOWN_LETTERS = 40
_OTHER_ENCODER = "set text.encoder to the folder of a multilingual model (docs/guide/clips.md, Captions)"
_log = logging.getLogger(__name__)


class Reading(NamedTuple):
    """What an encoder reads of one caption."""

    num_tokens: int
    """Tokens before the cut, those of the prefix and the special ones included; 0 for a caption of spaces."""
    unknown_share: float
    """Of the caption's own tokens; 1 if it has words and none of them left a token."""
    is_spelt: bool = False
    """Whether its words are read letter by letter."""

    @property
    def is_unreadable(self) -> bool:
        """Whether too much of it is unknown to the encoder."""
        return self.is_spelt or self.unknown_share > MAX_UNKNOWN_SHARE


class CaptionLosses(NamedTuple):
    """Different captions with words, and those of them that an encoder does not read whole."""

    num_captions: int
    unreadable: list[str]
    """Too many of their tokens are unknown."""
    cut: list[str]
    """They are longer than `text.max_tokens`."""
    longest: int
    """Tokens of the longest caption."""

    def lines(self, max_tokens: int) -> list[str]:
        """Say what is lost and what helps, a line for each kind, with a few examples; none if nothing is."""
        lines = []
        if self.unreadable:
            lines.append(
                f"{len(self.unreadable)} of {self.num_captions} captions cannot be read by the text encoder: "
                f"over {MAX_UNKNOWN_SHARE:.0%} of their words are unknown to it, or it spells them letter by "
                f"letter ({_named(self.unreadable)}); {_OTHER_ENCODER}"
            )
        if self.cut:
            lines.append(
                f"{len(self.cut)} of {self.num_captions} captions are cut ({_named(self.cut)}): the longest "
                f"has {self.longest} tokens, text.max_tokens is {max_tokens}; raise it, or shorten them"
            )
        return lines


def read_captions(encoder: TextEncoder, captions: Sequence[str]) -> list[Reading]:
    """Return what an encoder reads of each caption; no weights are needed.

    Args:
        encoder: of section `text`; one without words (`none`) reads nothing and loses nothing.
        captions: any, also empty ones.
    """
    with_words = [caption for caption in captions if caption.strip()]
    if isinstance(encoder, NoText) or not with_words:
        return [Reading(0, 0.0)] * len(captions)
    assert isinstance(encoder, TransformersText | MiniLMText)
    [alone, *rows], unknown = _tokens(
        encoder, [encoder.prefix, *(encoder.prefix + caption for caption in with_words)]
    )
    found = map(_reading, with_words, rows, repeat(alone), repeat(unknown))
    return [next(found) if caption.strip() else Reading(0, 0.0) for caption in captions]


def find_losses(captions: Sequence[str], readings: Sequence[Reading], max_tokens: int) -> CaptionLosses:
    """Return which of these different captions are not read whole.

    Args:
        captions: different ones.
        readings: of each.
        max_tokens: `text.max_tokens`.
    """
    pairs = sorted(zip(captions, readings, strict=True))
    return CaptionLosses(
        sum(bool(reading.num_tokens) for _, reading in pairs),
        [caption for caption, reading in pairs if reading.is_unreadable],
        [caption for caption, reading in pairs if reading.num_tokens > max_tokens],
        max((reading.num_tokens for _, reading in pairs), default=0),
    )


def warn_of_losses(losses: CaptionLosses, max_tokens: int) -> None:
    """Log a line for each kind of loss."""
    for line in losses.lines(max_tokens):
        _log.warning(line)


def prompt_note(encoder: TextEncoder, prompt: str) -> str:
    """Say in one line that an encoder cannot read a prompt; empty if it can.

    That a prompt is cut is said by the encoder itself.
    """
    if isinstance(encoder, NoText) and prompt.strip():
        return "the model was trained without words (text.encoder: none), so the prompt changes nothing"
    [reading] = read_captions(encoder, [prompt])
    if not reading.is_unreadable:
        return ""
    known = f"{1 - reading.unknown_share:.0%} of the prompt's words"
    what = "only the letters of the prompt's words" if reading.is_spelt else known
    return (
        f"the model's text encoder knows {what}, so they can hardly guide the clip; use the language of the "
        "training captions"
    )


def _reading(caption: str, ids: Sequence[int], alone: Sequence[int], unknown: int | None) -> Reading:
    """Of a caption, from its ids and those of the prefix alone."""
    own = len(ids) - len(alone)
    if own <= 0:
        return Reading(max(1, len(ids)), 1.0)
    num_unknown = 0 if unknown is None else ids.count(unknown) - alone.count(unknown)
    letters = sum(map(_is_of_alphabet, caption))
    is_spelt = letters > _FEW_LETTERS and own > _MAX_TOKENS_PER_LETTER * letters
    mostly = 2 * letters > len("".join(caption.split()))
    return Reading(len(ids), max(0, num_unknown) / own, is_spelt and mostly)


def _is_of_alphabet(letter: str) -> bool:
    return letter.isalpha() and not unicodedata.name(letter, "").startswith(_NO_ALPHABET)


def _tokens(encoder: TransformersText | MiniLMText, texts: list[str]) -> tuple[list[list[int]], int | None]:
    """Ids of each text, not cut; and the id of an unknown word, None where every word is spelt in bytes."""
    if isinstance(encoder, MiniLMText):
        rows = encoder.tokenizer.encode_batch(texts)
        return [row.ids for row in rows], encoder.tokenizer.token_to_id("[UNK]")
    ids = encoder.tokenizer(texts, truncation=False, verbose=False)["input_ids"]
    return ids, encoder.tokenizer.unk_token_id


def _named(captions: Sequence[str]) -> str:
    """A few of the captions in quotation marks, shortened."""
    shown = [
        caption if len(caption) <= _SHOWN_LETTERS else f"{caption[:_SHOWN_LETTERS]}..."
        for caption in (" ".join(caption.split()) for caption in captions[:_SHOWN])
    ]
    more = f" and {len(captions) - _SHOWN} more" if len(captions) > _SHOWN else ""
    quoted = [f'"{caption}"' if caption.isprintable() else ascii(caption) for caption in shown]
    return ", ".join(quoted) + more
