import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.conftest import small_params
from tests.training.conftest import with_train
from videomar import checkpoint
from videomar.config import CurriculumStage, load_params
from videomar.config.schema import set_keys
from videomar.errors import DataError, ParamsError
from videomar.latents.dataset import LatentDataset, Splits
from videomar.latents.shards import read_rows, write_shards
from videomar.training.curriculum import StageEnd, draw_of, max_steps, position_at, stop_reason
from videomar.training.loop import train
from videomar.training.micro_batches import parts_of
from videomar.training.state import run_summary
from videomar.training.worker import Worker

ROOT = Path(__file__).parents[2]


def stages(params, *changes):
    """Section `train` with a curriculum of the small first stage, each time with other values."""
    first = params.train.curriculum[0]
    entries = tuple(dataclasses.replace(first, **change) for change in changes)
    return dataclasses.replace(params.train, curriculum=entries)


def test_stages_follow_each_other(params):
    assert position_at(0, [], params.train).number == 0
    place = position_at(8, [StageEnd(6, "steps")], params.train)
    assert (place.number, place.start, place.planned) == (1, 6, 8)


def test_stage_that_ended_early_moves_the_schedule_on(params):
    """The last step has the last learning rate, however early the stages before it ended."""
    place = position_at(7, [StageEnd(2, "target")], params.train)
    assert place.planned == max_steps(params.train) - 1


def test_resets_are_counted_from_the_stage_that_asked_for_them(params):
    settings = stages(params, {}, {"optimizer": "reset"}, {"num_latent_frames": 0, "ema": "reset"})
    ends = [StageEnd(6, "steps"), StageEnd(9, "target")]
    place = position_at(10, ends, settings)
    assert (place.optimizer_steps, place.ema_steps) == (4, 1)


def test_stage_ends_at_its_target_and_says_so(data, shape, params, tmp_path, caplog):
    settings = stages(params, {"target_loss": 100.0, "steps": 50}, {"num_latent_frames": 0})
    train(shape, data, dataclasses.replace(settings, validate_every=3), tmp_path / "run", Worker(), None)
    figures = run_summary(tmp_path / "run")
    assert (figures["stage_0_end_step"], figures["stage_0_target_reached"]) == (3, 1.0)
    assert (figures["stage_1_end_step"], figures["stage_1_target_reached"]) == (9, 0.0)
    assert all(isinstance(value, int | float) for value in figures.values())
    assert "stage 0 ended after step 3: target" in caplog.text
    manifest = json.loads((checkpoint.latest(tmp_path / "run") / "checkpoint.json").read_text())
    assert manifest["progress"]["ends"] == [[3, "target"], [9, "steps"]]


@pytest.mark.parametrize(
    ("val_loss", "done", "why"), [(0.5, 2, "target"), (0.6, 2, None), (None, 6, "steps")]
)
def test_target_is_reached_at_or_below_it(params, val_loss, done, why):
    settings = stages(params, {"target_loss": 0.5}, {"num_latent_frames": 0})
    assert stop_reason(position_at(0, [], settings), done, val_loss) == why


def test_reset_average_begins_with_the_weights(data, shape, params, tmp_path):
    """With a decay of one after the reset, the average stays what the weights were at the boundary."""
    settings = stages(params, {"steps": 4}, {"num_latent_frames": 0, "steps": 1, "ema": "reset"})
    settings = dataclasses.replace(settings, keep_checkpoints=9, checkpoint_every=100)
    train(shape, data, settings, tmp_path / "run", Worker(), None)
    before, after = (tmp_path / f"run/step_{step:08d}" for step in (4, 5))
    old, new = (checkpoint.load_tensors(path, "model") for path in (before, after))
    for name, average in checkpoint.load_tensors(after, "ema").items():
        expected = old[name].lerp(new[name], 1 - 1 / 10)  # the first decay of a new average
        assert average.equal(expected)


def test_reset_optimizer_has_taken_no_step_before_the_boundary(data, shape, params, tmp_path):
    settings = stages(params, {"steps": 4}, {"num_latent_frames": 0, "steps": 2, "optimizer": "reset"})
    train(shape, data, settings, tmp_path / "run", Worker(), None)
    tensors = checkpoint.load_tensors(checkpoint.latest(tmp_path / "run"), "optimizer")
    assert {float(value) for name, value in tensors.items() if name.endswith(".step")} == {2.0}


