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
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av
import mlflow
import pytest
import yaml

from tests.support.bare_environment import bare_environment
from tests.support.checkout import wait_for
from tests.support.pipeline_outputs import REPOSITORY, working_in, write_outputs
from videomar import checkpoint
from videomar.checkpoint.manifest import ModelShape
from videomar.compute.seeding import step_generator
from videomar.config import load_params
from videomar.config.schema import set_keys
from videomar.encoders.causal import CausalTokenizer, save_tokenizer
from videomar.environment import answers
from videomar.registry import release
from videomar.registry.candidate import input_example
from videomar.registry.champion import apply_decision
from videomar.registry.versions import record_decision, version_of
from videomar.training.state import untrained

pytestmark = pytest.mark.slow

FRAMES, SIZE_PX = 9, 16
SMALL: dict[str, dict[str, Any]] = {
    "ingest": {"size_px": SIZE_PX, "num_frames": FRAMES},
    "text": {"encoder": "minilm"},
    "tokenizer": {"channels": 4, "hidden_size": 8, "depth": 1, "threads": 1},
    "model": {"hidden_size": 32, "depth": 1, "num_heads": 2, "rope_axis_dims": [8, 4, 4], "head_width": 16},
    "sample": {"num_unmask_steps": 2, "num_diffusion_steps": 2},
}
MODEL_URI = "models:/videomar@champion"
FRESH = """
import json, sys
import mlflow, pandas
table = pandas.DataFrame(json.loads(sys.argv[2]))
model = mlflow.pyfunc.load_model(sys.argv[1])
videos = [model.predict(table, params={"seed": seed})["video"].tolist() for seed in (0, 0, 1)]
print(sys.modules["videomar"].__file__)
print(json.dumps(videos))
"""
MOST_AT_ONCE = 12


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a store whose champion is an untrained model that can be drawn from."""
    root = tmp_path_factory.mktemp("registered")
    write_outputs(root)
    params = yaml.safe_load((root / "params.yaml").read_text())
    set_keys(params, SMALL)
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    loaded = load_params(root / "params.yaml")
    coder = CausalTokenizer(loaded.tokenizer).initialise(step_generator(0, 0))
    save_tokenizer(coder, root / "checkpoints/tokenizer")
    shape = ModelShape(loaded.model, loaded.tokenizer.channels, 384, loaded.text.max_tokens)
    weights = untrained(shape, 0).state_dict()
    checkpoint.save(root / "checkpoints/videomar", 30, shape, {"model": weights, "ema": weights}, {})
    with working_in(root):
        version = version_of(release.register())
        apply_decision(record_decision(version, {"promote": True, "reasons": ["a test"], "figures": []}))
    return f"sqlite:///{root}/.local/mlflow.db"


@pytest.fixture(scope="module")
def folder(store: str) -> Path:
    """The champion as it is stored."""
    mlflow.set_tracking_uri(store)
    mlflow.set_registry_uri(store)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", store)
        return Path(mlflow.artifacts.download_artifacts(MODEL_URI))


@pytest.fixture(scope="module")
def environment(store: str, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of a process that has what the stored model requires, and neither our package nor more."""
    requirements = (folder / "requirements.txt").read_text().split()
    bare = bare_environment(requirements, tmp_path_factory.mktemp("bare") / "site")
    return {**bare, "MLFLOW_TRACKING_URI": store, "MLFLOW_DISABLE_TELEMETRY": "true"}


def num_frames(video: str) -> int:
    with av.open(io.BytesIO(base64.b64decode(video))) as clip:
        frames = list(clip.decode(video=0))
    assert {(frame.width, frame.height) for frame in frames} == {(SIZE_PX, SIZE_PX)}
    return len(frames)


def predicted(model: str, environment: dict[str, str], cwd: Path) -> list[str]:
    """Videos of seeds 0, 0 and 1 from a fresh process that has to use the code of the model itself."""
    command = [sys.executable, "-c", FRESH, model, json.dumps(input_example().to_dict("list"))]
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    *_, package, videos = done.stdout.splitlines()
    assert Path(package).parts[-3:] == ("code", "videomar", "__init__.py")
    return [video for [video] in json.loads(videos)]


def test_model_predicts_with_nothing_but_its_folder_and_its_requirements(
    environment: dict[str, str], tmp_path: Path
) -> None:
    first, again, other = predicted(MODEL_URI, environment, tmp_path)
    assert num_frames(first) == FRAMES
    assert first == again != other


