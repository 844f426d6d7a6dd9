"""Where the time of a run went, as its processes noted it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from videomar.provenance.run_times import RELEASE, RUN, Span, note, noted, read_run_times

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".local").mkdir()
    return tmp_path


def write(folder: Path, *spans: Span) -> None:
    lines = [json.dumps(span._asdict()) for span in spans]
    (folder / ".local/run_times.jsonl").write_text("\n".join([*lines, '{"name": "cut', ""]))


def test_run_of_the_most_stages_is_read_with_the_release_after_it(checkout: Path) -> None:
    first = [Span("list_clips", 10, 11, 12), Span("train", 12, 15, 90), Span(RUN, 9, 10, 91)]
    after = [Span(RELEASE, 92, 93, 99)]
    later = [Span("train", 201, 202, 398), Span(RUN, 199, 200, 400), Span(RELEASE, 401, 402, 405)]
    shorter = [Span("list_clips", 500, 500, 501), Span("train", 502, 503, 504), Span(RUN, 499, 499, 505)]
    write(checkout, *first, *after, *later, *shorter)
    assert [span.name for span in read_run_times(checkout)] == [RUN, "list_clips", "train", RELEASE]
    assert read_run_times(checkout)[2].end == 90


def test_folder_without_noted_times_has_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    note("ingest", time.time())
    assert list(tmp_path.iterdir()) == []
    assert read_run_times(tmp_path) == []


def test_work_that_fails_is_not_noted(checkout: Path) -> None:
    with pytest.raises(ValueError, match="no"), noted(RUN):
        raise ValueError("no")
    assert read_run_times(checkout) == []


def test_start_of_the_process_comes_before_its_imports(checkout: Path) -> None:
    code = (
        "import time; time.sleep(0.5)\n"
        "from videomar.provenance.run_times import RUN, note\n"
        "note(RUN, time.time())"
    )
    before = time.time()
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
    (span,) = read_run_times(checkout)
    assert before - 0.1 < span.process < span.begin - 0.4
    assert span.begin <= span.end <= time.time()
