"""Write the figures and pictures of the last run into README.md and docs/images: `make readme`."""

import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from videomar.evaluation.generated import ClipKinds, read_generated, repeat_last

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
_BLOCK = re.compile(r"(<!-- figures -->\n).*?(<!-- /figures -->)", re.DOTALL)
# Clips of the moving picture: the first ones by id of each group, so that nobody picks the best.
_SIMULATED, _REAL = 4, 2
_SHEET_CLIPS, _SHEET_SCALE = 4, 3
_SIDE, _GAP, _LABEL = 128, 8, 96
_CAPTION_HEIGHT, _TEXT_SIZE = 72, 13
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
    return "\n".join([*lines, "", cost, ""])


def _figure(metrics: Mapping[str, float], key: str) -> str:
    """A figure, with its interval if it has one."""
    if f"{key}_low" not in metrics:
        return f"{metrics[key]:.1f}"
    return f"{metrics[key]:.1f} ({metrics[f'{key}_low']:.1f} to {metrics[f'{key}_high']:.1f})"


def write_sheet(clips: Sequence[ClipKinds], out: Path) -> None:
    """Write a still of a few simulated clips: truth, model, first picture repeated; every other frame."""
    rows = []
    for kinds in clips[:_SHEET_CLIPS]:
        truth = kinds["truth"].frames
        for frames in (truth, kinds["image"].frames, repeat_last(truth, 1)):
            rows.append(np.concatenate(list(frames[::2]), axis=1))
        rows.append(np.full((4, rows[-1].shape[1], 3), 255, np.uint8))
    sheet = Image.fromarray(np.concatenate(rows[:-1]))
    scale = _SHEET_SCALE
    sheet.resize((sheet.width * scale, sheet.height * scale), Image.Resampling.NEAREST).save(out)


def write_animation(clips: Sequence[ClipKinds], out: Path) -> None:
    """Write a GIF: one column per clip, the truth above what the model makes of its first picture."""
    font = ImageFont.load_default(_TEXT_SIZE)
    size = (_LABEL + len(clips) * (_SIDE + _GAP), 2 * (_SIDE + _GAP) + _CAPTION_HEIGHT)
    pages = []
    for index in range(len(clips[0]["truth"].frames)):
        page = Image.new("RGB", size, "white")
        draw = ImageDraw.Draw(page)
        for row, (kind, label) in enumerate(_LABELS.items()):
            top = row * (_SIDE + _GAP)
            draw.multiline_text((0, top + _SIDE // 3), label, "black", font)
            for column, kinds in enumerate(clips):
                frame = Image.fromarray(kinds[kind].frames[index])
                place = (_LABEL + column * (_SIDE + _GAP), top)
                page.paste(frame.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC), place)
        for column, kinds in enumerate(clips):
            words = "\n".join(textwrap.wrap(kinds["image"].prompt or "(no caption)", 18)[:4])
            draw.multiline_text((_LABEL + column * (_SIDE + _GAP), 2 * (_SIDE + _GAP)), words, "black", font)
        pages.append(page.quantize(128, dither=Image.Dither.NONE))
    duration_ms = round(1000 / clips[0]["truth"].fps)
    durations = [duration_ms] * (len(pages) - 1) + [8 * duration_ms]
    pages[0].save(out, save_all=True, append_images=pages[1:], duration=durations, loop=0, optimize=True)


def main() -> None:
    """Rewrite the marked block of README.md and the pictures of generated clips."""
    readme = ROOT / "README.md"
    table = figures_table(ROOT / "metrics")
    readme.write_text(
        _BLOCK.sub(lambda match: match[1] + table + match[2], readme.read_text("utf-8")), encoding="utf-8"
    )
    clips = read_generated(ROOT / "data" / "generated.parquet")
    simulated = [kinds for kinds in clips if kinds["truth"].group == "simulated"]
    real = [kinds for kinds in clips if kinds["truth"].group == "real"]
    write_sheet(simulated, ROOT / "docs/images/sample.png")
    write_animation([*simulated[:_SIMULATED], *real[:_REAL]], ROOT / "docs/images/clips.gif")


if __name__ == "__main__":
    main()
