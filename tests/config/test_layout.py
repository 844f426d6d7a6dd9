"""The layout against dvc.yaml, which names the same paths for the stages."""

from pathlib import Path

import yaml

from videomar.config.layout import Layout

ROOT = Path(__file__).parents[2]
NAMES = [name for name in dir(Layout) if not name.startswith("_") and name != "root"]


def test_every_output_of_the_pipeline_is_in_the_layout() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text("utf-8"))["stages"].values()
    outs = [out for stage in stages for kind in ("outs", "metrics", "plots") for out in stage.get(kind, [])]
    paths = [out if isinstance(out, str) else next(iter(out)) for out in outs]
    known = {getattr(Layout(), name) for name in NAMES}
    beside = {path for path in paths if path.endswith(".made_with.json")}
    missing = [path for path in paths if path not in beside and not {Path(path), Path(path).parent} & known]
    assert not missing


def test_root_moves_every_path(tmp_path: Path) -> None:
    moved, here = Layout(tmp_path), Layout()
    assert all(getattr(moved, name) == tmp_path / getattr(here, name) for name in NAMES)
