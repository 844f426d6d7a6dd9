"""A model folder works wherever it is copied to, and is refused where it is damaged."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

import videomar
from tests.support.fake_hub import TOKEN, FakeHub, fake_hub
from tests.support.tiny_model import write_tiny_model
from tests.training.test_bare import bare_machine
from videomar.checkpoint import MANIFEST, open_model_folder
from videomar.compute.seeding import step_generator
from videomar.config import Params, load_generation_params, load_params
from videomar.config.params import params_text
from videomar.encoders.causal import CausalTokenizer, save_tokenizer
from videomar.encoders.text import NoText
from videomar.errors import CheckpointError, DataError, VideomarError
from videomar.files import sha256_of
from videomar.hub.publish import export_model, push_model
from videomar.provenance.card import CardFacts, model_card
from videomar.sampling.generate import ClipGenerator

PICTURE = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
PARTS = {
    *("README.md", "checkpoint.json", "ema.safetensors", "model.safetensors", "params.yaml"),
    *("tokenizer/tokenizer.json", "tokenizer/tokenizer.safetensors"),
}
# Prints the sum of a clip's pixels.
CALL = """
import sys
sys.path[:0] = sys.argv[2:]
import numpy as np
import videomar
model = videomar.load(sys.argv[1])
picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
clip = model(picture, frames=9, seed=3)
assert clip.shape == (9, 16, 16, 3) and clip.dtype == np.uint8
print(int(clip.sum()))
"""


@pytest.fixture(scope="module")
def run(params: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a training run with one checkpoint."""
    return write_tiny_model(params, tmp_path_factory.mktemp("run")).parent


@pytest.fixture(scope="module")
def folder(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "model ü"
    [line] = export_model(str(run), out)
    assert line.startswith(f"{out}: the whole model, ")
    return out


@pytest.fixture(scope="module")
def expected(folder: Path) -> int:
    return int(videomar.load(folder)(PICTURE, frames=9, seed=3).sum())


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def call(folder: Path, *arguments: str, cwd: str = "/") -> str:
    command = [sys.executable, *arguments[:-1], "-c", CALL, str(folder), arguments[-1]]
    env = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def test_every_checkpoint_of_a_run_is_a_whole_model(run: Path, expected: int) -> None:
    assert names(run / "step_00000000") == PARTS
    assert int(videomar.load(run)(PICTURE, frames=9, seed=3).sum()) == expected


def test_manifest_has_size_and_sum_of_every_file_but_itself_and_the_card(folder: Path) -> None:
    assert names(folder) == PARTS
    listed = json.loads((folder / MANIFEST).read_text())["files"]
    assert set(listed) == PARTS - {MANIFEST, "README.md"}
    for name, stated in listed.items():
        file = folder / name
        assert stated == {"bytes": file.stat().st_size, "sha256": sha256_of(file)}


def test_folder_moved_elsewhere_gives_the_same_clip_from_a_place_that_cannot_be_written_to(
    folder: Path, expected: int, tmp_path: Path
) -> None:
    """Only the package is on the path, and neither /proc nor the folder takes a file."""
    package = tmp_path / "only"
    package.mkdir()
    (package / "videomar").symlink_to(Path(videomar.__file__).parent)
    moved = shutil.copytree(folder, tmp_path / "elsewhere 模型")
    before = {path: path.stat().st_mtime_ns for path in [moved, *moved.rglob("*")]}
    for path in before:
        path.chmod(0o555 if path.is_dir() else 0o444)
    assert int(call(moved, str(package), cwd="/proc")) == expected
    assert {path: path.stat().st_mtime_ns for path in [moved, *moved.rglob("*")]} == before


def test_folder_works_on_a_machine_without_yaml_pydantic_and_the_pipeline(
    folder: Path, expected: int, tmp_path: Path
) -> None:
    site = bare_machine(tmp_path / "site")
    assert int(call(folder, "-I", "-S", str(site))) == expected


@pytest.mark.parametrize("name", sorted(PARTS - {"README.md", MANIFEST}))
def test_one_flipped_bit_is_refused_and_the_file_named(folder: Path, tmp_path: Path, name: str) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    content = bytearray((copy / name).read_bytes())
    content[-2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name}: missing or damaged, got "):
        videomar.load(copy)


@pytest.mark.parametrize("name", sorted(PARTS - {"README.md"}))
def test_missing_file_is_refused_and_named(folder: Path, tmp_path: Path, name: str) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / name).unlink()
    with pytest.raises(VideomarError, match=f"{name}: missing or damaged|(no|without) {name}"):
        videomar.load(copy)


