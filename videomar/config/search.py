"""Several training runs and the parameters that each overrides. Keys `train.runs` and `train.search`."""

import itertools
import math
import random
import re
from collections.abc import Mapping
from dataclasses import field
from typing import Any

from videomar.config.section import require, section

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
SECTIONS = ("train", "model")


@section("train.runs")
class Variant:
    """One run. An entry of `train.runs`: keys that it lacks are as in sections `train` and `model`."""

    name: str
    """Names its folder and its run in MLflow: letters, digits, `.`, `_`, `-`."""
    train: dict[str, Any] = field(default_factory=dict)
    """Keys of section `train` that it overrides."""
    model: dict[str, Any] = field(default_factory=dict)
    """The same of section `model`."""

    def __post_init__(self) -> None:
        rule = "letters, digits, `.`, `_`, `-`"
        require(_NAME.fullmatch(self.name) is not None, "train.runs.name", repr(self.name), rule)

    @property
    def overrides(self) -> dict[str, Any]:
        """Its overrides by dotted key."""
        return {f"{part}.{key}": value for part in SECTIONS for key, value in getattr(self, part).items()}


@section("train.search")
class Range:
    """Numbers from `low` to `high`; whole ones where both ends are written without a point."""

    low: int | float
    high: int | float
    log: bool = False
    """Draw the logarithm evenly, as for a learning rate."""

    def __post_init__(self) -> None:
        require(self.low < self.high, "train.search", f"low {self.low}", f"below high {self.high}")
        require(self.low > 0 or not self.log, "train.search", f"low {self.low} with log", "above 0")

    def draw(self, source: random.Random) -> int | float:
        """Draw a number from the range."""
        if self.log:
            drawn = math.exp(source.uniform(math.log(self.low), math.log(self.high)))
        else:
            drawn = source.uniform(self.low, self.high)
        whole = isinstance(self.low, int) and isinstance(self.high, int)
        return round(drawn) if whole else float(f"{drawn:.6g}")


@section("train.search")
class SearchSpace:
    """Key `train.search`: for each key of `train` and `model` the values to try, or a range to draw from."""

    train: dict[str, tuple[Any, ...] | Range] = field(default_factory=dict)
    model: dict[str, tuple[Any, ...] | Range] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key, choice in self.choices.items():
            require(choice != (), f"train.search.{'.'.join(key)}", "no value", "a list, or low and high")

    @property
    def choices(self) -> dict[tuple[str, str], tuple[Any, ...] | Range]:
        """By section and key."""
        return {(part, key): choice for part in SECTIONS for key, choice in getattr(self, part).items()}

    def variants(self, num_samples: int, seed: int) -> list[Variant]:
        """Every combination of the listed values, or `num_samples` random draws if a range is among them."""
        keys, choices = list(self.choices), list(self.choices.values())
        if not keys:
            return []
        if any(isinstance(choice, Range) for choice in choices):
            source = random.Random(seed)
            points: list[tuple[Any, ...]] = [
                tuple(c.draw(source) if isinstance(c, Range) else source.choice(c) for c in choices)
                for _ in range(num_samples)
            ]
        else:
            points = list(itertools.product(*(c for c in choices if not isinstance(c, Range))))
        return [_variant(number, dict(zip(keys, point, strict=True))) for number, point in enumerate(points)]


def _variant(number: int, values: Mapping[tuple[str, str], Any]) -> Variant:
    own = {part: {key: value for (at, key), value in values.items() if at == part} for part in SECTIONS}
    return Variant(name=f"search_{number:03d}", train=own["train"], model=own["model"])
