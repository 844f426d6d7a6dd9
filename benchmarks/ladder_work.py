"""What the rungs of a ladder are made of: ledger, tokenizer, latents, runs and scores, each made once.

Everything is in a folder that is named by the hash of what it depends on: parameters, code, and the folders
before it. So rungs share what their parameters share, and a ladder that was killed continues. Of two that are
run side by side, with other rungs each, one waits for what both need.

    tokenizer-3f0c2a9be1d4/  made_from.json   what it depends on
                             made.json        seconds and figures; written last
"""

import contextlib
import dataclasses
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import torch
from filelock import FileLock

from benchmarks import methods
from benchmarks.budget import PROBE_EVERY, Budget, PaceClock, with_seconds, with_steps
from benchmarks.drift import DRIFT_FILE, write_drift
from benchmarks.long_scenes import draw_longer
from benchmarks.methods import METHODS
from videomar import checkpoint
from videomar.checkpoint.transfer import start_sha256
from videomar.compute.device import choose_device
from videomar.config import Params
from videomar.config.section import fixed_keys
from videomar.curation.curate import curate_clips
from videomar.curation.ingest import ingest_videos
from videomar.encoders.train_tokenizer import train_from_ledger
from videomar.errors import DataError, VideomarError
from videomar.evaluation.suite import evaluate_clips
from videomar.files import sha256_of, write_json
from videomar.hub.start import refuse_other_encoders, starts_of, with_start_tokenizer
from videomar.latents.clip_encoder import ClipEncoder, Encoded, Video
from videomar.latents.dataset import read_splits, shape_of
from videomar.latents.encode import encode_clips
from videomar.provenance.code_hash import CAPTIONS, LATENTS, STAGES, TOKENIZER, TRAINING, code_hash
from videomar.sampling.sample import sample_held_out
from videomar.sources.simulate import CLIP_FRAMES
from videomar.tracking.runs import RUN_FILE, open_run
from videomar.training.launch import Recorder, recorded
from videomar.training.loop import train
from videomar.training.worker import Worker

_CODE = {
    "raw": (STAGES["samples"],),
    "ledger": (STAGES["ingest"], STAGES["curate"]),
    "tokenizer": (TOKENIZER,),
    "latents": (LATENTS, CAPTIONS),
    "run": (TRAINING,),
    "scores": (STAGES["sample"], STAGES["evaluate"]),
}
_PROBE_STEPS = 32
_DONE = "made.json"
_SCORED = ("ingest", "text", "sample", "suite")


