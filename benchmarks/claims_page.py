"""docs/claims.md and its pictures, from stored figures of `benchmarks.claims`."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videomar.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURES = "images"
"""Folder beside the page."""
_HEAD = """# Which claims hold?

The ideas of [VideoMAR](https://arxiv.org/abs/2506.14168), and ours, each tested against its alternative:
the same clips, the same seconds of training, {seeds} trainings each, the same held-out clips. A figure is how
much better the first side is, paired by clip and seed. Its 95 % interval is over whole shots and over
trainings, of which there are few, so it is wide. **Holds** = the interval is above 0 for some clips that
decide, and below 0 for none; **does not hold** = the other way round; **differs by clips** = both;
**too close to call** = every interval contains 0. A statement has up to four intervals, so one that lies just
beside 0 may be chance.

Decibels are those of PSNR, over repeating the last given picture; they favour a blur over a sharp guess, so
VGG distance and motion stand beside them. Models are small ({weights} weights) and trained for {budget} each
on {device}, a fraction of the default run: what holds here need not at another size, and what needs long
training does not show. `python -m benchmarks.claims --data . {options}` repeats this (every
training is a run in MLflow, and a benchmark that was killed continues). Measured at commit {commit} on
{date}, load {load}, {machine}.
"""
_KINDS = {
    "continuation": "continued",
    "image": "from a picture",
    "image_long33": "33 frames",
    "image_long65": "65 frames",
    "image_large48": "48 px",
    "image_large64": "64 px",
    "image_large32": "twice as wide",
}
_UNITS = {"gain_db": "dB", "bodies_lost": "share of bodies kept"}
_SIDE_COLUMNS = {
    "simulated, continued": "simulated continuation gain_db",
    "simulated, from a picture": "simulated image gain_db",
    "real, continued": "real continuation gain_db",
    "real, from a picture": "real image gain_db",
    "real, VGG distance": "real continuation vgg",
    "real, motion kept": "real continuation motion_retained",
    "65 frames": "simulated image_long65 gain_db",
    "bodies lost": "simulated image_long65 bodies_lost",
    "jumps": "simulated image_long65 jumps",
}
_COSTS = {"steps": "steps", "weights": "weights", "sampling the suite, s": "sampling_s"}


def write_page(result: Mapping[str, Any], page: Path) -> None:
    """Write the page and the pictures that it shows."""
    folder = page.parent / PICTURES
    folder.mkdir(parents=True, exist_ok=True)
    for claim in filter(_has_intervals, result["figures"]["claims"]):
        _draw(claim, folder / picture_name(claim))
    with atomic_write(page) as draft:
        draft.write_text(page_of(result), encoding="utf-8")


def _has_intervals(claim: Mapping[str, Any]) -> bool:
    return any(statement["lead"] for statement in claim["statements"])


def picture_name(claim: Mapping[str, Any]) -> str:
    """Name of the picture of a claim."""
    return f"claims_{claim['name'].replace(' ', '_').replace('-', '_')}.webp"


def page_of(result: Mapping[str, Any]) -> str:
    """Return the page in Markdown."""
    figures = result["figures"]
    seconds, steps = figures["seconds"], figures["steps"]
    budget = f"{steps} steps" if steps else f"{seconds:g} s"
    length = f"--steps {steps}" if steps else f"--seconds {seconds:g}"
    weights = [side["weights"] for claim in figures["claims"] for side in claim["sides"].values()]
    one_core = figures["device"] == "cpu" and figures["threads"] == 1
    head, dirty, _ = result["commit"].partition("-dirty")
    lines = [
        _HEAD.format(
            seeds=figures["seeds"],
            budget=budget,
            weights=f"{max(weights) / 1e6:.1f} M",
            device="one core" if one_core else f"{figures['threads']} threads and {figures['device']}",
            options=f"--seeds {figures['seeds_planned']} {length}",
            commit=head[:8] + dirty,
            date=result["date"],
            load=", ".join(f"{value:.1f}" for value in result["load"]),
            machine=f"{result['cores']} cores of {result['machine']}",
        ),
        "| statement | verdict |",
        "|---|---|",
        *(
            f"| {statement['says']} | **{statement['verdict']}** |"
            for claim in figures["claims"]
            for statement in claim["statements"]
        ),
    ]
    for claim in figures["claims"]:
        lines += ["", *_section(claim)]
    if figures["times"]:
        lines += ["", *_times(figures["times"])]
    return "\n".join(lines) + "\n"


def _section(claim: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {claim['name'].capitalize()}"
    yield ""
    longer = claim["longer"]
    yield claim["about"] + (f" Each side trains for {longer:g} times the seconds." if longer != 1 else "")
    yield ""
    if _has_intervals(claim):
        yield f"![{claim['name']}: intervals of the differences]({PICTURES}/{picture_name(claim)})"
        yield ""
    yield "| statement | how much better | verdict |"
    yield "|---|---|---|"
    for statement in claim["statements"]:
        leads = "<br>".join(_lead(name, each) for name, each in statement["lead"].items())
        yield f"| {statement['says']} | {leads} | {statement['verdict']} |"
    yield ""
    yield from _sides(claim["sides"])


def _times(rows: Sequence[Mapping[str, float]]) -> Iterator[str]:
    """What a cache saves, by length and reveals."""
    yield "## Time"
    yield ""
    yield (
        "One clip of the shipped model in processor seconds of one core, with the cache of finished frames "
        "and without, where every pass computes all frames so far: the same clip to rounding. Longer clips "
        "are in the [benchmarks](evidence/benchmarks.md)."
    )
    yield ""
    yield "| latent frames | reveals | cached | without | times |"
    yield "|---|---|---|---|---|"
    for row in rows:
        cached, uncached = row["cached_s"], row["uncached_s"]
        place = f"{row['latent_frames']} | {row['reveals']}"
        yield f"| {place} | {cached:.2f} s | {uncached:.2f} s | {uncached / cached:.1f} |"


def _sides(sides: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """A row for each side: means over clips and seeds, and costs."""
    shown = [
        (head, name)
        for head, name in _SIDE_COLUMNS.items()
        if any(name in side["figures"] for side in sides.values())
    ]
    diverse = all(side["diversity"]["simulated"] is not None for side in sides.values())
    heads = [*(head for head, _ in shown), *(["diversity"] if diverse else []), *_COSTS]
    yield f"| side | {' | '.join(heads)} |"
    yield "|---" * (len(heads) + 1) + "|"
    for name, side in sides.items():
        cells = [_value(side["figures"].get(key), key) for _, key in shown]
        cells += [f"{side['diversity']['simulated']:.3f}"] if diverse else []
        cells += [f"{side[key]:,}" for key in _COSTS.values()]
        yield f"| {name} | {' | '.join(cells)} |"


def _value(figure: Mapping[str, Any] | None, key: str) -> str:
    if figure is None:
        return ""
    return f"{figure['value']:+.2f} dB" if key.endswith("gain_db") else f"{figure['value']:.2f}"


def _lead(name: str, figure: Mapping[str, Any]) -> str:
    value, low, high = (figure[key] for key in ("value", "low", "high"))
    clips = f"{figure['n']} clips of {figure['shots']} shots" if figure["shots"] else f"{figure['n']} clips"
    return f"{place_words(name)} {value:+.2f} ({low:+.2f} to {high:+.2f}; {clips})"


def place_words(name: str) -> str:
    """Words for `GROUP KIND METRIC`; fewer lost bodies are better, so their figure counts those kept."""
    group, kind, metric = name.split()
    return f"{group}, {_KINDS.get(kind, kind)}, {_UNITS.get(metric, metric)}"


def _draw(claim: Mapping[str, Any], path: Path) -> None:
    """Intervals of all statements by unit; beside them long clips frame by frame, where they are followed."""
    from matplotlib.figure import Figure

    bars = [
        (number, statement["says"], name, figure)
        for number, statement in enumerate(claim["statements"])
        for name, figure in statement["lead"].items()
    ]
    units = list(dict.fromkeys(name.split()[2] for _, _, name, _ in bars))
    drift = {name: rows for name, rows in claim["drift"].items() if rows}
    rows = max(sum(name.endswith(unit) for _, _, name, _ in bars) for unit in units)
    panels = len(units) + bool(drift)
    picture = Figure(figsize=(3.0 + 4.0 * panels, 1.2 + 0.32 * max(rows, 8)), layout="constrained")
    axes = picture.subplots(1, panels, squeeze=False)[0]
    for place, unit in zip(axes, units, strict=False):
        _draw_intervals(place, [bar for bar in bars if bar[2].endswith(unit)])
        place.set_xlabel(f"how much better, {_UNITS.get(unit, unit)}, with 95 % interval")
    if drift:
        _draw_drift(axes[-1], drift)
    picture.savefig(path, dpi=80)


def _draw_intervals(axes: "Axes", bars: Sequence[tuple[int, str, str, Mapping[str, float]]]) -> None:
    labels = []
    for row, (number, says, name, figure) in enumerate(bars):
        ends = [[figure["value"] - figure["low"]], [figure["high"] - figure["value"]]]
        axes.errorbar(figure["value"], row, xerr=ends, fmt="o", capsize=3, color=f"C{number}")
        is_first = row == 0 or bars[row - 1][0] != number
        labels.append(f"{says if is_first else ''}\n{place_words(name)}")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(bars)), labels, fontsize=7)
    axes.invert_yaxis()


def _draw_drift(axes: "Axes", drift: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    lost = axes.twinx()
    for number, (name, points) in enumerate(drift.items()):
        frames = [point["frames"] for point in points]
        axes.plot(frames, [point["gain_db"] for point in points], color=f"C{number}", label=name)
        lost.plot(frames, [1 - point["lost"] for point in points], color=f"C{number}", linestyle=":")
    axes.set(xlabel="frame", ylabel="dB over repeating the picture (lines)")
    lost.set(ylabel="share of bodies still there (dotted)", ylim=(0, 1.02))
    axes.legend(fontsize=7)
