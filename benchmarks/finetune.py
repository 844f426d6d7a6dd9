"""Does fine-tuning on 20 new clips beat training from nothing on them, with a tenth of the steps?

`python -m benchmarks.finetune --threads 2` on an idle machine. It continues from what an interrupted run left
in `.local/finetune`. `--clips FOLDER` takes other videos, `--model MODEL` another model to start from.

The clips are of the parts of the sample films that the shipped model has never seen: those that its
`curate.test_videos` names, or, of a model without, what begins after its `samples.film_seconds`. Every other
shot is trained on, and those between are held out: same scenes, other pictures. Both runs have the same
clips, network and batches; they differ in their first weights, steps, and schedule (params.yaml against
presets/finetune.yaml). From nothing, the best of its checkpoints counts, chosen by the held-out clips
themselves, which favours it. Judged by the suite: paired differences on common clips and seeds, with
bootstrap intervals over both, as the gate computes them.
"""

import argparse
import dataclasses
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from benchmarks.record import ROOT, write_result
from videomar import checkpoint
from videomar.checkpoint import ModelFolder
from videomar.checkpoint.transfer import start_sha256
from videomar.config import CurriculumStage, Params, TrainParams, load_params
from videomar.config.edit import read_preset
from videomar.curation.curate import curate_clips
from videomar.curation.ingest import ingest_videos
from videomar.curation.ledger import kept_clips, read_ledger, write_ledger
from videomar.errors import DataError
from videomar.evaluation.bootstrap import interval, paired
from videomar.evaluation.generated import read_generated, repeat_last
from videomar.evaluation.metrics.catalogue import METRICS
from videomar.evaluation.suite import evaluate_clips
from videomar.hub.find import find_model
from videomar.latents.dataset import read_splits, shape_of
from videomar.latents.encode import encode_clips
from videomar.media.mp4 import find_ffmpeg
from videomar.provenance.code_hash import CAPTIONS, LATENTS, code_hash
from videomar.sampling.sample import sample_held_out
from videomar.sources.films import LeftOut, cut_film, fetch_film, read_sources
from videomar.training.loop import train
from videomar.training.worker import Worker

TRAIN_CLIPS, HELD_OUT_CLIPS = 20, 32
MEASURED_CLIPS = 16  # by metrics that take longer than decibels
TENTH = 10
_GROUP = "real"
_WORK = Path(".local/finetune")
_BEFORE = "as it was"
_KINDS = ("truth", "last picture repeated", "from nothing", "fine-tuned")
_SHOWN_CLIPS, _SHOWN_FRAMES = 4, 5


class Setting(NamedTuple):
    """What is compared, and where its files are."""

    model: ModelFolder
    params: Params
    """Those of the model, with the suite of this comparison."""
    steps: int
    """Of training from nothing."""
    work: Path


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the comparison and store its result and picture."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("--model", default="shipped", help="a model's name or folder")
    parser.add_argument("--clips", type=Path, help="folder of videos with several shots each")
    parser.add_argument("--steps", type=int, default=1500, help="of training from nothing")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, default=_WORK)
    parser.add_argument("--quick", action="store_true", help="few steps and clips: shows that it runs")
    chosen = parser.parse_args(arguments)
    began = time.monotonic()
    steps = 10 if chosen.quick else chosen.steps
    setting = make_setting(
        chosen.model, steps, chosen.threads, chosen.work / (chosen.clips or Path("film")).name
    )
    if chosen.quick:
        setting = setting._replace(params=_quick(setting.params))
    prepare_clips(setting, chosen.clips)
    tables, figures = compare(setting)
    ratios = {"finetuned_better": float(figures["continuation gain_db"]["low"] > 0)}
    figures |= {"seconds": round(time.monotonic() - began, 1), "model": chosen.model}
    draw_clips(tables["scratch"], tables["tuned"], setting.work / "finetune")
    if chosen.quick:
        write_result("finetune", figures, ratios, folder=setting.work)
        return
    for suffix in (".png", ".webp"):
        shutil.copyfile(setting.work / f"finetune{suffix}", ROOT / f"docs/images/finetune{suffix}")
    write_result("finetune", figures, ratios)


