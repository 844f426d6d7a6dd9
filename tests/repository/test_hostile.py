"""The whole pipeline where everything around it is unlike a developer's machine: names, folders, environment.

Also without what only Linux has: `fcntl`, `resource`, `os.getsid`, the proportional set size.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import av
import pandas
import pytest
from PIL import Image

from tests.repository.test_pipeline import SMALL
from videomar.cli.project import write_project
from videomar.config import SamplesParams
from videomar.config.edit import update_params
from videomar.media.mp4 import find_ffmpeg
from videomar.sources.simulate import draw_simulated

ROOT = Path(__file__).parents[2]
CLIPS = "my 'clips' \"$(touch x)\";`touch x` [a]*? 100% ${HOME} & é日本 #1"
NAMES = [
    "a b.mp4",
    "$(touch x);.mp4",
    "[x]*?.mp4",
    "-v.mp4",
    "日本語.mp4",
    "n\nl.mp4",
    "100%.mp4",
    "q'\".mp4",
    "#1.mp4",
]
LINUX_ALONE = """
import builtins, os
real = builtins.__import__
def without(name, globals=None, *rest, **more):
    room = (globals or {}).get("__name__", "").partition(".")[0]
    if name in ("fcntl", "resource") and room in ("videomar", "stages", "flows"):
        raise ImportError(f"No module named {name!r}")
    return real(name, globals, *rest, **more)
builtins.__import__ = without
del os.getsid
import psutil
def denied(self):
    raise psutil.AccessDenied(self.pid)
psutil.Process.memory_full_info = denied
"""
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline outside of any clone, in an odd folder, with an environment of its own."""
    folder = (
        tmp_path_factory.mktemp("hostile") / "my (pipelines) [1] – 日本語" / ("long " * 20).strip() / "-dash"
    )
    write_project(folder)
    changes = {section: values for section, values in SMALL.items() if section != "samples"}
    small = {**changes, "train": {**changes["train"], "num_workers": 1}, "ingest": {"num_workers": 1}}
    update_params(folder / "params.yaml", small)
    (folder / ".venv").unlink()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / ".venv"], check=True)
    site = next(folder.glob(".venv/lib/python*/site-packages"))
    (site / "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n{ROOT}\n")
    (site / "sitecustomize.py").write_text(LINUX_ALONE)
    (folder / "x.py").touch()
    own = folder.parent / CLIPS
    own.mkdir()
    drawing = SamplesParams(
        source="",
        simulated_videos=len(NAMES),
        clips_per_video=3,
        simulated_size_px=64,
        film_seconds=0.0,
        ffmpeg="packaged",
        seed=0,
    )
    draw_simulated(folder.parent / "drawn", drawing, find_ffmpeg())
    for number, name in enumerate(NAMES):
        (folder.parent / f"drawn/simulated/sim_{number:04d}.mp4").rename(own / name)
    os.mkfifo(own / "pipe.mp4")
    (own / "nowhere.mp4").symlink_to("gone")
    return folder


@pytest.fixture(scope="module")
def environment(project: Path) -> dict[str, str]:
    """Proxies that lead nowhere, another project's Python, an old locale, long and odd folders."""
    poison = project.parent / "poison"
    for name in ("tqdm", "numpy", "torch"):
        (poison / name).mkdir(parents=True)
        (poison / name / "__init__.py").write_text("raise ImportError('of another project')")
    temporary = project.parent / "tmp ' 日本" / ("t" * 150)
    temporary.mkdir(parents=True)
    foreign = project.parent / "foreign"
    (foreign / "bin").mkdir(parents=True)
    for name in ("python", "python3", "dvc"):
        (foreign / "bin" / name).write_text("#!/bin/sh\necho of another project >&2\nexit 9\n")
        (foreign / "bin" / name).chmod(0o755)
    nowhere = "http://127.0.0.1:9"
    proxies = {
        name: nowhere for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    }
    other = ("proxy", "make", "videomar", "mflags")
    kept = {
        name: value for name, value in os.environ.items() if not any(part in name.lower() for part in other)
    }
    return (
        kept
        | proxies
        | {
            "PATH": f"{foreign}/bin:{os.environ['PATH']}",
            "VIRTUAL_ENV": str(foreign),
            "PYTHONPATH": str(poison),
            "PYTHONSAFEPATH": "1",
            "TMPDIR": str(temporary),
            "HOME": str(project.parent / "no such home"),
            "LC_ALL": "POSIX",
            "LANG": "de_DE.ISO-8859-1",
            "GIT_CONFIG_NOSYSTEM": "1",
            "OMP_NUM_THREADS": "1",
        }
    )


def run(folder: Path, environment: dict[str, str], *command: object) -> subprocess.CompletedProcess[str]:
    words = ["sh", "-c", 'umask 077; exec "$@"', "sh", *map(str, command)]
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)


def test_pipeline_runs_to_its_end(project: Path, environment: dict[str, str]) -> None:
    done = run(project, environment, "make", "run", f"CLIPS={project.parent / CLIPS}")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.splitlines()[-2].startswith("report: ")
    assert "Traceback" not in done.stderr
    assert list(project.parent.rglob("x")) == []
    ledger = pandas.read_parquet(project / "data/ledger.parquet")
    reasons = (
        ledger.groupby("video")["reason"].agg(lambda found: found.isna().any() or found.iloc[0]).to_dict()
    )
    assert {name: reasons[name] for name in NAMES} == dict.fromkeys(NAMES, True)
    assert reasons["pipe.mp4"] == "unreadable: a named pipe"
    assert reasons["nowhere.mp4"].startswith("unreadable: No such file")


def test_second_run_does_nothing(project: Path, environment: dict[str, str]) -> None:
    done = run(project, environment, "make", "run")
    assert done.returncode == 0, done.stderr
    ran = [line for line in done.stdout.splitlines() if line.startswith("Running stage")]
    assert ran == ["Running stage 'list_clips':"]


def test_generate_writes_where_it_is_told(project: Path, environment: dict[str, str]) -> None:
    Image.new("RGB", (80, 60), "teal").save(project / "-start é.png")
    out = project / "out '$x' 日本.mp4"
    command = [".venv/bin/python", "-m", "videomar.cli", "generate", "--prompt", "é", "--out", out]
    clean = {name: value for name, value in environment.items() if not name.startswith("PYTHON")}
    done = run(project, clean, *command, "--model", "checkpoints/videomar", "--", "-start é.png")
    assert done.returncode == 0, done.stderr
    with av.open(f"file:{out}") as clip:
        assert sum(1 for _ in clip.decode(video=0)) == 17


def test_services_come_up_behind_a_proxy_that_leads_nowhere(
    project: Path, environment: dict[str, str]
) -> None:
    from tests.support.checkout import free_port

    ports = {"VIDEOMAR_MLFLOW_PORT": str(free_port()), "VIDEOMAR_PREFECT_PORT": str(free_port())}
    try:
        done = run(project, environment | ports, "make", "up")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "flows: deployments of prefect.yaml are served" in done.stdout
    finally:
        done = run(project, environment | ports, "make", "down")
    assert "the services have ended" in done.stdout
    assert shutil.which("make")
