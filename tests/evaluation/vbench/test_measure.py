"""The runner of the public package, against a stand-in with its signatures, layouts and habits.

The interpreter finds it through PYTHONPATH: the interface of a foreign process is what is tested.
"""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.drawn_clips import moving_disc, noisy
from videomar.errors import DataError
from videomar.evaluation.fingerprint import Fingerprint, incomparable_keys, recorded_fingerprint
from videomar.evaluation.vbench.dimensions import DIMENSIONS, aggregate
from videomar.evaluation.vbench.measure import OtherEnvironment, main, measure
from videomar.evaluation.vbench.package_files import WEIGHTS
from videomar.sampling.sample import SCHEMA

VALUES = {dimension.key: 0.75 + number / 100 for number, dimension in enumerate(DIMENSIONS)}
SEEDS, SIZE_PX, FRAMES = (3, 4), 16, 5
NO_LIMIT_S = 120.0

TORCH = """
class device:
    def __init__(self, name):
        self.type = name
"""
DREAMSIM = """
import os

def dreamsim(pretrained=True, device="cuda", cache_dir="./models", normalize_embeds=True,
             dreamsim_type="ensemble", use_patch_model=False):
    if device == "cuda":
        raise AssertionError("Torch not compiled with CUDA enabled")
    if not os.path.exists(os.path.join(cache_dir, "dino_vitb16_pretrain.pth")):
        raise FileNotFoundError("would be downloaded to " + cache_dir)
    return "model", "preprocess"
"""
VBENCH = """
import json, os
import torch

class VBench(object):
    def __init__(self, device, full_info_dir, output_path):
        assert isinstance(device, torch.device), "motion_smoothness resizes clips if it is a string"
        self.device, self.full_info_dir, self.output_path = device, full_info_dir, output_path
        os.makedirs(self.output_path, exist_ok=True)

    def build_full_info_json(self, videos_path, name, dimension_list, prompt_list=[], special_str="",
                             verbose=False, mode="vbench_standard", **kwargs):
        entries, names = [], os.listdir(videos_path)
        for entry in json.load(open(self.full_info_dir)):
            if set(dimension_list) & set(entry["dimension"]):
                wanted = [f"{entry['prompt_en']}{special_str}-{i}.mp4" for i in range(5)]
                entry["video_list"] = [os.path.join(videos_path, w) for w in wanted if w in names]
                entries.append(entry)
        path = os.path.join(self.output_path, name + "_full_info.json")
        json.dump(entries, open(path, "w"))
        return path
"""
VBENCH_I2V = """
import json, os, time, urllib.request
from vbench import VBench

HERE = os.path.dirname(os.path.abspath(__file__))
CAMERA = ("camera pans left", "camera zooms in")

class VBenchI2V(VBench):
    def evaluate(self, videos_path, name, dimension_list=None, local=False, read_frame=False,
                 custom_prompt=False, resolution="1-1", **kwargs):
        print("a line of the package")
        path = self.build_full_info_json(videos_path, name, dimension_list, custom_prompt=custom_prompt)
        results = {key: compute(key, path, resolution, local) for key in dimension_list}
        with open(os.path.join(self.output_path, name + "_eval_results.json"), "w") as file:
            json.dump(results, file, indent=4)

def compute(key, path, resolution, local):
    habits = json.load(open(os.path.join(HERE, "habits.json")))
    habit, value = habits["habits"].get(key), habits["values"][key]
    if habit == "raises":
        raise RuntimeError("Given input size: (1x1x1).\\n  Output size is too small")
    if habit == "hangs":
        time.sleep(600)
    if habit == "ends":
        os._exit(7)
    if habit == "downloads":
        urllib.request.urlopen(habits["url"], timeout=30)
    if key in ("background_consistency", "aesthetic_quality"):
        assert local, "CLIP would be downloaded"
    if key == "i2v_background":
        from dreamsim import dreamsim
        dreamsim(pretrained=True)
    videos = []
    for entry in json.load(open(path)):
        if key in entry["dimension"]:
            picture = os.path.join(f"vbench2_beta_i2v/data/crop/{resolution}", entry["image_name"])
            assert open(picture, "rb").read(4) == b"\\x89PNG"
            for video in entry["video_list"]:
                assert b"ftyp" in open(video, "rb").read(12)
                if key == "camera_motion":
                    assert any(words in os.path.basename(video) for words in CAMERA), "Not a recognized name"
                videos.append({"video_path": video, "video_results": value})
    if habit == "loses one":
        videos = videos[1:]
    if habit == "no number":
        value = float("nan")
    table = ({"pan_left": value, "static": float("nan")},) if key == "camera_motion" else ()
    return (value, *table, videos)
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The stand-in, where the interpreter finds it."""
    folder = tmp_path_factory.mktemp("package")
    modules = {"torch": TORCH, "dreamsim": DREAMSIM, "vbench": VBENCH, "vbench2_beta_i2v": VBENCH_I2V}
    for name, source in modules.items():
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(source)
    (folder / "vbench-0.1.5.dist-info").mkdir()
    (folder / "vbench-0.1.5.dist-info/METADATA").write_text(
        "Metadata-Version: 2.1\nName: vbench\nVersion: 0.1.5\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        behave(folder)
        yield folder


def behave(package: Path, habits: dict[str, str] | None = None, url: str = "") -> None:
    told = {"habits": habits or {}, "values": VALUES, "url": url}
    (package / "vbench2_beta_i2v/habits.json").write_text(json.dumps(told))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    for name in {name for names in WEIGHTS.values() for name in names}:
        path = folder / name
        if path.suffix:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
        else:
            path.mkdir(parents=True)
            (path / "hubconf.py").write_text(name)
    return folder


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "generated.parquet"
    return write_generated(path, ("a disc", "A disc. Camera pans left."))


def write_generated(
    path: Path, prompts: tuple[str, ...], kinds: tuple[str, ...] = ("image", "image_seed1")
) -> Path:
    rows = []
    for number, prompt in enumerate(prompts):
        truth = moving_disc(FRAMES, SIZE_PX, 1 + number)
        made = {kind: noisy(truth, 3.0, seed) for seed, kind in enumerate(kinds)}
        for kind, frames in {"truth": truth, "image_wrong_prompt": truth, **made}.items():
            row = {"clip_id": f"clip{number}", "group": "simulated", "kind": kind, "caption": prompt}
            row |= {"prompt": prompt, "context_frames": 0 if kind == "truth" else 1, "fps": 8.0}
            rows.append(row | {"shape": list(frames.shape), "frames": frames.tobytes()})
    facts = {"suite": json.dumps({"split": "test", "seeds": SEEDS})}
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata(facts)), path)
    return path