def make_setting(model: str, steps: int, threads: int, work: Path) -> Setting:
    """Return the comparison that starts from a model."""
    found = find_model(model)
    params = load_params(found.params, ROOT / "params.yaml")
    suite = dataclasses.replace(
        params.suite,
        real_clips=HELD_OUT_CLIPS,
        simulated_clips=0,
        context_frames=(1, 2),
        extra_clips=0,
        metric_clips=MEASURED_CLIPS,
        feature_clips=MEASURED_CLIPS,
        threads=threads,
    )
    own = dataclasses.replace(params.train, threads_per_worker=threads, validate_every=0, preview_every=0)
    encode = dataclasses.replace(params.encode, num_workers=1)
    ingest = dataclasses.replace(params.ingest, num_workers=threads)
    params = dataclasses.replace(params, suite=suite, train=own, encode=encode, ingest=ingest)
    # Other weights, or other code of latents and captions, make other files.
    parts = [start_sha256(found.checkpoint), code_hash(LATENTS), code_hash(CAPTIONS)]
    return Setting(found, params, steps, work / "-".join(part[:8] for part in parts))


def _quick(params: Params) -> Params:
    """Less of everything, for a test."""
    suite = dataclasses.replace(params.suite, seeds=1, real_clips=4, feature_clips=0, metric_clips=2)
    sample = dataclasses.replace(params.sample, num_unmask_steps=1, num_diffusion_steps=2)
    return dataclasses.replace(
        params, suite=suite, sample=dataclasses.replace(sample, final_diffusion_steps=2)
    )


def prepare_clips(setting: Setting, clips: Path | None) -> None:
    """Write ledger and latents of the new clips, unless they are there.

    Raises:
        DataError: the videos have too few clips of different shots.
    """
    work, params = setting.work, setting.params
    latents, ledger = work / "latents", work / "ledger.parquet"
    if latents.is_dir():
        return
    work.mkdir(parents=True, exist_ok=True)
    raw = work / "raw"
    if not raw.is_dir():
        shutil.rmtree(work / "drawn", ignore_errors=True)
        if clips is None:
            _cut_unseen(work / "drawn", params)
        else:
            shutil.copytree(clips, work / "drawn/own")
        (work / "drawn").rename(raw)
    (work / "takedowns.csv").write_text("video_sha256,video,reason,removed_at\n")
    ingest_videos(raw, work / "candidates.parquet", params.ingest)
    curate_clips(work / "candidates.parquet", work / "takedowns.csv", ledger, params.curate)
    write_ledger(ledger, deal_shots(read_ledger(ledger), params))
    draft = work / ".latents"
    shutil.rmtree(draft, ignore_errors=True)
    encode_clips(raw, ledger, setting.model.tokenizer, draft, params)
    draft.rename(latents)


def _cut_unseen(out: Path, params: Params) -> None:
    """Cut the films of the sample recipe into parts; keep those that the model has not seen."""
    films, named = read_sources(ROOT / "samples/SOURCES.yaml"), params.curate.test_videos
    if not named:
        seen = LeftOut(start_s=0.0, end_s=params.samples.film_seconds, why="seen in training")
        films = [dataclasses.replace(films[0], left_out=[seen, *films[0].left_out])]
    for film in films:
        cut_film(film, fetch_film(film), out, 1e5, find_ffmpeg())
    for part in out.rglob("*.mp4"):
        video = part.relative_to(out).as_posix()
        if named and not any(fnmatchcase(video, pattern) for pattern in named):
            part.unlink()
            part.with_suffix(".txt").unlink()


def deal_shots(ledger: pd.DataFrame, params: Params) -> pd.DataFrame:
    """Return a ledger with clips of every other shot in split train, and of the shots between in test.

    Raises:
        DataError: there are too few clips or shots.
    """
    rows = kept_clips(ledger).sort_values(["video", "start_s"], ignore_index=True)
    stride_s = params.ingest.stride_frames / params.ingest.fps
    same_video = rows["video"].eq(rows["video"].shift())
    follows = (rows["start_s"] - rows["start_s"].shift() - stride_s).abs() < stride_s / 100
    rows["run"] = (~(same_video & follows)).cumsum()  # of clips that follow each other: one shot
    of_train = rows["run"] % 2 == 1
    # Evenly over the film.
    train = _spread(rows[of_train], TRAIN_CLIPS)
    test = _spread(rows[~of_train], params.suite.real_clips)
    if len(train) < 2 or len(test) < 2:
        raise DataError(
            f"clips: got {len(train)} to train on and {len(test)} of other shots, expected 2 or more of each"
        )
    chosen = pd.concat([train.assign(split="train"), test.assign(split="test")], ignore_index=True)
    return chosen.drop(columns="run").assign(group=_GROUP)[list(ledger.columns)]