def test_stage_may_have_a_rate_and_an_objective_of_its_own(data, shape, params, tmp_path):
    settings = stages(params, {"learning_rate": 5e-4}, {"num_latent_frames": 0, "objective": "single_frame"})
    train(shape, data, settings, tmp_path / "run", Worker(), None)
    rows = [row.split(",") for row in (tmp_path / "run/log.csv").read_text().splitlines()]
    rates = [float(row[rows[0].index("learning_rate")]) for row in rows[1:]]
    assert rates[0] == 5e-4
    assert rates[3] > 5e-4


def test_still_images_are_a_stage(data, shape, params, tmp_path):
    settings = stages(params, {"num_latent_frames": 1}, {"num_latent_frames": 0})
    assert train(shape, data, settings, tmp_path / "run", Worker(), None)["steps"] == 12


def test_small_pictures_come_before_large_ones(dataset, shape, params, tmp_path):
    """Every clip twice: as it is, and at half the size, of which only the first stage learns."""
    rows = list(read_rows(tmp_path / "latents"))
    half = {"shape": [4, 3, 1, 1], "size_px": 16, "latents": np.ones((4, 3, 1, 1), "float16").tobytes()}
    write_shards(tmp_path / "latents", rows + [{**row, **half, "key": f"{row['key']}s"} for row in rows], 100)
    both = LatentDataset(tmp_path / "latents", "train", 5)
    settings = stages(params, {"size_px": 16, "num_latent_frames": 0}, {"num_latent_frames": 0})
    tokens = [
        parts_of(0, both, draw_of(stage, settings), 1, Worker())[0].clips.latents[0].numel()
        for stage in settings.curriculum
    ]
    assert tokens == [4 * 3, 4 * 3 * 2 * 2]
    assert train(shape, Splits(both, both), settings, tmp_path / "run", Worker(), None)["steps"] == 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_latent_frames": 9}, "stage 0: num_latent_frames: got 9, expected at most 3"),
        ({"size_px": 48}, "stage 0: size_px: got 48, expected one of"),
    ],
)
def test_stage_that_the_cache_cannot_serve_is_refused_before_step_0(
    data, shape, params, tmp_path, change, message
):
    settings = stages(params, change, {"num_latent_frames": 0})
    with pytest.raises(DataError, match=message):
        train(shape, data, settings, tmp_path / "run", Worker(), None)
    assert not (tmp_path / "run/log.csv").exists()


def test_target_without_held_out_clips_is_refused(dataset, shape, params, tmp_path):
    settings = stages(params, {"target_loss": 1.0}, {"num_latent_frames": 0})
    with pytest.raises(DataError, match="no clip in split val"):
        train(shape, Splits(dataset), settings, tmp_path / "run", Worker(), None)


