"""A stage whose output would come out the same leaves it as it is."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from stages.stage import Stage
from videomar.errors import DataError
from videomar.provenance import made_with
from videomar.provenance.made_with import content_sha256, record_of

ROOT = Path(__file__).parents[2]


class Work:
    """A stage `ingest` whose work is to copy text, and how often it was done."""

    def __init__(self, folder: Path) -> None:
        self.raw, self.out, self.metrics = folder / "raw", folder / "out.txt", folder / "metrics.json"
        self.params = folder / "params.yaml"
        self.raw.mkdir()
        (self.raw / "a.txt").write_text("a")
        self.params.write_text((ROOT / "params.yaml").read_text("utf-8"), "utf-8")
        self.done = 0

    def run(self, *, fail: bool = False) -> bool:
        """Run the stage; whether the work was done."""
        before = self.done
        paths = {"raw": self.raw, "out": self.out, "metrics": self.metrics, "params": self.params}
        arguments = [word for name, path in paths.items() for word in (f"--{name}", str(path))]
        with Stage("ingest", arguments, "raw", "out") as stage:
            if not stage.is_done({"raw": stage.path.raw}, ["ingest"]):
                if fail:
                    raise DataError("the work: got a failure, expected none")
                self.out.write_text((self.raw / "a.txt").read_text())
                self.done += 1
                stage.metrics = {"made": self.done}
        return self.done > before

    def set_param(self, key: str, value: str) -> None:
        """Change a value of params.yaml, the first of that name."""
        text = self.params.read_text("utf-8")
        self.params.write_text(re.sub(rf"(\n +{key}: ).*", rf"\g<1>{value}", text, count=1), "utf-8")


@pytest.fixture
def work(tmp_path: Path) -> Work:
    made = Work(tmp_path)
    assert made.run()
    return made


def test_output_that_would_come_out_the_same_stays_with_its_metrics(
    work: Work, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = work.metrics.read_bytes()
    assert not work.run()
    assert "ingest: nothing that its output depends on has changed" in capsys.readouterr().out
    assert work.metrics.read_bytes() == metrics


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda work: (work.raw / "a.txt").write_text("b"), "inputs.raw: "),
        (lambda work: (work.raw / "a.txt").rename(work.raw / "b.txt"), None),
        (lambda work: (work.raw / "b.txt").touch(), "inputs.raw: "),
        (lambda work: work.set_param("size_px", "48"), "params.ingest.size_px: 32 -> 48"),
        (lambda work: work.out.write_text("spoilt"), "its output is not the recorded one"),
        (lambda work: work.out.unlink(), "its output is not the recorded one"),
        (lambda work: work.metrics.unlink(), "its output is not the recorded one"),
        (lambda work: record_of(work.out).unlink(), ""),
        (lambda work: record_of(work.out).write_text("{"), ""),
        (lambda work: record_of(work.out).write_text("{}"), "code: None -> "),
    ],
)
def test_whatever_differs_is_named_and_the_work_done_again(
    work: Work, change: Callable[[Work], object], said: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    change(work)
    if said is None:  # the work itself cannot be done
        with pytest.raises(SystemExit):
            work.run()
        return
    assert work.run()
    out = capsys.readouterr().out
    assert (f"ingest: made again: {said}" if said else "") in out
    assert not work.run()


def test_other_code_makes_again(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made_with, "code_hash", lambda _: "another")
    assert work.run()


@pytest.mark.parametrize("key", ["num_workers", "timeout_s", "memory_gb"])
def test_resources_are_recorded_and_make_nothing_again(work: Work, key: str) -> None:
    work.set_param(key, "3.0" if key != "num_workers" else "3")
    assert not work.run()
    assert key in json.loads(record_of(work.out).read_text())["beside"]["resources"]["ingest"]


def test_other_packages_make_nothing_again_and_are_told(
    work: Work, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(made_with, "package_versions", lambda: {"torch": "0.1"})
    assert not work.run()
    assert "ingest: was made with another packages.torch: " in capsys.readouterr().out


def test_stage_that_fails_leaves_the_record_of_what_is_there(work: Work) -> None:
    before = record_of(work.out).read_bytes()
    (work.raw / "a.txt").write_text("b")
    with pytest.raises(SystemExit):
        work.run(fail=True)
    assert record_of(work.out).read_bytes() == before
    (work.raw / "a.txt").write_text("a")
    assert not work.run()


def test_hash_of_a_folder_tells_names_from_contents(tmp_path: Path) -> None:
    hashes = []
    for name, text in (("a", "1"), ("b", "1"), ("a", "2")):
        folder = tmp_path / f"{name}{text}"
        folder.mkdir()
        (folder / name).write_text(text)
        hashes.append(content_sha256(folder))
    assert len(set(hashes)) == 3


def test_captions_of_any_name_count_and_notes_of_a_run_do_not(tmp_path: Path) -> None:
    """`run.json` beside `run.mp4` holds captions; in the folder of a training run, what MLflow received."""
    for name, files in (("clips", ["run.mp4"]), ("run", ["made_with.json", "log.csv"])):
        (tmp_path / name / "outbox").mkdir(parents=True)
        for file in files:
            (tmp_path / name / file).touch()
    before = {name: content_sha256(tmp_path / name) for name in ("clips", "run")}
    for name in before:
        (tmp_path / name / "run.json").write_text("{}")
        (tmp_path / name / "outbox" / "a.mp4").touch()
    assert content_sha256(tmp_path / "clips") != before["clips"]
    assert content_sha256(tmp_path / "run") == before["run"]


def test_entries_that_are_no_files_neither_end_nor_hold_the_comparison(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "lost.mp4").symlink_to("nowhere.mp4")
    (tmp_path / "round").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / os.fsdecode(b"odd\xe9.mp4")).touch()
    first = content_sha256(tmp_path)
    (tmp_path / "lost.mp4").unlink()
    assert content_sha256(tmp_path) != first


def test_record_says_what_the_output_was_made_on_and_does_not_compare_it(
    work: Work, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = record_of(work.out)
    assert made_with.device_of(record) == "cpu"
    content = json.loads(record.read_text())
    content["beside"]["device"] = "a GPU"
    record.write_text(json.dumps(content))
    assert made_with.device_of(record) == "a GPU"
    capsys.readouterr()
    assert not work.run()
    assert "was made with another device: a GPU -> cpu" in capsys.readouterr().out


def test_device_that_does_not_exist_ends_the_stage_in_one_line(
    work: Work, capsys: pytest.CaptureFixture[str]
) -> None:
    text = work.params.read_text("utf-8")
    changed = re.sub(r"(  suite:\n    threads: 1\n    device: )auto", r"\g<1>cuda", text)
    work.params.write_text(changed, "utf-8")
    arguments = ["--out", str(work.out), "--metrics", str(work.metrics), "--params", str(work.params)]
    with pytest.raises(SystemExit), Stage("evaluate", arguments, "out") as stage:
        stage.is_done({}, ["suite"], device="suite")
    said = capsys.readouterr().err
    assert said.startswith("evaluate: resources.suite.device: got cuda, expected a GPU that PyTorch can use")
    assert said.count("\n") == 1


def test_full_memory_of_a_gpu_is_one_line(work: Work, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--out", str(work.out), "--metrics", str(work.metrics), "--params", str(work.params)]
    with pytest.raises(SystemExit), Stage("sample", arguments, "out"):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nGPU 0 has ...")
    said = capsys.readouterr().err
    assert said.startswith(
        "sample: got a GPU whose memory is full, expected room for a batch; lower the batch"
    )
    assert said.count("\n") == 1
