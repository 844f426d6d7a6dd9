import dataclasses

import pytest

from videomar.errors import DataError
from videomar.evaluation.fingerprint import (
    INFORMATIVE,
    Fingerprint,
    clips_sha256,
    compare,
    differences,
    environment,
    from_json,
)

OTHER = {
    "weights": {"EffNet-Lite0": "b" * 64},
    "clips": "c" * 64,
    "split": "train",
    "num_clips": 9,
    "num_frames": 33,
    "context_frames": (1,),
    "size_px": (64, 64),
    "fps": 12.0,
    "seeds": (0, 1),
    "device": "NVIDIA H100",
    "libraries": {"torch": "1.0"},
    "code": "d" * 64,
}


@pytest.fixture
def fingerprint() -> Fingerprint:
    return Fingerprint(
        weights={"EffNet-Lite0": "a" * 64},
        clips=clips_sha256([("id", "a red disc", b"pixels")]),
        split="test",
        num_clips=8,
        num_frames=17,
        context_frames=(5, 1),
        size_px=(32, 32),
        fps=8.0,
        seeds=(0,),
        **environment("cpu"),
    )


def test_fingerprint_survives_its_json(fingerprint: Fingerprint) -> None:
    assert from_json(fingerprint.to_json()) == fingerprint
    assert from_json(fingerprint.to_json()).comparable_sha256 == fingerprint.comparable_sha256


def test_every_key_either_matters_or_is_informative() -> None:
    names = {field.name for field in dataclasses.fields(Fingerprint)}
    assert set(OTHER) | set(INFORMATIVE) == names


@pytest.mark.parametrize("key", OTHER)
def test_unlike_fingerprints_are_refused_by_the_key_that_differs(fingerprint: Fingerprint, key: str) -> None:
    other = dataclasses.replace(fingerprint, **{key: OTHER[key]})
    with pytest.raises(DataError, match=rf"comparison: got {key}.* against .*expected equal") as caught:
        compare(fingerprint, other)
    assert "\n" not in str(caught.value)
    assert other.comparable_sha256 != fingerprint.comparable_sha256


def test_all_differing_keys_are_named_at_once(fingerprint: Fingerprint) -> None:
    other = dataclasses.replace(fingerprint, seeds=(1,), libraries={**fingerprint.libraries, "torch": "1.0"})
    with pytest.raises(DataError) as caught:
        compare(fingerprint, other)
    assert "seeds (0,) against (1,)" in str(caught.value)
    assert "libraries.torch" in str(caught.value)
    assert "libraries.numpy" not in str(caught.value)
    assert set(differences(fingerprint, other)) == {"seeds", "libraries.torch"}


def test_weights_of_another_extractor_are_a_difference(fingerprint: Fingerprint) -> None:
    other = dataclasses.replace(fingerprint, weights={**fingerprint.weights, "I3D": "e" * 64})
    with pytest.raises(DataError, match="weights.I3D none against eeeeeeeeeeee"):
        compare(fingerprint, other)


def test_informative_keys_may_differ_and_are_told(fingerprint: Fingerprint) -> None:
    other = dataclasses.replace(fingerprint, processor="another", threads=64)
    assert set(compare(fingerprint, other)) == {"processor", "threads"}
    assert other.comparable_sha256 == fingerprint.comparable_sha256
    assert compare(fingerprint, fingerprint) == {}


@pytest.mark.parametrize("text", ["no json", "[]", "{}", '{"code": "x", "colour": 1}'])
def test_text_that_is_no_fingerprint_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="fingerprint: got .*evaluate again"):
        from_json(text)


def test_clips_hash_depends_on_ids_prompts_pixels_and_order() -> None:
    rows = [("a", "red", b"1"), ("b", "blue", b"2")]
    others = [
        rows[::-1],
        rows[:1],
        [("a", "red", b"1"), ("b", "blue", b"3")],
        [("a", "redb", b"1"), ("", "blue", b"2")],
    ]
    hashes = {clips_sha256(other) for other in [rows, *others]}
    assert len(hashes) == 5
