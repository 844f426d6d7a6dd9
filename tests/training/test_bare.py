"""The plain loop on a machine that has only torch, numpy, einops, safetensors and pyarrow."""

import importlib.metadata
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

from tests.support.caches import write_cache
from tests.training.conftest import files_of
from videomar.latents.dataset import LatentDataset, Splits
from videomar.training.loop import train
from videomar.training.worker import Worker

ROOT = Path(__file__).parents[2]
BARE = ("torch", "numpy", "einops", "safetensors", "pyarrow")
OTHERS = ("ray", "mlflow", "pydantic", "yaml", "pandas", "matplotlib", "psutil", "tqdm", "rich", "PIL", "av")
TRAIN = f"""
import importlib.util, json, pickle, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from videomar.latents.dataset import LatentDataset
from videomar.latents.dataset import Splits
from videomar.training.loop import train
from videomar.training.worker import Worker
shape, params = pickle.loads(Path("spec").read_bytes())
data = LatentDataset(Path("latents"), "train", 5)
figures = train(shape, Splits(data, data), params, Path("bare"), Worker(), None)
there = [name for name in {OTHERS} if importlib.util.find_spec(name)]
print(json.dumps([figures["steps"], there]))
"""


def with_all_they_need(names):
    """Distributions that are installed here, and those that they ask for, down to the last."""
    here = {re.sub(r"[-_.]+", "-", d.name).lower(): d for d in importlib.metadata.distributions()}
    found, waiting = {}, list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in here and name not in found:
            found[name] = here[name]
            needs = [need for need in here[name].requires or [] if "extra ==" not in need]
            waiting += [re.match(r"[\w.-]+", need).group() for need in needs]
    return found.values()


def bare_machine(folder):
    """A folder of these libraries and videomar: all, beside Python's own, that is imported from there."""
    folder.mkdir()
    (folder / "videomar").symlink_to(ROOT / "videomar")
    for distribution in with_all_they_need(BARE):
        for top in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
            if not (folder / top).exists():  # several may share one, as those of CUDA do
                (folder / top).symlink_to(distribution.locate_file(top))
    return folder


def test_loop_on_a_machine_without_other_libraries_ends_with_the_same_bits(shape, params, tmp_path):
    """No site-packages, only links to the libraries that it may have: nothing else can be imported."""
    latents = write_cache(tmp_path / "latents")
    (tmp_path / "spec").write_bytes(pickle.dumps((shape, params.train)))
    command = [sys.executable, "-I", "-S", "-c", TRAIN, str(bare_machine(tmp_path / "site"))]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout) == [12, []]
    data = LatentDataset(latents, "train", 5)
    train(shape, Splits(data, data), params.train, tmp_path / "all", Worker(), None)
    assert files_of(tmp_path / "bare") == files_of(tmp_path / "all")
