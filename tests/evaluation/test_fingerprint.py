import dataclasses
import json

import pytest

from videomar.errors import DataError
from videomar.evaluation.fingerprint import (
    INFORMATIVE,
    Fingerprint,
    clips_sha256,
    differences,
    environment,
    incomparable_keys,
    recorded_fingerprint,
    why_incomparable,
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
    read = recorded_fingerprint(json.loads(json.dumps({"fingerprint": dataclasses.asdict(fingerprint)})))
    assert read == fingerprint
    assert read.comparable_sha256 == fingerprint.comparable_sha256


def test_every_key_either_matters_or_is_informative() -> None:
    names = {field.name for field in dataclasses.fields(Fingerprint)}
    assert set(OTHER) | set(INFORMATIVE) == names


@pytest.mark.parametrize("key", OTHER)
def test_unlike_fingerprints_are_refused_by_the_key_that_differs(fingerprint: Fingerprint, key: str) -> None:
    other = dataclasses.replace(fingerprint, **{key: OTHER[key]})
    lines = incomparable_keys(fingerprint, other)
    assert lines
    assert all(line.split()[0].split(".")[0] == key and " against " in line for line in lines)
    assert "\n" not in "".join(lines)
    assert other.comparable_sha256 != fingerprint.comparable_sha256


def test_all_differing_keys_are_named_at_once(fingerprint: Fingerprint) -> None:
    other = dataclasses.replace(fingerprint, seeds=(1,), libraries={**fingerprint.libraries, "torch": "1.0"})
    lines = " ".join(incomparable_keys(fingerprint, other))
    assert "seeds (0,) against (1,)" in lines
    assert "libraries.torch" in lines
    assert "libraries.numpy" not in lines
    assert set(differences(fingerprint, other)) == {"seeds", "libraries.torch"}


def test_weights_of_another_extractor_are_a_difference(fingerprint: Fingerprint) -> None:
    other = dataclasses.replace(fingerprint, weights={**fingerprint.weights, "I3D": "e" * 64})
    assert incomparable_keys(fingerprint, other) == ["weights.I3D none against eeeeeeeeeeee"]


def test_informative_keys_may_differ_and_are_shown(fingerprint: Fingerprint) -> None:
    other = dataclasses.replace(fingerprint, processor="another", threads=64)
    assert incomparable_keys(fingerprint, other) == []
    assert set(differences(fingerprint, other)) == {"processor", "threads"}
    assert other.comparable_sha256 == fingerprint.comparable_sha256
    assert differences(fingerprint, fingerprint) == {}


@pytest.mark.parametrize("recorded", ["no json", [], {}, {"code": "x", "colour": 1}])
def test_record_that_is_no_fingerprint_is_refused(recorded: object) -> None:
    with pytest.raises(DataError, match=r"fingerprint: got .*evaluate again"):
        recorded_fingerprint({"fingerprint": recorded})


def test_fingerprint_of_another_version_is_a_reason_not_to_compare() -> None:
    assert why_incomparable({"fingerprint": {"code": "a"}}, {}) == []
    (reason,) = why_incomparable({"fingerprint": {"code": "a"}}, {"fingerprint": {"code": "a"}})
    assert "expected the keys" in reason


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
