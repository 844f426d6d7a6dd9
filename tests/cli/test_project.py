"""The command from a wheel, and a pipeline outside of any clone."""

import os
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from PIL import Image

from tests.conftest import ENVIRONMENT_AT_START
from tests.support.videos import run_ffmpeg
from videomar.cli.project import VERSION, write_project
from videomar.config import load_params
from videomar.errors import DataError

ROOT = Path(__file__).parents[2]


def base_requirements(wheel: metadata.Distribution) -> set[str]:
    """What a wheel needs without any extra, and what that needs."""
    found: set[str] = set()
    left = [wheel]
    while left:
        for text in left.pop().requires or []:
            needed = Requirement(text)
            applies = needed.marker is None or needed.marker.evaluate({"extra": ""})
            # Builds of torch for CUDA need more than those without, which may be here.
            if (
                applies
                and needed.name not in found
                and not needed.name.startswith(("nvidia", "cuda", "triton"))
            ):
                found.add(needed.name)
                left.append(metadata.distribution(needed.name))
    return found


@pytest.fixture(scope="module")
def videomar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command of an environment that has the wheel and its base requirements, and no clone."""
    folder = tmp_path_factory.mktemp("wheel")
    quiet = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation"]
    source = folder / "source"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(source)], check=True)
    changed = subprocess.run(
        ["git", "ls-files", "--modified", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in changed.stdout.splitlines():  # the tree as it lies here
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
            (source / name).chmod((ROOT / name).stat().st_mode)
    pip = [sys.executable, "-m", "pip"]
    subprocess.run([*pip, "wheel", *quiet, "--wheel-dir", str(folder), str(source)], check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "env")], check=True)
    (wheel,) = folder.glob("videomar-*.whl")
    env = folder / "env"
    site = next(env.glob("lib/python*/site-packages"))
    subprocess.run([*pip, "--python", str(env / "bin/python"), "install", *quiet, str(wheel)], check=True)
    library = Path(sysconfig.get_path("purelib"))
    installed = metadata.Distribution.at(next(site.glob("videomar-*.dist-info")))
    for name in base_requirements(installed):
        for part in {file.parts[0] for file in metadata.files(name) or [] if file.parts[0] != ".."}:
            if not (site / part).exists():
                (site / part).symlink_to(library / part)
    return env / "bin/videomar"


def run(command: Path, *words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    names = ("VIRTUAL_ENV", "PYTHONPATH")
    environment = {name: value for name, value in ENVIRONMENT_AT_START.items() if name not in names}
    return subprocess.run([command, *words], cwd=folder, env=environment, capture_output=True, text=True)


def test_command_starts_and_says_its_version(videomar: Path, tmp_path: Path) -> None:
    done = run(videomar, "--version", folder=tmp_path)
    assert (done.stdout, done.stderr) == (f"videomar {metadata.version('videomar')}\n", "")
    assert "generate" in run(videomar, "--help", folder=tmp_path).stdout


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (
            ["generate", "params.yaml", "--prompt", "p", "--out", "o.mp4", "--model", "shipped"],
            "pipeline",
        ),  # no picture
        (["ledger", "show"], "pipeline"),
        (["doctor"], "pipeline"),
        (["plan"], "pipeline"),
        (["trace", "champion"], "pipeline"),
        (["promote"], "pipeline"),
        (["gc"], "pipeline"),
        (["up"], "pipeline"),
        (["status"], "pipeline"),
        (["release"], "pipeline"),
        (["report"], "pipeline"),
        (["vbench", "--python", "python", "--weights", "."], "pipeline"),
    ],
)
def test_verb_that_needs_more_names_the_extra_in_one_line(
    videomar: Path, tmp_path: Path, words: list[str], extra: str
) -> None:
    for name in ("params.yaml", "dvc.yaml", "dvc.lock"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    done = run(videomar, *words, folder=tmp_path)
    assert done.returncode == 1
    assert f"pip install 'videomar[{extra}]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_wheel_alone_makes_a_clip_and_knows_its_model(videomar: Path, tmp_path: Path) -> None:
    Image.linear_gradient("L").convert("RGB").save(tmp_path / "a.png")
    done = run(videomar, "generate", "a.png", "--prompt", "a red circle", "--out", "o.mp4", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "using the model that comes with the package" in done.stderr
    assert (tmp_path / "o.mp4").stat().st_size > 0
    assert "git_commit" in run(videomar, "trace", "shipped", folder=tmp_path).stdout
    lines = 'import videomar; print(videomar.load("champion")("a.png", frames=5).shape)'
    done = run(videomar.with_name("python"), "-c", lines, folder=tmp_path)
    assert done.stdout == "(5, 32, 32, 3)\n", done.stderr


def test_folder_from_the_wheel_is_a_pipeline(videomar: Path, tmp_path: Path) -> None:
    done = run(videomar, "init", "my pipeline", folder=tmp_path)
    folder = tmp_path / "my pipeline"
    assert done.returncode == 0, done.stderr
    assert "pip install 'videomar[pipeline,samples]'" in done.stdout
    assert load_params(folder / "params.yaml")
    assert (folder / ".venv/bin/videomar").samefile(videomar)
    assert os.access(folder / "stages/run", os.X_OK)
    done = run(folder / ".venv/bin/videomar", "use-preset", "medium", folder=folder)
    assert done.returncode == 0, done.stderr
    assert load_params(folder / "params.yaml").model.depth > load_params(ROOT / "params.yaml").model.depth
    assert "expected a new or empty one" in run(videomar, "init", "my pipeline", folder=tmp_path).stderr


@pytest.mark.slow
def test_written_pipeline_runs_with_the_package_as_one_dependency(tmp_path: Path) -> None:
    folder, own = tmp_path / "project", tmp_path / "own clips"
    lines = write_project(folder)
    assert lines[-1] == f"then: cd {folder} && make run CLIPS=/folder/of/videos"
    stages = yaml.safe_load((folder / "dvc.yaml").read_text())["stages"]
    assert all(stage["deps"][0] == VERSION for stage in stages.values())
    assert not [path for stage in stages.values() for path in stage["deps"] if path.startswith("videomar/")]
    own.mkdir()
    run_ffmpeg(own, "-f", "lavfi", "-i", "testsrc2=size=64x64:rate=8:duration=9", "a.mp4")
    done = run(Path("make"), "curate", f"CLIPS={own}", folder=folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "data/ledger.parquet").is_file()
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=folder, capture_output=True, text=True
    ).stdout.splitlines()
    assert ".venv" not in tracked
    assert {"dvc.yaml", "stages/run", "flows/release.py", ".dvc/config"} <= set(tracked)


def test_path_that_scripts_or_databases_cannot_carry_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"got '\$', expected none of it in the path"):
        write_project(tmp_path / "a$b")


def test_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path, tmp_path / "file"):
        with pytest.raises(DataError, match="expected a new or empty one"):
            write_project(folder)