def test_card_may_be_edited(folder: Path, tmp_path: Path, expected: int) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "README.md").write_text("# Mine\n")
    assert int(videomar.load(copy)(PICTURE, frames=9, seed=3).sum()) == expected


def test_second_checkpoint_links_the_tokenizer_of_the_first_and_never_its_source(
    params: Params, tmp_path: Path
) -> None:
    first = write_tiny_model(params, tmp_path)
    loaded = videomar.load(first).loaded
    from videomar import checkpoint
    from videomar.encoders.load import tokenizer_files

    weights = loaded.model.state_dict()
    parts = checkpoint.read_parts(tokenizer_files(tmp_path / "coder"), params, "# tiny\n")
    second = checkpoint.save(tmp_path, 1, loaded.shape, {"model": weights, "ema": weights}, {}, None, parts)
    name = "tokenizer/tokenizer.safetensors"
    assert (second / name).samefile(first / name)
    assert not (second / name).samefile(tmp_path / "coder/tokenizer.safetensors")
    checkpoint.prune(tmp_path, 1)
    assert checkpoint.verify(second)


def test_export_refuses_a_folder_in_use_and_leaves_nothing_half_written(run: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").touch()
    with pytest.raises(DataError, match="out: exists already, expected a new folder"):
        export_model(str(run), tmp_path / "out")
    broken = shutil.copytree(run, tmp_path / "broken")
    file = broken / "step_00000000/ema.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError):
        export_model(str(broken / "step_00000000"), tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "out"]


def test_parameters_are_json_and_yaml_and_say_the_same(params: Params, folder: Path, tmp_path: Path) -> None:
    text = params_text(params)
    assert json.loads(text) == yaml.safe_load(text)
    assert json.loads(text)["train"]["learning_rate"] == params.train.learning_rate
    file = tmp_path / "params.yaml"
    file.write_text(text)
    assert load_params(file) == params
    found = load_generation_params(file)
    assert (found.ingest, found.text, found.sample) == (params.ingest, params.text, params.sample)


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("sample", "num_unmask_steps", None, "sample: .*num_unmask_steps"),
        ("sample", "num_unmask_steps", 0, "sample.num_unmask_steps: got 0, expected at least 1"),
        ("sample", "num_unmask_steps", "two", "sample: "),
        ("text", "colour", 1, "text: .*colour"),
        ("ingest", None, None, "ingest: got None, expected a section"),
    ],
)
def test_parameters_that_cannot_be_are_refused_without_pydantic(
    params: Params, tmp_path: Path, section: str, key: str | None, value: object, message: str
) -> None:
    content = json.loads(params_text(params))
    if key is None:
        del content[section]
        content["resources"].pop(section)
    elif value is None:
        del content[section][key]
    else:
        content[section][key] = value
    file = tmp_path / "params.yaml"
    file.write_text(json.dumps(content))
    with pytest.raises(VideomarError, match=message):
        load_generation_params(file)