def test_requirements_are_pinned_as_a_public_index_has_them(folder: Path) -> None:
    lines = (folder / "requirements.txt").read_text().split()
    pins = set(re.findall(r"^[\w.-]+==[\w.]+", (REPOSITORY / "requirements.lock").read_text(), re.MULTILINE))
    assert set(lines) <= pins
    assert not [line for line in lines if line.startswith("videomar")]
    environment = yaml.safe_load((folder / "python_env.yaml").read_text())
    assert re.fullmatch(r"3\.\d+\.\d+", environment["python"])


def test_stored_model_has_a_signature_and_neither_pickles_nor_another_model(folder: Path) -> None:
    signature = mlflow.models.Model.load(folder).signature
    assert signature.inputs.input_names() == ["image", "prompt"]
    assert signature.outputs.input_names() == ["video"]
    assert [param.name for param in signature.params] == ["seed", "frames", "size", "motion"]
    assert (folder / "input_example.json").is_file()
    assert not list(folder.rglob("*.pkl"))
    assert not list(folder.glob("code/**/*.safetensors"))


@pytest.fixture(scope="module")
def server(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of `mlflow models serve`, started in a folder that is no checkout."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    cwd = tmp_path_factory.mktemp("served")
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", MODEL_URI, "--env-manager", "local"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    with (cwd / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=cwd, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: answers(f"{address}/ping") or process.poll() is not None, "the server answers")
        assert process.poll() is None, (cwd / "log").read_text()
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)


def ask(address: str, table: dict[str, Any], **params: object) -> tuple[int, Any]:
    """Status and answer of the server."""
    body = json.dumps({"dataframe_split": table, "params": params}).encode()
    request = urllib.request.Request(f"{address}/invocations", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


TABLE = input_example().to_dict("split", index=False)


def test_server_turns_a_picture_and_a_prompt_into_a_video(server: str) -> None:
    status, answer = ask(server, TABLE, seed=3)
    assert status == 200
    assert num_frames(answer["predictions"][0]["video"]) == FRAMES
    status, answer = ask(server, TABLE, frames=5)
    assert num_frames(answer["predictions"][0]["video"]) == 5


@pytest.mark.parametrize(
    ("table", "params", "message"),
    [
        ({**TABLE, "data": [["/etc/hostname", ""]]}, {}, "paths and addresses are not opened"),
        ({**TABLE, "data": TABLE["data"] * 1000}, {}, "got 1000 rows, expected 1 to 8"),
        ({"columns": ["picture", "prompt"], "data": TABLE["data"]}, {}, "missing inputs ['image']"),
        ({**TABLE, "data": [[5, None]]}, {}, "got int, expected a JPEG, PNG, WebP"),
        (TABLE, {"frames": 10**6}, "frames: got 1000000, expected 2 to 36"),
        (TABLE, {"frames": "many"}, "Can not safely convert"),
        (TABLE, {"motion": float("nan")}, "motion: got nan"),
    ],
)
def test_server_refuses_in_words(
    server: str, table: dict[str, Any], params: dict[str, Any], message: str
) -> None:
    status, answer = ask(server, table, **params)
    assert status == 400
    assert message in answer
    assert "Traceback" not in answer


def test_server_does_not_queue_without_bound(server: str) -> None:
    with ThreadPoolExecutor(MOST_AT_ONCE) as pool:
        asked = [pool.submit(ask, server, TABLE, frames=33) for _ in range(MOST_AT_ONCE)]
        statuses = [each.result()[0] for each in asked]
    assert set(statuses) == {200, 429}
    assert ask(server, TABLE)[0] == 200


def test_folder_for_an_image_is_complete(environment: dict[str, str], tmp_path: Path) -> None:
    """`build-docker` writes the same folder and gives it to Docker, which is not needed here."""
    out = tmp_path / "image"
    command = [sys.executable, "-m", "mlflow", "models", "generate-dockerfile", "-m", MODEL_URI]
    subprocess.run([*command, "--output-directory", str(out)], cwd=tmp_path, env=environment, check=True)
    text = (out / "Dockerfile").read_text()
    [source] = re.findall(r"^COPY (\S+) /opt/ml/model$", text, re.MULTILINE)
    assert re.search(r"^FROM python:3\.\d+\.\d+-slim$", text, re.MULTILINE)
    first, *_ = predicted(str(out / source), environment, tmp_path)
    assert num_frames(first) == FRAMES