def environment(weights: Path, **others: Any) -> OtherEnvironment:
    given = {"python": Path(sys.executable), "device": "cpu", "limit_s": NO_LIMIT_S, **others}
    return OtherEnvironment(weights=weights, **given)


def fingerprint_of(found: dict[str, Any]) -> Fingerprint:
    fingerprint = recorded_fingerprint(found)
    assert fingerprint is not None
    return fingerprint


@pytest.fixture(scope="module")
def whole(package: Path, weights: Path, generated: Path) -> dict[str, Any]:
    """All that is found where nothing is missing."""
    behave(package)
    return measure(generated, environment(weights))


def test_every_dimension_is_measured_and_the_scores_are_the_benchmarks(whole: dict[str, Any]) -> None:
    assert whole["skipped"] == {}
    assert whole["dimensions"] == pytest.approx(VALUES)
    scores = aggregate(VALUES)
    assert whole["scores"]["total"]["value"] == pytest.approx(scores.total.value)
    assert [whole["scores"][part]["partial"] for part in ("quality", "i2v", "total")] == [False] * 3


def test_all_seeds_are_judged_and_camera_motion_only_where_a_prompt_names_one(whole: dict[str, Any]) -> None:
    assert whole["videos"] == {key: 2 if key == "camera_motion" else 4 for key in VALUES}


def test_fingerprint_is_that_of_the_other_environment(
    whole: dict[str, Any], package: Path, weights: Path, generated: Path
) -> None:
    found = fingerprint_of(whole)
    assert found.libraries["vbench"] == "0.1.5"
    assert found.libraries["python"] == sys.version.split()[0]
    assert set(found.weights) == {name for names in WEIGHTS.values() for name in names}
    assert (found.seeds, found.split, found.num_clips) == (SEEDS, "test", 2)
    assert (found.num_frames, found.size_px, found.context_frames) == (FRAMES, (SIZE_PX, SIZE_PX), (1,))