def _spread(rows: pd.DataFrame, count: int) -> pd.DataFrame:
    """So many rows of as many shots as possible, evenly over the film."""
    number = rows.groupby("run").cumcount()
    first = rows[number == 0]
    if len(first) >= count:
        return first.iloc[np.linspace(0, len(first) - 1, count).round().astype(int)]
    return rows.loc[number.sort_values(kind="stable").index[:count]]


def runs_of(setting: Setting) -> dict[str, TrainParams]:
    """Section `train` of both runs, by name."""
    own, steps = setting.params.train, setting.steps
    preset = read_preset(ROOT / "presets", "finetune")["train"]
    schedule = {
        key: preset[key]
        for key in ("learning_rate", "final_learning_rate_share", "ema_decay", "warmup_steps")
    }
    schedule["warmup_steps"] = min(schedule["warmup_steps"], steps // TENTH)
    batch_size = int(preset["curriculum"][0]["batch_size"])

    def of(count: int, **changes: Any) -> TrainParams:
        curriculum = (CurriculumStage(num_latent_frames=0, steps=count, batch_size=batch_size),)
        kept = {"keep_checkpoints": 100, "keep_best": False, "checkpoint_every": max(10, -(-steps // 3))}
        return dataclasses.replace(own, curriculum=curriculum, log_every=20, **kept, **changes)

    start = {"start_from": str(setting.model.checkpoint), **schedule}
    return {
        "scratch": of(steps, start_from=None, warmup_steps=min(own.warmup_steps, steps // 4)),
        "tuned": of(max(1, steps // TENTH), **start),
    }


def compare(setting: Setting) -> tuple[dict[str, Path], dict[str, Any]]:
    """Train both, judge all; return the generated clips to show, by name, and the figures."""
    torch.set_num_threads(setting.params.train.threads_per_worker)
    data = read_splits(setting.work / "latents", setting.params)
    shape = shape_of(data.train, setting.params)
    judged, clips_of = {}, {}
    judged[_BEFORE], clips_of[_BEFORE] = _judge(setting, _BEFORE, setting.model.checkpoint)
    steps: dict[str, int] = {}
    for name, own in runs_of(setting).items():
        out = setting.work / name
        train(shape, data, own, out, Worker(), None)
        for path in sorted(out.glob("step_*")):
            key = f"{name} {int(path.name.removeprefix('step_'))}"
            judged[key], clips_of[key] = _judge(setting, key, path)
            steps[key] = int(path.name.removeprefix("step_"))
    scratch = max((key for key in judged if key.startswith("scratch")), key=lambda key: _gain(judged[key]))
    tuned = max((key for key in judged if key.startswith("tuned")), key=lambda key: steps[key])
    figures: dict[str, Any] = {
        f"{kind} {column}": dataclasses.asdict(figure)
        for kind, column, figure in differences(judged[tuned], judged[scratch], setting.params)
    }
    figures["against_the_model_as_it_was"] = {
        f"{kind} {column}": dataclasses.asdict(figure)
        for kind, column, figure in differences(judged[tuned], judged[_BEFORE], setting.params)
    }
    figures["gain_db"] = {key: round(_gain(rows), 3) for key, rows in judged.items()}
    figures |= {"steps_tuned": steps[tuned], "steps_scratch": setting.steps, "best_of_scratch": scratch}
    ledger = read_ledger(setting.work / "ledger.parquet")
    figures |= {f"clips_{split}": int(count) for split, count in ledger["split"].value_counts().items()}
    figures["weights_sha256"] = start_sha256(setting.model.checkpoint)
    shown = {name: clips_of[key] for name, key in (("scratch", scratch), ("tuned", tuned))}
    return shown, figures


def differences(tuned: pd.DataFrame, other: pd.DataFrame, params: Params) -> Iterator[tuple[str, str, Any]]:
    """Yield task, metric and how much better the first table is, for all metrics of clips that both have."""
    for kind in ("continuation", "image"):
        for column in ("gain_db", *(metric.key for metric in METRICS if metric.better != "neither")):
            scores = paired(tuned, other, (_GROUP, kind), column)
            if len(scores.values):
                unit = "dB" if column == "gain_db" else ""
                figure = interval(f"{kind} {column}", scores.values, params.gate, scores.shots)
                yield kind, column, dataclasses.replace(figure, unit=unit)


def draw_clips(scratch: Path, tuned: Path, out: Path) -> None:
    """Draw some held-out clips, evenly chosen: the truth, the last picture repeated, both models.

    Args:
        scratch: generated.parquet of the model trained from nothing.
        tuned: the same of the fine-tuned one.
        out: without suffix; `.png` has frames from the last given one on, `.webp` moves.
    """
    made: Mapping[str, Any] = {"scratch": read_generated(scratch), "tuned": read_generated(tuned)}
    count = len(made["tuned"])
    shown = []
    for number in np.unique(np.linspace(0, count - 1, min(_SHOWN_CLIPS, count)).round().astype(int)):
        kinds = made["tuned"][number]
        truth, given = kinds["truth"].frames, kinds["continuation"].context_frames
        other = made["scratch"][number]["continuation"].frames
        shown.append([truth, repeat_last(truth, given), other, kinds["continuation"].frames])
    clips = np.array(shown)  # (clips, kinds, F, H, W, 3)
    at = np.linspace(given - 1, clips.shape[2] - 1, _SHOWN_FRAMES).round().astype(int)
    _sheet(rearrange(clips[:, :, at], "n k f h w c -> (n h) (k f w) c"), 3).save(out.with_suffix(".png"))
    frames = rearrange(clips, "n k f h w c -> f (n h) (k w) c")
    first, *rest = [_sheet(frame, 5) for frame in frames]
    first.save(out.with_suffix(".webp"), save_all=True, append_images=rest, duration=125, loop=0, quality=80)


def _sheet(picture: NDArray[np.uint8], scale: int) -> Image.Image:
    """A picture (H, W, 3) enlarged, with a label above each kind."""
    sheet = Image.fromarray(np.kron(picture, np.ones((scale, scale, 1), np.uint8)))
    labelled = Image.new("RGB", (sheet.width, sheet.height + 16), "white")
    labelled.paste(sheet, (0, 16))
    pen = ImageDraw.Draw(labelled)
    for column, label in enumerate(_KINDS):
        pen.text((column * sheet.width // len(_KINDS) + 4, 2), label, fill="black")
    return labelled


def _judge(setting: Setting, key: str, weights: Path) -> tuple[pd.DataFrame, Path]:
    """Generate the held-out clips with a checkpoint and score them; what is there already is read."""
    name = f"{key.replace(' ', '_')}-{start_sha256(weights)[:8]}"
    out = setting.work / "judged" / f"{name}.parquet"
    scores = out.with_suffix(".scores.parquet")
    if not scores.is_file():
        out.parent.mkdir(exist_ok=True)
        files = {"raw": setting.work / "raw", "ledger": setting.work / "ledger.parquet"}
        files |= {"latents": setting.work / "latents", "model": checkpoint_of(weights)}
        sample_held_out(
            SimpleNamespace(**files, tokenizer=setting.model.tokenizer, out=out, named=None), setting.params
        )
        beside = {name: out.with_suffix(f".{name}") for name in ("details", "plot", "sampled")}
        evaluate_clips(SimpleNamespace(generated=out, out=scores, **beside), setting.params.suite)
    return pd.read_parquet(scores), out


def checkpoint_of(folder: Path) -> Path:
    """The checkpoint in a folder, which may be a run's."""
    return folder if (folder / checkpoint.MANIFEST).is_file() else checkpoint.latest(folder) or folder


def _gain(rows: pd.DataFrame) -> float:
    chosen = rows[rows["kind"].str.fullmatch(r"continuation(_seed\d+)?")]
    return float(chosen["gain_db"].mean())


if __name__ == "__main__":
    main()
