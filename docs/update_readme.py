"""Write the figures and pictures of the last run into README.md and docs/images: `make readme`."""

import argparse
import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from videomar.evaluation.generated import ClipKinds, read_generated, repeat_last
from videomar.report.baseline_table import baseline_markdown
from videomar.report.galleries import gain_over_repeat, pick_examples

ROOT = Path(__file__).parent.parent
ROWS = [
    ("simulated: continued from 2 latent frames, above repeating the last", "evaluate", "sim_psnr_gain_db"),
    ("the same model untrained", "evaluate", "sim_psnr_gain_untrained_db"),
    ("simulated: from one picture and the prompt, above repeating it", "evaluate", "sim_i2v_psnr_gain_db"),
    ("right prompt above a wrong one", "evaluate", "sim_prompt_margin_db"),
    ("real: continued from 2 latent frames, above repeating the last", "evaluate", "real_psnr_gain_db"),
    ("real: from one picture and the prompt, above repeating it", "evaluate", "real_i2v_psnr_gain_db"),
    ("tokenizer on simulated clips (PSNR)", "train_tokenizer", "sim_psnr_db"),
    ("tokenizer on real clips (PSNR)", "train_tokenizer", "real_psnr_db"),
]
_REAL_WORDS = """*Held-out real clips of shots that were never trained on, each from one picture: {}. The bar is grey
for given frames. Enlarged four times by bicubic interpolation, all columns alike: it invents no detail, and every
square that is left is the model's or the tokenizer's own.*
"""  # noqa: E501
# Clips of the moving picture: the first ones by id of each group, so that nobody picks the best.
_SIMULATED, _REAL = 4, 2
_SIDE, _GAP, _LABEL = 128, 8, 96
_TEXT_SIZE, _BAR, _QUALITY = 13, 4, 80
_GIVEN, _GENERATED = "#8b8f97", "#2a6fdb"  # as in the report
_LABELS = {"truth": "held-out\nclip", "image": "model, from\nfirst picture\nand prompt"}


def figures_table(metrics: Path) -> str:
    """Return the results of a run as a Markdown table, read from its metrics files."""
    files = {path.stem: json.loads(path.read_text("utf-8")) for path in metrics.glob("*.json")}
    lines = ["| held-out figure | dB |", "|---|---|"]
    lines += [
        f"| {name} | {_figure(files[stage], key)} |" for name, stage, key in ROWS if key in files[stage]
    ]
    minutes = sum(stage["seconds"] for stage in files.values()) / 60
    memory = max(stage["peak_memory_gb"] for stage in files.values())
    cost = f"All stages together: {minutes:.0f} minutes, at most {memory:.1f} GB in one stage."
    judged = files["evaluate"]
    if "real_shots" in judged:
        counts = f"{judged['real_clips']:.0f} clips of {judged['real_shots']:.0f} shots"
        cost = f"Real figures are of {counts}, with the 95 % interval over shots. {cost}"
    return "\n".join([*lines, "", cost, "", *_between_baselines(judged)])


def _between_baselines(judged: Mapping[str, float]) -> list[str]:
    """The table of real clips that puts the model between its baselines and its ceilings."""
    table = baseline_markdown(judged)
    meaning = (
        "Real clips against repeating the last given picture, which is the bar to pass; the last rows are the"
        " most that is possible. In brackets, the 95 % interval over shots."
    )
    return [meaning, "", *table] if table else []


def _figure(metrics: Mapping[str, float], key: str) -> str:
    """A figure, with its interval if it has one."""
    if f"{key}_low" not in metrics:
        return f"{metrics[key]:.1f}"
    return f"{metrics[key]:.1f} ({metrics[f'{key}_low']:.1f} to {metrics[f'{key}_high']:.1f})"


def write_animation(clips: Sequence[ClipKinds], out: Path) -> None:
    """Write a moving picture: one column per clip, the truth above what the model makes of it."""
    rows = [
        # All of the truth is given: none of it was generated.
        Row(label, [(kinds[kind].frames, kinds[kind].context_frames or 10**6) for kinds in clips])
        for kind, label in _LABELS.items()
    ]
    words = ["\n".join(textwrap.wrap(kinds["image"].prompt or "(no caption)", 18)[:4]) for kinds in clips]
    _write_moving(rows, words, clips[0]["truth"].fps, out, below=True)


