"""The comparison of short benchmarks with the record; the benchmarks themselves have tests of their own."""

import json
from pathlib import Path

import pytest

from benchmarks import regression
from benchmarks.regression import CHECKS, Check, compare, main

QUICK = Check("-m benchmarks.overhead", "overhead", {"help_within_half_second": 0.2})


@pytest.mark.parametrize(
    ("found", "word"), [(1.0, "same"), (0.81, "same"), (0.79, "REGRESSION"), (1.3, "better")]
)
def test_ratio_beyond_its_noise_is_named(monkeypatch: pytest.MonkeyPatch, found: float, word: str) -> None:
    monkeypatch.setattr(regression, "CHECKS", {"quick": QUICK})
    (verdict,) = compare({"quick.help_within_half_second": found}, {"quick.help_within_half_second": 1.0})
    assert str(verdict).endswith(word)
    assert verdict.is_regression == (word == "REGRESSION")


def test_ratio_without_a_record_is_no_regression(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regression, "CHECKS", {"quick": QUICK})
    (verdict,) = compare({"quick.help_within_half_second": 0.1}, {})
    assert not verdict.is_regression
    assert str(verdict).endswith("not on record")


def test_recorded_file_is_compared_and_a_regression_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = (
        "import pathlib, sys; pathlib.Path(sys.argv[-1], 'made.json').write_text('{\"ratios\": {\"a\": 2}}')"
    )
    program = tmp_path / "made.py"
    program.write_text(code)
    monkeypatch.setattr(regression, "CHECKS", {"made": Check(str(program), "made", {"a": 0.1})})
    monkeypatch.setattr(regression, "RECORD", tmp_path / "regression.json")
    monkeypatch.setattr(regression, "RESULTS", tmp_path)
    main(["--record", "--only", "made"])
    assert json.loads((tmp_path / "regression.json").read_text())["ratios"] == {"made.a": 2}
    main(["--only", "made"])
    assert "same" in capsys.readouterr().out
    program.write_text(code.replace(": 2", ": 1"))
    with pytest.raises(SystemExit, match=r"^bench: a ratio fell by more than its noise"):
        main(["--only", "made"])


def test_every_ratio_that_is_compared_is_on_record() -> None:
    names = {f"{name}.{ratio}" for name, check in CHECKS.items() for ratio in check.noise}
    assert set(regression.recorded(regression.RECORD)) == names
