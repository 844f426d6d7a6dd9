"""Which results a dvc.lock stands for."""

from pathlib import Path

import yaml

from videomar.files import sha256_of
from videomar.provenance.checkout import results_sha256


def test_results_are_known_by_the_outputs_that_matter(tmp_path: Path) -> None:
    outs = {
        "data/raw": "1",
        "data/ledger.parquet": "2",
        "checkpoints/videomar": "3",
        "checkpoints/videomar.made_with.json": "4",
        "metrics/train.json": "5",
        "data/named": "6",
    }
    lock = tmp_path / "dvc.lock"

    def hashed(changed: str = "") -> str:
        entries = [{"path": path, "md5": "0" if path == changed else md5} for path, md5 in outs.items()]
        stages = {"all": {"cmd": "run", "deps": [{"path": "code.py", "md5": changed}], "outs": entries}}
        lock.write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))
        return results_sha256(lock)

    moved = {path for path in outs if hashed(path) != hashed()}
    assert moved == {"data/ledger.parquet", "checkpoints/videomar"}
    lock.write_text("no lock of DVC")
    assert results_sha256(lock) == sha256_of(lock)
