"""What a change does to the pipeline's figures, parameters and curves, as Markdown for a pull request.

    python .github/metrics_report.py BASE > report.md

BASE is a revision of git; the folder's own files are compared with it. Needs only DVC: metrics, params and
plots are small files in git, so no remote is asked. Curves are drawn in Mermaid, which GitHub shows in
comments, where a picture would have to be uploaded somewhere first.
"""

import csv
import io
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

# Shown first, in this order; every other figure is folded away.
HEADLINES = (
    *("sim_psnr_gain_db", "sim_i2v_psnr_gain_db", "sim_prompt_margin_db", "real_psnr_gain_db"),
    *("real_i2v_psnr_gain_db", "real_motion_retained", "real_vgg", "val_loss", "sim_psnr_db", "real_psnr_db"),
)
MAX_LETTERS = 60_000  # GitHub refuses comments above 65,536
MAX_CHARTS, POINTS = 8, 40
Curve = list[tuple[float, float]]
_GREY, _BLUE = "#8c959f", "#0969da"


def report(base: str) -> str:
    """Return the whole report; parts that would exceed the size of a comment are left out and named."""
    (figures, unread), (params, _) = differences("metrics", base), differences("params", base)
    name = run("git", "rev-parse", "--short", base)[0].strip()
    parts = [f"## Metrics, compared with `{name}`", *unread, tables(figures)]
    parts += [*params_table(params), *charts(base)]
    kept, letters = [], 0
    for part in parts:
        letters += len(part) + 2
        kept.append(
            part if letters < MAX_LETTERS else "(left out: the report would be too long for a comment)"
        )
        if letters >= MAX_LETTERS:
            break
    return "\n\n".join(kept) + "\n"


def differences(kind: str, base: str) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return what `dvc metrics diff` or `dvc params diff` finds, by file and name; what could not be read."""
    # All figures, because an interval may stay while its figure moves.
    options = ["--json", *(["--all"] if kind == "metrics" else []), base]
    found, problems = run(sys.executable, "-m", "dvc", kind, "diff", *options)
    lines = [f"**DVC**: `{line.strip()}`" for line in problems.splitlines() if line.strip()]
    return json.loads(found.strip() or "{}"), lines


def tables(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a table of headlines and a folded one of the others; intervals stand beside their figure."""
    rows = {(file, name): values for file, names in figures.items() for name, values in names.items()}
    ends = {
        (file, f"{name}_{end}")
        for file, name in rows
        for end in ("low", "high")
        if (file, f"{name}_{end}") in rows
    }
    shown = [
        key for key, values in rows.items() if key not in ends and values.get("old") != values.get("new")
    ]
    first = sorted((key for key in shown if key[1] in HEADLINES), key=lambda key: HEADLINES.index(key[1]))
    rest = sorted(key for key in shown if key[1] not in HEADLINES)
    if not shown:
        return "No figure differs."
    parts = [f"{len(shown)} figures differ."]
    if first:
        parts.append(_table([_row(key, rows) for key in first]))
    if rest:
        folded = _table([_row(key, rows) for key in rest])
        parts.append(f"<details><summary>{len(rest)} other figures</summary>\n\n{folded}\n\n</details>")
    return "\n\n".join(parts)