def test_one_that_fails_costs_one_and_is_named(
    whole: dict[str, Any], package: Path, weights: Path, generated: Path
) -> None:
    habits = {"dynamic_degree": "raises", "i2v_subject": "ends", "motion_smoothness": "no number"}
    habits |= {"subject_consistency": "loses one", "imaging_quality": "downloads"}
    asked: list[str] = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)

    server = HTTPServer(("127.0.0.1", 0), Server)
    Thread(target=server.serve_forever, daemon=True).start()
    behave(package, habits, f"http://127.0.0.1:{server.server_port}/weights.pth")
    moved = weights / "clip_model/ViT-L-14.pt"
    moved.rename(moved.with_suffix(".away"))
    try:
        found = measure(generated, environment(weights))
    finally:
        moved.with_suffix(".away").rename(moved)
        behave(package)
        server.shutdown()
    assert asked == []
    reasons = found["skipped"]
    assert set(reasons) == {*habits, "aesthetic_quality"}
    assert "RuntimeError: Given input size: (1x1x1). Output size is too small" in reasons["dynamic_degree"]
    assert "got code 7 (a line of the package)" in reasons["i2v_subject"]
    assert "got nan, expected 0 to 1" in reasons["motion_smoothness"]
    assert "got values of 3 videos, expected 4" in reasons["subject_consistency"]
    assert "URLError" in reasons["imaging_quality"]
    assert "got no clip_model/ViT-L-14.pt in --weights" in reasons["aesthetic_quality"]
    assert all(reason.startswith(f"{key}: ") and "\n" not in reason for key, reason in reasons.items())
    kept = {key: value for key, value in VALUES.items() if key not in reasons}
    assert found["dimensions"] == pytest.approx(kept)
    for part, score in found["scores"].items():
        assert score["partial"]
        assert score["low"] < whole["scores"][part]["value"] < score["high"]
        assert "partial, between" in score["text"]
    keys = " ".join(incomparable_keys(fingerprint_of(whole), fingerprint_of(found)))
    assert re.search("clip_model/ViT-L-14.pt .* against none", keys)


def test_one_that_hangs_is_ended_at_the_limit(package: Path, weights: Path, tmp_path: Path) -> None:
    behave(package, {"imaging_quality": "hangs"})
    (tmp_path / "full_info.json").write_text("[]")
    (tmp_path / "videos").mkdir()
    job = {"dimension": "imaging_quality", "local": False, "resolution": "1-1", "hub": ""}
    places = {"full_info": "full_info.json", "videos": "videos", "results": "results"}
    start = time.monotonic()
    with pytest.raises(DataError, match="took over 2 s, expected less; raise --limit-s"):
        environment(weights, limit_s=2.0).run(tmp_path, **job, **places)
    assert time.monotonic() - start < 60
    behave(package)
    processes = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path) not in processes


def test_missing_package_skips_all_and_is_no_low_score(
    weights: Path, generated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    found = measure(generated, environment(weights))
    assert set(found["skipped"]) == set(VALUES)
    assert "No module named 'vbench'" in found["skipped"]["i2v_subject"]
    assert found["fingerprint"] is None
    assert [score["value"] for score in found["scores"].values()] == [None] * 3
    assert all(score["partial"] for score in found["scores"].values())


def test_prompts_without_a_camera_leave_camera_motion_out(
    package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generated = write_generated(tmp_path / "generated.parquet", ("a disc",), ("image",))
    (tmp_path / "none").mkdir()
    main(["--python", sys.executable, "--weights", str(tmp_path / "none"), "--generated", str(generated)])
    found = json.loads((tmp_path / "vbench.json").read_text())
    assert "camera_motion: got no prompt that names a motion" in found["skipped"]["camera_motion"]
    assert len(found["skipped"]) == len(VALUES)
    said = capsys.readouterr().out
    assert "total: partial, between" in said
    assert all(reason in said for reason in found["skipped"].values())


def test_mistakes_of_the_command_line_are_one_line(tmp_path: Path, weights: Path) -> None:
    given = ["--weights", str(weights), "--generated", str(tmp_path / "none.parquet"), "--python"]
    with pytest.raises(SystemExit, match="--python: got .*/away, expected an interpreter"):
        main([*given, str(tmp_path / "away")])
    with pytest.raises(SystemExit, match="none.parquet: no such file, expected generated clips"):
        main([*given, sys.executable])
    with pytest.raises(SystemExit, match="--weights: got .*away, expected a folder"):
        main(["--python", sys.executable, "--weights", str(tmp_path / "away")])
    other = write_generated(tmp_path / "other.parquet", ("a disc",), ())
    with pytest.raises(DataError, match="got no clip of kind image, expected some"):
        measure(other, environment(weights))