def read_with(path, **changes):
    """What the shipped file says with other values of the keys of section `train`."""
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    set_keys(raw, {"train": changes})
    path.write_text(yaml.safe_dump(raw))
    return load_params(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": "many"}, "train.curriculum.1.batch_size: got many, expected a number or `auto`"),
        ({"batch_size": 0}, "train.curriculum.1.batch_size: got 0, expected at least 1"),
        ({"batch_size": 2.5}, "train.curriculum.1.batch_size.int: got 2.5"),
        ({"batch_size": None}, "train.curriculum.1.batch_size.int: got None"),
        ({"steps": 0}, "train.curriculum.1.steps: got 0, expected at least 1"),
        ({"steps": "1e3"}, "train.curriculum.1.steps: got '1e3', expected"),
        ({"num_latent_frames": -1}, "train.curriculum.1.num_latent_frames: got -1, expected 0 or more"),
        ({"size_px": -8}, "train.curriculum.1.size_px: got -8, expected 0 or more"),
        ({"learning_rate": 0.0}, "train.curriculum.1.learning_rate: got 0.0, expected above 0, or null"),
        ({"learning_rate": "1e-4"}, "YAML wants 1.0e-4, not 1e-4"),
        (
            {"objective": "some"},
            "train.curriculum.1.objective: got some, expected single_frame or all_frames",
        ),
        ({"optimizer": "drop"}, "train.curriculum.1.optimizer: got drop, expected keep or reset"),
        ({"ema": "drop"}, "train.curriculum.1.ema: got drop, expected keep or reset"),
        ({"rate": 1.0}, "train.curriculum.1.rate: unknown key"),
        ({"num_latent_frames": 2}, "got a last stage of 2 latent frames, expected the full length (0)"),
        ({"size_px": 16}, "got a last stage of 16 pixels, expected the full size (0)"),
    ],
)
def test_wrong_stage_is_refused_by_its_number_and_key(tmp_path, change, message):
    stage = {"num_latent_frames": 0, "steps": 5, "batch_size": 4}
    with pytest.raises(ParamsError) as refused:
        read_with(tmp_path / "params.yaml", curriculum=[stage, {**stage, **change}])
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("key", ["num_latent_frames", "steps", "batch_size"])
def test_stage_without_one_of_its_three_keys_is_refused(tmp_path, key):
    stage = {"num_latent_frames": 0, "steps": 5, "batch_size": 4}
    del stage[key]
    with pytest.raises(ParamsError, match=rf"train\.curriculum\.0\.{key}: missing"):
        read_with(tmp_path / "params.yaml", curriculum=[stage])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"curriculum": []}, "train.curriculum: got no stage, expected at least one stage"),
        ({"curriculum": None}, "train.curriculum: got None"),
        ({"accumulation": 3}, "train.curriculum.0.batch_size: got 16, expected a multiple of num_workers x"),
        ({"num_workers": 0}, "resources.train.num_workers: got 0, expected at least 1"),
        ({"learning_rate": 0.0}, "train.learning_rate: got 0.0, expected above 0"),
        ({"learning_rate": float("nan")}, "train.learning_rate"),
        ({"warmup_steps": -1}, "train.warmup_steps: got -1, expected 0 or more"),
        ({"mask_ratio_min": 1.5}, "train.mask_ratio_min: got 1.5, expected 0 to 1"),
        ({"ema_decay": 1.0}, "train.ema_decay: got 1.0, expected 0 to below 1"),
        ({"betas": [0.9, 1.5]}, "train.betas: got [0.9, 1.5], expected two numbers from 0 to below 1"),
    ],
)
def test_wrong_number_of_the_section_is_refused(tmp_path, changes, message):
    with pytest.raises(ParamsError) as refused:
        read_with(tmp_path / "params.yaml", **changes)
    assert message in str(refused.value)


def test_target_without_validation_is_refused(tmp_path):
    stage = {"num_latent_frames": 0, "steps": 5, "batch_size": 4, "target_loss": 0.5}
    with pytest.raises(ParamsError, match=r"train\.validate_every: got 0, expected above 0, as a stage has"):
        read_with(tmp_path / "params.yaml", curriculum=[stage], validate_every=0)


def test_automatic_batch_of_a_sharded_run_is_refused(tmp_path):
    stage = {"num_latent_frames": 0, "steps": 5, "batch_size": "auto"}
    with pytest.raises(
        ParamsError, match=r"train\.curriculum\.0\.batch_size: got auto, expected a number with"
    ):
        read_with(tmp_path / "params.yaml", curriculum=[stage], sharding="fsdp", num_workers=2)


def test_batch_that_cannot_be_dealt_out_is_refused(params):
    with pytest.raises(ParamsError, match="multiple of num_workers x accumulation = 3"):
        with_train(params, accumulation=3)


def test_stage_says_only_what_it_changes():
    stage = CurriculumStage(num_latent_frames=0, steps=1, batch_size=1)
    assert (stage.optimizer, stage.ema, stage.learning_rate, stage.objective) == ("keep", "keep", None, None)


@pytest.mark.parametrize(
    ("own", "on_cpu", "on_gpu"),
    [
        ({}, 2, 1),
        ({"num_workers": 1}, 1, 1),
        ({"num_workers": 4}, 4, 4),
        ({"accumulation": 8}, 1, 1),  # of 8 clips two workers would need 16 parts
    ],
)
def test_two_workers_share_batches_on_processors_where_they_can(
    own: dict[str, int], on_cpu: int, on_gpu: int
) -> None:
    stage = CurriculumStage(num_latent_frames=0, steps=1, batch_size=8)
    given = {"num_workers": None, "curriculum": (stage,), **own}
    params = dataclasses.replace(small_params().train, **given)
    assert (params.workers_on("cpu"), params.workers_on("cuda")) == (on_cpu, on_gpu)
    assert params.fewest_workers == own.get("num_workers", 1)


def test_batch_size_that_is_found_has_one_worker() -> None:
    stage = CurriculumStage(num_latent_frames=0, steps=1, batch_size="auto")
    params = dataclasses.replace(small_params().train, num_workers=None, curriculum=(stage,))
    assert params.workers_on("cpu") == 1