@dataclasses.dataclass(slots=True)
class LadderWork:
    """The folders of a ladder."""

    root: Path
    raw: Path
    """Videos."""
    ledger: Path
    """Kept clips of these videos by `ledger_params`; others are curated here."""
    ledger_params: Params
    threads: int
    method: str = ""
    """How models learn and sample other than the product does, see `METHODS`."""
    tracked: bool = False
    """Whether each training is a run in MLflow."""
    drift: bool = False
    """Whether long clips are followed frame by frame, in `drift.json` beside the scores."""
    code: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    """Hashes of the code, read once: files that change later are not the ones that are running."""

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(self.threads)
        self.code = _hashes()

    def by(self, method: str) -> "LadderWork":
        """Return the same folders for models that learn and sample by a method."""
        return dataclasses.replace(self, method=method)

    @property
    def _method_basis(self) -> list[str]:
        """What depends on the method depends on: its name and code; nothing for the product's own."""
        return [self.method, sha256_of(Path(methods.__file__))] if self.method else []

    def refuse_other_code(self) -> None:
        """Refuse to work with other code than that of the process that began.

        Raises:
            DataError: a file has changed since.
        """
        if self.code != (now := _hashes()):
            changed = ", ".join(kind for kind in now if now[kind] != self.code.get(kind))
            raise DataError(
                f"code of {changed}: got files that changed while it ran, expected the same; run again"
            )

    def own(self, params: Params, seed: int) -> Params:
        """Parameters of a rung for one seed, with the threads of this ladder."""
        training = {"seed": params.train.seed + seed, "threads_per_worker": self.threads}
        training |= {"num_workers": 1, "keep_checkpoints": 1, "keep_best": False, "preview_every": 0}
        return dataclasses.replace(
            params,
            ingest=dataclasses.replace(params.ingest, num_workers=self.threads),
            tokenizer=dataclasses.replace(params.tokenizer, threads=self.threads),
            train=dataclasses.replace(params.train, validate_every=0, **training),
            suite=dataclasses.replace(params.suite, threads=self.threads),
        )

    def with_scenes_for(self, params: Params) -> "LadderWork":
        """Return the same folders; simulated scenes that are shorter than the clips are drawn again."""
        frames = params.ingest.num_frames
        if frames <= CLIP_FRAMES:
            return self

        def make(folder: Path) -> dict[str, Any]:
            size_px = params.samples.simulated_size_px
            return {"scenes": draw_longer(self.raw, folder / "raw", frames, size_px)}

        scenes = [sha256_of(path) for path in sorted((self.raw / "simulated").glob("*.json"))]
        folder = self._made("raw", params, ("samples",), [str(self.raw), frames, *scenes], make)
        return dataclasses.replace(self, raw=folder / "raw")

    def ledger_of(self, params: Params) -> Path:
        """Ledger of the clips that sections `ingest` and `curate` keep."""
        sections = ("ingest", "curate")
        theirs = {name: fixed_keys(getattr(self.ledger_params, name)) for name in sections}
        if theirs == {name: fixed_keys(getattr(params, name)) for name in sections}:
            return self.ledger

        def make(folder: Path) -> dict[str, Any]:
            (folder / "takedowns.csv").write_text("video_sha256,video,reason,removed_at\n")
            ingest_videos(self.raw, folder / "candidates.parquet", params.ingest)
            paths = [folder / name for name in ("candidates.parquet", "takedowns.csv", "ledger.parquet")]
            return curate_clips(*paths, params.curate)

        return self._made("ledger", params, sections, [str(self.raw)], make) / "ledger.parquet"

    def tokenizer_of(self, params: Params) -> Path:
        """Folder of the tokenizer, in which it is `tokenizer`."""
        params = with_start_tokenizer(params)
        ledger = self.ledger_of(params)

        def make(folder: Path) -> dict[str, Any]:
            return train_from_ledger(self.raw, ledger, folder / "tokenizer", folder / "curve.csv", params)

        return self._made("tokenizer", params, ("ingest", "tokenizer"), [sha256_of(ledger)], make)

    def latents_of(self, params: Params) -> Path:
        """Folder of the latents, in which they are `latents`."""
        tokenizer, ledger = self.tokenizer_of(params), self.ledger_of(params)

        def make(folder: Path) -> dict[str, Any]:
            out = folder / "latents"
            return encode_clips(self.raw, ledger, tokenizer / "tokenizer", out, params, self._encode)

        basis = [tokenizer.name, sha256_of(ledger)]
        return self._made("latents", params, ("ingest", "text", "encode"), basis, make)

    def run_of(self, params: Params, budget: Budget) -> Path:
        """Folder of a training run, in which it is `run`."""
        latents = self.latents_of(params)
        starts = starts_of(params)
        name = params.train.start_from
        start = None if name is None else str(starts.get(str(name), name))
        own = dataclasses.replace(params.train, start_from=start)
        method = METHODS[self.method]
        method.refuse(params)
        basis = [latents.name, None if start is None else start_sha256(Path(start))]
        basis += self._method_basis if method.learns else []
        if budget.seconds is not None:
            own = with_seconds(own, self.paces_of(params), budget.seconds)
        elif budget.steps is not None:
            own = with_steps(own, budget.steps)
        params = dataclasses.replace(params, train=own)

        def make(folder: Path) -> dict[str, Any]:
            refuse_other_encoders(starts, self.tokenizer_of(params) / "tokenizer", params)
            data = read_splits(latents / "latents", params)
            device = choose_device(own.device, "resources.train.device")
            shape = shape_of(data.train, params)
            worker = Worker(device=device)
            with method.applied(), self._tracked(folder, params) as tracker:
                figures = train(shape, data, own, folder / "run", worker, tracker)
            steps = [stage.steps for stage in own.curriculum]
            weights = sum(weight.numel() for weight in shape.build().parameters())
            return {**figures, "weights": weights, "steps": sum(steps), "stages": steps}

        return self._made("run", params, ("text", "model", "train"), basis, make)

    def scores_of(self, params: Params, budget: Budget, keep_clips: bool) -> Path:
        """Folder of the scores of held-out clips, in which they are `scores.parquet`."""
        run = self.run_of(params, budget)

        def make(folder: Path) -> dict[str, Any]:
            weights = checkpoint.latest(run / "run")
            if weights is None:
                raise DataError(f"{run}: got no checkpoint, expected one; delete the folder and run again")
            with method.applied():
                return self._score(folder, weights, params, keep_clips)

        method = METHODS[self.method]
        basis = [run.name, *([] if method.learns else self._method_basis), *(["drift"] if self.drift else [])]
        return self._made("scores", params, _SCORED, basis, make)

    def scores_with(self, model: Path, params: Params, named: Path | None = None) -> Path:
        """Folder of the scores of held-out clips from a checkpoint that no rung has trained.

        `named` lists videos that it was trained on, see `read_held_out`.
        """

        def make(folder: Path) -> dict[str, Any]:
            return self._score(folder, model, params, keep_clips=False, named=named)

        basis = [checkpoint.weights_hash(model), self.latents_of(params).name]
        basis += [sha256_of(named)] if named else []
        return self._made("scores", params, _SCORED, basis, make)

    def _score(
        self, folder: Path, model: Path, params: Params, keep_clips: bool, named: Path | None = None
    ) -> dict[str, Any]:
        """Generate held-out clips in a folder and score them; return their means."""
        files = {"raw": self.raw, "ledger": self.ledger_of(params), "model": model, "named": named}
        files |= {"latents": self.latents_of(params) / "latents", "out": folder / "generated.parquet"}
        files |= {"tokenizer": self.tokenizer_of(params) / "tokenizer"}
        sampled = sample_held_out(SimpleNamespace(**files), params)
        paths = {name: folder / f"{name}.json" for name in ("details", "sampled")}
        paths |= {"plot": folder / "frames.csv", "out": folder / "scores.parquet"}
        figures = evaluate_clips(SimpleNamespace(generated=files["out"], **paths), params.suite)
        if self.drift:
            write_drift(files["out"], folder / DRIFT_FILE)
        if not keep_clips:
            (folder / "generated.parquet").unlink()
        return {**figures, "sampling_seconds": sampled["sampling_seconds"]}

    @contextlib.contextmanager
    def _tracked(self, folder: Path, params: Params) -> Iterator[Recorder | None]:
        """What records a training in MLflow: the same run after a restart."""
        if not self.tracked:
            yield None
            return
        sections, free = recorded(params)
        tags = {**free, "mlflow.runName": f"{folder.name} {self.method}".strip(), "benchmark": self.root.name}
        run = open_run(folder / RUN_FILE, sections, tags)
        try:
            yield Recorder(run, None)
        except BaseException:
            run.finish("FAILED")
            raise
        run.finish()

    def _encode(self, videos: Sequence[Video], tokenizer: Path, params: Params) -> Iterator[list[Encoded]]:
        """Encode videos on threads of this process, each with a tokenizer of its own."""

        def encode(video: Video) -> list[Encoded]:
            return ClipEncoder(str(tokenizer.resolve()), params.encode.dtype, params.encode.moments).encode(
                video
            )

        with ThreadPoolExecutor(self.threads) as pool:
            yield from pool.map(encode, videos)
        torch.set_num_threads(self.threads)

    def paces_of(self, params: Params) -> list[float]:
        """Seconds of a step in each stage of the curriculum, each measured once and then kept.

        Stages that compute the same share it, so that a side gets no more steps because something else ran
        while its pace was measured. Without a GPU the seconds are those of the processor for each thread:
        what runs beside the ladder makes it wait, but takes no steps from a rung.
        """
        latents, own = self.latents_of(params), params.train
        fixed = {"target_loss": None, "optimizer": "keep", "ema": "keep"}
        stages = [dataclasses.replace(stage, steps=_PROBE_STEPS, **fixed) for stage in own.curriculum]
        # A curriculum has to end with whole clips.
        end = dataclasses.replace(own.curriculum[-1], steps=1, **fixed)
        alike = {
            "seed": 0,
            "log_every": PROBE_EVERY,
            "spike_factor": 0.0,
            "start_from": None,
            "warmup_steps": 1,
        }
        return [
            self._pace_of(
                dataclasses.replace(params, train=dataclasses.replace(own, curriculum=(stage, end), **alike)),
                latents,
            )
            for stage in stages
        ]

    def _pace_of(self, params: Params, latents: Path) -> float:
        """Seconds of a step of one stage."""

        def make(folder: Path) -> dict[str, Any]:
            data = read_splits(latents / "latents", params)
            device = choose_device(params.train.device, "resources.train.device")
            clock = PaceClock(time.process_time if device.type == "cpu" else time.perf_counter)
            with tempfile.TemporaryDirectory(dir=folder) as out, METHODS[self.method].applied():
                shape, worker = shape_of(data.train, params), Worker(device=device)
                train(shape, data, params.train, Path(out) / "run", worker, clock)
            return {"pace": clock.seconds_a_step() / (self.threads if device.type == "cpu" else 1)}

        basis = [latents.name, *(self._method_basis if METHODS[self.method].learns else [])]
        folder = self._made("pace", params, ("text", "model", "train"), basis, make, "run")
        return float(facts_of(folder)["pace"])

    def _made(
        self,
        kind: str,
        params: Params,
        sections: Sequence[str],
        basis: Sequence[Any],
        make: Callable[[Path], dict[str, Any]],
        code: str = "",
    ) -> Path:
        made_from = {
            "sections": {name: fixed_keys(getattr(params, name)) for name in sections},
            "basis": list(basis),
            "code": self.code[code or kind],
        }
        text = json.dumps(made_from, sort_keys=True)
        folder = self.root / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        if (folder / _DONE).is_file():
            return folder
        # Another ladder may be making it, with other rungs in the same folder.
        with FileLock(folder.with_suffix(".lock")):
            if (folder / _DONE).is_file():
                return folder
            note(f"making {folder}")
            continued = folder.is_dir()
            folder.mkdir(exist_ok=True)
            write_json(folder / "made_from.json", made_from)
            began = time.monotonic()
            facts = make(folder)
            torch.set_num_threads(self.threads)
            # What a killed process spent before is not known.
            seconds = None if continued else round(time.monotonic() - began, 1)
            write_json(folder / _DONE, {**facts, "seconds": seconds})
        return folder


def _hashes() -> dict[str, list[str]]:
    return {kind: [code_hash(roots) for roots in each] for kind, each in _CODE.items()}


def note(text: str) -> None:
    """Say on stderr what goes on."""
    sys.stderr.write(f"{Path(sys.argv[0]).stem}: {text}\n")
    sys.stderr.flush()


def exit_code(work: Callable[[], None]) -> int:
    """Do the work of a command; on an error that its user can fix say one line on stderr, and return 1."""
    try:
        work()
    except VideomarError as error:
        note(str(error))
        return 1
    except OSError as error:
        note(f"{error.filename or 'a file'}: {error.strerror or error}; fix that and run again")
        return 1
    return 0


def facts_of(folder: Path) -> dict[str, Any]:
    """Figures and seconds of a finished folder."""
    return dict(json.loads((folder / _DONE).read_text("utf-8")))


def scores_in(folder: Path) -> pd.DataFrame:
    """One row for each clip and kind."""
    return pd.read_parquet(folder / "scores.parquet")
