"""The registered model where only the package is installed: another process, another folder, a server."""

import base64
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import av
import mlflow
import pytest
import yaml

from tests.support.pipeline_outputs import write_outputs
from videomar import checkpoint
from videomar.checkpoint.manifest import ModelShape
from videomar.compute.seeding import step_generator
from videomar.config import load_params
from videomar.config.schema import set_keys
from videomar.encoders.causal import CausalTokenizer, save_tokenizer
from videomar.registry import release
from videomar.registry.candidate import input_example
from videomar.registry.champion import apply_decision
from videomar.registry.versions import record_decision, version_of
from videomar.training.state import untrained

pytestmark = pytest.mark.slow

FRAMES, SIZE_PX = 9, 16
SMALL: dict[str, dict[str, Any]] = {
    "ingest": {"size_px": SIZE_PX, "num_frames": FRAMES},
    "text": {"encoder": "none"},
    "tokenizer": {"channels": 4, "hidden_size": 8, "depth": 1, "threads": 1},
    "model": {"hidden_size": 32, "depth": 1, "num_heads": 2, "rope_axis_dims": [8, 4, 4], "head_width": 16},
    "sample": {"num_unmask_steps": 2, "num_diffusion_steps": 2},
}
MODEL_URI = "models:/videomar@champion"
FRESH = """
import json, sys
import mlflow, pandas
table = pandas.DataFrame(json.loads(sys.argv[1]))
model = mlflow.pyfunc.load_model("models:/videomar@champion")
videos = [model.predict(table, params={"seed": seed})["video"].tolist() for seed in (0, 0, 1)]
print(json.dumps(videos))
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of a process that finds the champion: an untrained model that can be drawn from."""
    root = tmp_path_factory.mktemp("registered")
    write_outputs(root)
    params = yaml.safe_load((root / "params.yaml").read_text())
    set_keys(params, SMALL)
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    loaded = load_params(root / "params.yaml")
    coder = CausalTokenizer(loaded.tokenizer).initialise(step_generator(0, 0))
    save_tokenizer(coder, root / "checkpoints/tokenizer")
    shape = ModelShape(loaded.model, loaded.tokenizer.channels, 1, loaded.text.max_tokens)
    weights = untrained(shape, 0).state_dict()
    checkpoint.save(root / "checkpoints/videomar", 30, shape, {"model": weights, "ema": weights}, {})
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.chdir(root)
        version = version_of(release.register())
        apply_decision(record_decision(version, {"promote": True, "reasons": ["a test"], "figures": []}))
    store = f"sqlite:///{root}/.local/mlflow.db"
    settings = {"MLFLOW_TRACKING_URI": store, "MLFLOW_DISABLE_TELEMETRY": "true"}
    # `mlflow models serve` starts a program `uvicorn`, which an activated environment has on its PATH.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, **settings, "PATH": path}


def num_frames(video: str) -> int:
    with av.open(io.BytesIO(base64.b64decode(video))) as clip:
        frames = list(clip.decode(video=0))
    assert {(frame.width, frame.height) for frame in frames} == {(SIZE_PX, SIZE_PX)}
    return len(frames)


def test_model_loads_and_predicts_in_a_fresh_process_in_another_folder(
    environment: dict[str, str], tmp_path: Path
) -> None:
    rows = json.dumps(input_example().to_dict("list"))
    command = [sys.executable, "-c", FRESH, rows]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    first, again, other = (videos[0] for videos in json.loads(done.stdout.splitlines()[-1]))
    assert num_frames(first) == FRAMES
    assert first == again != other


def test_what_prediction_imports_is_among_the_requirements(environment: dict[str, str]) -> None:
    """Of what our own modules import by name; packages that those bring along are theirs to require."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", environment["MLFLOW_TRACKING_URI"])
        mlflow.set_tracking_uri(environment["MLFLOW_TRACKING_URI"])
        mlflow.set_registry_uri(environment["MLFLOW_TRACKING_URI"])
        folder = Path(mlflow.artifacts.download_artifacts(MODEL_URI))
        signature = mlflow.models.get_model_info(MODEL_URI).signature
    wanted = {re.split("[=<>]", line)[0] for line in (folder / "requirements.txt").read_text().split()}
    code = (
        "import importlib.metadata as m, sys, videomar.serving, videomar.sampling.generate, ast\n"
        "found = set()\n"
        "for name, module in list(sys.modules.items()):\n"
        "    if name.startswith('videomar') and getattr(module, '__file__', None):\n"
        "        for node in ast.walk(ast.parse(open(module.__file__).read())):\n"
        "            if isinstance(node, ast.Import): found |= {a.name.split('.')[0] for a in node.names}\n"
        "            if isinstance(node, ast.ImportFrom): found.add(node.module.split('.')[0])\n"
        "tops = {name for name in found if name in sys.modules} - {'videomar'}\n"
        "dists = m.packages_distributions()\n"
        "print(*(' '.join(dists[top]).lower() for top in tops if top in dists), sep='\\n')\n"
    )
    used = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    brought_along = {"pydantic_core"}  # by pydantic, in the one version that fits it
    # A module may be of several distributions, as `mlflow` is.
    assert [line for line in used.splitlines() if not set(line.split()) & (wanted | brought_along)] == []
    assert signature.inputs.input_names() == ["image", "prompt"]
    assert signature.outputs.input_names() == ["video"]
    assert (folder / "input_example.json").is_file()
    assert not list(folder.rglob("*.pkl"))


def test_server_turns_a_picture_and_a_prompt_into_a_video(
    environment: dict[str, str], tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", MODEL_URI, "--env-manager", "local"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        table = input_example().to_dict("split", index=False)
        answer = ask(f"http://127.0.0.1:{port}", {"dataframe_split": table, "params": {"seed": 3}})
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)
    assert num_frames(answer["predictions"][0]["video"]) == FRAMES


def ask(address: str, question: dict[str, Any]) -> dict[str, Any]:
    """The answer of a server, as soon as it is up."""
    end = time.monotonic() + 90
    while True:
        try:
            urllib.request.urlopen(f"{address}/ping", timeout=5).close()
            break
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            assert time.monotonic() < end, "the server did not start"
            time.sleep(0.3)
    body, kind = json.dumps(question).encode(), {"Content-Type": "application/json"}
    with urllib.request.urlopen(
        urllib.request.Request(f"{address}/invocations", body, kind), timeout=60
    ) as answer:
        return json.loads(answer.read())