def params_table(params: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a table of changed parameters, or nothing."""
    rows = [
        f"| `{name}` | {_number(values.get('old'))} | {_number(values.get('new'))} |"
        for names in params.values()
        for name, values in sorted(names.items())
    ]
    head = "### Parameters\n\n| parameter | before | after |\n|---|---|---|\n"
    return [head + "\n".join(rows)] if rows else []


def charts(base: str) -> list[str]:
    """Return a Mermaid chart of each curve of dvc.yaml's plots that differs from the base."""
    made: list[str] = []
    for path, entry in plots(Path("dvc.yaml")):
        before = curves(run("git", "show", f"{base}:./{path}", check=False)[0], entry["x"], entry["y"])
        now = Path(path).read_text(encoding="utf-8") if Path(path).is_file() else ""
        after = curves(now, entry["x"], entry["y"])
        made += [
            chart(" ".join([entry.get("title", path), *group]), entry, before.get(group, []), after[group])
            for group in after
            if after[group] != before.get(group)
        ]
    more = [f"({len(made) - MAX_CHARTS} further curves differ)"] if len(made) > MAX_CHARTS else []
    head = ["### Curves\n\nGrey: before. Blue: after."] if made else []
    return [*head, *made[:MAX_CHARTS], *more]


def plots(pipeline: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the path and options of each plot of the pipeline that is a table with columns x and y."""
    stages = YAML(typ="safe").load(pipeline.read_text(encoding="utf-8"))["stages"]
    for entry in (entry for stage in stages.values() for entry in stage.get("plots", [])):
        for path, options in entry.items() if isinstance(entry, dict) else ():
            if path.endswith(".csv") and {"x", "y"} <= set(options):
                yield path, options


def curves(text: str, x: str, y: str) -> dict[tuple[str, ...], Curve]:
    """Return the points of each curve of a table, by the words in its other columns; none without numbers."""
    rows = list(csv.DictReader(io.StringIO(text)))
    words = [name for name in rows[0] if not all(_is_number(row[name]) for row in rows)] if rows else []
    found: dict[tuple[str, ...], Curve] = defaultdict(list)
    if rows and {x, y} <= set(rows[0]) - set(words):
        for row in rows:
            if row[x] and row[y]:
                found[tuple(row[name] for name in words)].append((float(row[x]), float(row[y])))
    return {group: sorted(points) for group, points in found.items()}


def chart(title: str, entry: Mapping[str, str], before: Curve, after: Curve) -> str:
    """Return a chart of one or two curves on a common axis."""
    steps = {x for x, _ in before + after}
    low, high = min(steps), max(steps)
    colours = {_GREY: before, _BLUE: after}
    shown = {colour: thinned(curve, low, high, len(steps)) for colour, curve in colours.items() if curve}
    palette = json.dumps({"themeVariables": {"xyChart": {"plotColorPalette": ", ".join(shown)}}})
    drawn = "\n".join(f"    line [{', '.join(f'{y:.6g}' for y in line)}]" for line in shown.values())
    axes = f'    x-axis "{entry["x"]}" {low:g} --> {high:g}\n    y-axis "{entry["y"]}"'
    return f'```mermaid\n%%{{init: {palette}}}%%\nxychart-beta\n    title "{title}"\n{axes}\n{drawn}\n```'


def thinned(curve: Curve, low: float, high: float, num_steps: int) -> list[float]:
    """Return the mean of each of at most POINTS equal parts of the axis; an empty one repeats the last."""
    count = min(POINTS, num_steps)
    parts: list[list[float]] = [[] for _ in range(count)]
    for x, y in curve:
        parts[min(count - 1, int((x - low) / ((high - low) or 1.0) * count))].append(y)
    line: list[float] = []
    for part in parts:
        line.append(sum(part) / len(part) if part else line[-1] if line else curve[0][1])
    return line


def run(*command: str, check: bool = True) -> tuple[str, str]:
    """Return what a command prints to stdout and stderr; without `check`, nothing if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and check:
        sys.exit(f"{' '.join(command)}: got {done.stderr.strip()}, expected success")
    return ("", "") if done.returncode else (done.stdout, done.stderr)


def _table(rows: Sequence[str]) -> str:
    return "| figure | before | after | change |\n|---|---|---|---|\n" + "\n".join(rows)


def _row(key: tuple[str, str], rows: Mapping[tuple[str, str], Mapping[str, Any]]) -> str:
    file, name = key
    ends = [rows.get((file, f"{name}_{end}"), {}) for end in ("low", "high")]
    before, after = (_number(rows[key].get(when)) + _interval(ends, when) for when in ("old", "new"))
    change = rows[key].get("diff")
    sign = "" if change is None else f"{change:+.4g}"
    return f"| `{Path(file).stem}` {name} | {before} | {after} | {sign} |"


def _interval(ends: Sequence[Mapping[str, Any]], when: str) -> str:
    low, high = (end.get(when) for end in ends)
    return "" if low is None or high is None else f" ({_number(low)} to {_number(high)})"


def _number(value: object) -> str:
    return f"{value:.5g}" if isinstance(value, float) else "" if value is None else f"`{value}`"


def _is_number(text: str) -> bool:
    try:
        float(text or "0")
    except ValueError:
        return False
    return True


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python .github/metrics_report.py BASE")
    sys.stdout.write(report(sys.argv[1]))