@pytest.mark.parametrize("name", ["nonsense", "./no/such/folder", "a/b/c", ""])
def test_name_of_no_model_is_refused_with_what_it_may_be(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VideomarError, match=r"which is no folder; expected .*OWNER/NAME on a hub") as error:
        videomar.load(name)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_version_without_a_registry_is_refused_and_none_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VideomarError, match="model: got 3, but there is no registry here"):
        videomar.load(3)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory):
    """A hub on loopback with the client pointed at it."""
    from huggingface_hub import constants

    root = tmp_path_factory.mktemp("hub")
    with fake_hub(root) as served, pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", served.address)
        patch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            served.address + "/{repo_id}/resolve/{revision}/{filename}",
        )
        patch.setattr(constants, "HF_HUB_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(constants, "HF_HUB_OFFLINE", True)  # as our settings leave it
        patch.setenv("HF_HUB_OFFLINE", "on")
        yield served


def test_pushed_model_is_loaded_from_the_hub(
    hub: FakeHub, folder: Path, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    [line] = push_model(str(folder), "tester/tiny", private=True)
    assert line == f"{hub.address}/tester/tiny: `videomar.load('tester/tiny')` takes it anywhere"
    assert hub.private == {"tester/tiny": True}
    assert set(hub.files("tester/tiny")) == PARTS
    assert int(videomar.load("tester/tiny")(PICTURE, frames=9, seed=3).sum()) == expected


def test_private_repository_needs_the_token_and_its_name_stands_in_the_refusal(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    (hub.root / "tester/secret").mkdir(parents=True)
    hub.private["tester/secret"] = True
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(VideomarError, match="tester/secret: no such repository, or none that may be read"):
        videomar.load("tester/secret")


def test_push_needs_the_token_of_the_environment(
    hub: FakeHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    asked = len(hub.requests)
    with pytest.raises(VideomarError, match="HF_TOKEN: not set, expected a token that may write to a/b"):
        push_model(str(folder), "a/b", private=False)
    assert len(hub.requests) == asked
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(VideomarError, match="a/b: .* expected a repository of http://127.0.0.1"):
        push_model(str(folder), "a/b", private=False)


def test_offline_chosen_by_the_user_is_respected(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    asked = len(hub.requests)
    with pytest.raises(VideomarError, match="HF_HUB_OFFLINE is set, so only what was downloaded before"):
        videomar.load("tester/unknown")
    assert len(hub.requests) == asked


def test_header_of_the_card_is_what_hubs_read() -> None:
    from huggingface_hub import ModelCard

    facts = CardFacts(
        name="videomar version 7", metrics={"real_psnr_db": 21.5}, parents=["owner/first", "version 3"]
    )
    data = ModelCard(model_card(facts)).data
    assert (data.library_name, data.pipeline_tag, data.license) == ("videomar", "image-to-video", "other")
    assert data.base_model == ["owner/first"]
    [result] = data.eval_results
    assert (result.metric_type, result.metric_value, result.task_type) == (
        "real_psnr_db",
        21.5,
        "image-to-video",
    )
    assert "- version 3" in model_card(facts)


def test_import_of_the_package_loads_nothing_else() -> None:
    code = (
        "import sys; before = set(sys.modules)\n"
        "import videomar\n"
        "print(sorted(set(sys.modules) - before))\n"
        "print([n for n in sys.modules if n.startswith('videomar')])\n"
        "assert set(videomar.__all__) <= set(dir(videomar))\n"
        "try: videomar.nothing\n"
        "except AttributeError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    others, ours, message = done.stdout.splitlines()
    assert not {"torch", "numpy", "mlflow", "pydantic", "yaml"} & set(eval(others))
    assert ours == "['videomar']"
    assert message == "module 'videomar' has no attribute 'nothing'"


def test_text_encoder_packed_in_the_folder_is_used_wherever_it_lies(
    params: Params, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []
    monkeypatch.setattr(
        "videomar.sampling.generate.load_prompt_encoder",
        lambda text, device: used.append(text.encoder) or NoText(),
    )
    packed = shutil.copytree(run / "step_00000000", tmp_path / "packed")
    (packed / "text_encoder").mkdir()
    assert open_model_folder(packed).text_encoder == packed / "text_encoder"
    ClipGenerator(packed)
    videomar.load(run, text_encoder="/elsewhere")
    assert used == [str(packed / "text_encoder"), "/elsewhere"]


def test_tokenizer_of_another_model_is_refused(params: Params, run: Path, tmp_path: Path) -> None:
    other = dataclasses.replace(params.tokenizer, channels=6)
    save_tokenizer(CausalTokenizer(other).initialise(step_generator(0, 0)), tmp_path)
    parts = open_model_folder(run)._replace(tokenizer=tmp_path)
    with pytest.raises(DataError, match="got latents of 6 channels, expected 4 as the weights in"):
        ClipGenerator(parts)