def write_ranked(clips: Sequence[ClipKinds], kind: str, out: Path) -> str:
    """Write the best, the median and the worst clip by gain over repeating, beside truth and baselines.

    Args:
        clips: held-out clips of one group.
        kind: of the model's clips, `image` or `continuation`.
        out: the file.

    Returns:
        What is shown, in words: the gains and the number of clips.
    """
    by_id = {kinds["truth"].clip_id: kinds for kinds in clips if kind in kinds}
    gains = {clip_id: gain_over_repeat(kinds, kind) for clip_id, kinds in by_id.items()}
    chosen = pick_examples(gains, each=1)
    # The ceiling is what the tokenizer, with carry where there is any, leaves of the truth.
    carried = {"image": "image_tokenizer_carry", "continuation": "tokenizer_carry"}[kind]
    ceiling = carried if all(carried in by_id[clip_id] for _, clip_id in chosen) else "tokenizer"
    rows, words = [], []
    for rank, clip_id in chosen:
        kinds = by_id[clip_id]
        truth, given = kinds["truth"].frames, kinds[kind].context_frames
        shown = [kinds[kind].frames, repeat_last(truth, given), kinds[ceiling].frames]
        gain = f"{gains[clip_id]:+.1f} dB"
        rows.append(Row(f"{rank}\n{gain}", [(truth, len(truth)), *((frames, given) for frames in shown)]))
        words.append(f"{rank} {gain}".replace("-", "\N{MINUS SIGN}"))
    fps = by_id[chosen[0][1]]["truth"].fps
    _write_moving(rows, ["held-out clip", "model", "repeat last", "ceiling:\ntokenizer"], fps, out)
    return f"{', '.join(words)}, of {len(by_id)}"


class Row(NamedTuple):
    """A row of a moving picture."""

    label: str
    clips: Sequence[tuple[NDArray[np.uint8], int]]
    """Frames (F, H, W, 3), and how many of them were given."""


def _write_moving(
    rows: Sequence[Row], words: Sequence[str], fps: float, out: Path, below: bool = False
) -> None:
    """Write rows of clips that play in step, in a loop that rests on its last frame; WebP.

    Enlarged by bicubic interpolation, all alike. It invents no detail and leaves no edges of pixels, so that
    every square that is left is the model's or the tokenizer's own.

    Args:
        rows: clips of equally many frames.
        words: of each column.
        fps: frames per second.
        out: the file.
        below: whether the words stand below the columns.
    """
    font = ImageFont.load_default(_TEXT_SIZE)
    step, lines = _SIDE + _GAP, max(text.count("\n") + 1 for text in words)
    height = lines * (_TEXT_SIZE + 4) + 4
    top = 0 if below else height
    size = (_LABEL + len(words) * step - _GAP, len(rows) * (step + _BAR) + height)
    pages = []
    for index in range(len(rows[0].clips[0][0])):
        page = Image.new("RGB", size, "white")
        draw = ImageDraw.Draw(page)
        for column, text in enumerate(words):
            above = len(rows) * (step + _BAR) if below else 0
            draw.multiline_text((_LABEL + column * step, above), text, "black", font)
        for number, row in enumerate(rows):
            y = top + number * (step + _BAR)
            draw.multiline_text((0, y + _SIDE // 3), row.label, "black", font)
            for column, (frames, given) in enumerate(row.clips):
                x, count = _LABEL + column * step, len(frames)
                frame = Image.fromarray(frames[index]).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
                page.paste(frame, (x, y))
                done, share = _SIDE * (index + 1) // count, _SIDE * given // count
                draw.rectangle((x, y + _SIDE + 2, x + done - 1, y + _SIDE + 1 + _BAR), _GENERATED)
                draw.rectangle((x, y + _SIDE + 2, x + min(done, share) - 1, y + _SIDE + 1 + _BAR), _GIVEN)
        pages.append(page)
    duration_ms = round(1000 / fps)
    durations = [duration_ms] * (len(pages) - 1) + [8 * duration_ms]
    saved = {"duration": durations, "loop": 0, "quality": _QUALITY, "method": 4}
    pages[0].save(out, save_all=True, append_images=pages[1:], **saved)


def write_pictures(generated: Path, images: Path) -> str:
    """Write all pictures of generated clips; return the words for that of real clips, empty without any."""
    clips = read_generated(generated)
    simulated = [kinds for kinds in clips if kinds["truth"].group == "simulated"]
    real = [kinds for kinds in clips if kinds["truth"].group == "real"]
    write_animation([*simulated[:_SIMULATED], *real[:_REAL]], images / "clips.webp")
    if not real:
        return ""
    write_ranked(real, "continuation", images / "real_continued.webp")
    return write_ranked(real, "image", images / "real.webp")


def main(arguments: Sequence[str] | None = None) -> None:
    """Rewrite the marked blocks of README.md and the pictures of generated clips."""
    parser = argparse.ArgumentParser(description=str(__doc__))
    parser.add_argument("--run", type=Path, default=ROOT, help="pipeline folder of a finished run")
    parser.add_argument("--images", type=Path, help="write the pictures there, and leave README.md as it is")
    chosen = parser.parse_args(arguments)
    words = write_pictures(chosen.run / "data/generated.parquet", chosen.images or ROOT / "docs/images")
    if chosen.images is not None:
        return
    readme = ROOT / "README.md"
    blocks = {"figures": figures_table(chosen.run / "metrics"), "real": _REAL_WORDS.format(words)}
    text = readme.read_text("utf-8")
    for name, block in blocks.items():
        text = re.sub(
            rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)",
            lambda match, block=block: match[1] + block + match[2],
            text,
            flags=re.DOTALL,
        )
    readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
