import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from benchmarks import overhead
from benchmarks.overhead_table import Row, estimated, rows_of, share_of, table_of
from videomar.provenance.run_times import RELEASE, RUN, STEPS, Span

ROOT = Path(__file__).parents[2]
SPANS = (
    Span(RUN, 0, 1, 100),
    Span("ingest", 2, 4, 10),
    Span("encode", 11, 13, 33),
    Span("train", 35, 38, 98),
    Span(RELEASE, 101, 102, 121),
    Span("ingest", 112, 113, 118),  # again, by the release
    Span(STEPS, 101, 110, 120),
)


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    (tmp_path / ".local").mkdir()
    lines = [json.dumps(span._asdict()) for span in SPANS]
    (tmp_path / ".local/run_times.jsonl").write_text("\n".join(lines))
    store = sqlite3.connect(tmp_path / ".local/mlflow.db")
    store.execute("create table runs (start_time bigint, end_time bigint)")
    store.execute("insert into runs values (48000, 96000), (110000, 111000)")
    store.commit()
    store.close()
    return tmp_path


def test_every_second_of_a_run_is_in_one_row_and_only_the_stages_work_is_no_overhead(finished: Path) -> None:
    rows = {row.part: (row.total_s, row.overhead_s) for row in rows_of(finished, ray_s=6)}
    assert rows == {
        "ingest": (8, 2),
        "encode": (22, 2 + 6),
        "train": (63, 63 - 48),
        "DVC and its schedule": (100 - 8 - 22 - 63, 7),
        "release": (20, 10),
    }
    assert share_of(rows_of(finished, ray_s=6)) == pytest.approx(42 / 120)
    assert share_of([]) is None


def test_run_that_noted_no_times_is_estimated(finished: Path) -> None:
    (finished / ".local/run_times.jsonl").unlink()
    assert rows_of(finished, ray_s=6) == []
    (finished / "metrics").mkdir()
    for name, seconds in (("ingest", 60), ("train", 40)):
        (finished / f"metrics/{name}.json").write_text(json.dumps({"seconds": seconds}))
    figures = {
        "import_ingest_s": 1.0,
        "ray_start_s": 2.0,
        "ray_stop_s": 0.5,
        "prefect_s": 1.0,
        "import_ingest_cpu_s": 1.0,
    }
    assert estimated(finished, figures) == {}
    found = estimated(finished, figures | {"dvc_repro_s": 3.0, "make_run_s": 3.5})
    assert found == {"stages_s": 100, "estimated_overhead_s": 8.0, "estimated_overhead_share": 0.0758}


def test_table_has_a_line_for_each_part_and_the_whole() -> None:
    lines = table_of([Row("ingest", 30, 3, "imports"), Row("release", 10, 5)], 200.0).splitlines()
    assert len(lines) == 2 + 4
    assert lines[-1].startswith("| whole run | 40.0 | 100.0% | 8.0 |")


def test_result_has_the_ratio_of_each_bound(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With parts that only sleep, on a checkout whose run is noted."""
    shutil.copy(ROOT / "dvc.yaml", finished)
    parts = overhead.parts_of(finished, with_dvc=True)
    assert {"import_train", "ray", "prefect", "code_hashes", "make_run"} <= parts.keys()
    naps = {"dvc_status": 0.1, "dvc_repro": 0.15}
    tiny = {
        name: overhead.Part(
            ["-c", f"import time; time.sleep({naps.get(name, 0)}); print(*[1.5] * {len(part.printed)})"],
            part.printed,
        )
        for name, part in parts.items()
        if not name.startswith("import_")
    }
    monkeypatch.setattr(overhead, "parts_of", lambda *_, **__: tiny)
    overhead.main(["--data", str(finished), "--rounds", "1", "--out", str(tmp_path / "results")])
    result = json.loads((tmp_path / "results/overhead.json").read_text())
    assert result["ratios"].keys() == {
        "help_within_half_second",
        "noop_vs_dvc_status",
        "overhead_share",
    }
    assert result["ratios"]["help_within_half_second"] > 1
    assert result["figures"]["ray_start_s"] == 1.5
    assert result["figures"]["run_train_overhead_s"] == 15
    assert result["ratios"]["overhead_share"] == pytest.approx(result["figures"]["overhead_share"], abs=1e-3)
    assert result["ratios"]["noop_vs_dvc_status"] > 1
