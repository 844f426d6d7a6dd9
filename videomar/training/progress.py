"""What a user sees of a run: a bar on a terminal, a few lines elsewhere. Both follow the run's log."""

import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from tqdm import tqdm

from videomar.config import TrainParams
from videomar.files import LOG_FILE, read_log
from videomar.training.curriculum import max_steps

_POLL_S = 1.0
_LINE_EVERY_SHARE = 0.1


class Display:
    """Context in which a run is shown. The workers write the log elsewhere, which is why it is read here."""

    def __init__(self, out: Path, params: TrainParams) -> None:
        self.out, self.params = out, params
        self._ended = threading.Event()
        self._before = self._written()  # what is there now may be another run's

    def __enter__(self) -> None:
        show = self._bar if sys.stderr.isatty() else self._lines
        self._thread = threading.Thread(target=show, daemon=True)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _bar(self) -> None:
        bar = None
        for row in self._rows():
            # A resumed run begins where it is: what was done before is not this run's speed.
            bar = bar or tqdm(total=max_steps(self.params), initial=int(row["step"]), unit="step")
            bar.set_description(f"training, stage {row['stage'] + 1:.0f} of {len(self.params.curriculum)}")
            bar.set_postfix(figures(row))
            bar.update(int(row["step"]) - bar.n)
        if bar:
            bar.close()

    def _lines(self) -> None:
        first = said = None
        start = time.monotonic()
        for row in self._rows():
            first = first or row
            if is_due(row, said, self.params):
                said = row
                rate = (row["step"] - first["step"]) / (time.monotonic() - start)
                tqdm.write(line(row, self.params, rate), file=sys.stderr)

    def _rows(self) -> Iterator[dict[str, float]]:
        """The newest row of the log, each time that it has changed."""
        while True:
            over = self._ended.wait(_POLL_S)
            if self._written() != self._before:
                self._before = self._written()
                yield from read_log(self.out)[-1:]  # none where the folder was another run's and is set aside
            if over:
                return

    def _written(self) -> int:
        path = self.out / LOG_FILE
        return path.stat().st_mtime_ns if path.is_file() else 0


def figures(row: Mapping[str, float]) -> dict[str, str]:
    """The losses of a row of the log."""
    return {name: f"{row[name]:.3f}" for name in ("loss", "val_loss") if name in row}


def is_due(row: Mapping[str, float], said: Mapping[str, float] | None, params: TrainParams) -> bool:
    """Whether a row is worth a line: the first of a stage, every tenth of the run, the last."""
    if said is None or row["stage"] != said["stage"] or row["step"] == max_steps(params):
        return True
    return row["step"] - said["step"] >= _LINE_EVERY_SHARE * max_steps(params)


def line(row: Mapping[str, float], params: TrainParams, steps_per_s: float) -> str:
    """A row in words; rate and time left where the rate is known."""
    words = [
        f"training: stage {row['stage'] + 1:.0f} of {len(params.curriculum)}",
        f"step {row['step']:.0f} of {max_steps(params)}",
        *(f"{name} {value}" for name, value in figures(row).items()),
    ]
    if steps_per_s > 0:
        minutes = (max_steps(params) - row["step"]) / steps_per_s / 60
        words += [f"{steps_per_s:.1f} steps/s", f"{minutes:.0f} min left"]
    return ", ".join(words)
