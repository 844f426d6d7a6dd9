"""Put the figures of the last run into README.md, and a picture of its clips into docs/: `make readme`."""

import json
import re
from pathlib import Path

import numpy as np
from PIL import Image

from videomar.evaluation.generated import read_generated, repeat_last

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
_CLIPS, _SCALE = 4, 3


def figures_table(metrics: Path) -> str:
    """The results of a run as a Markdown table, from its metrics files."""
    files = {path.stem: json.loads(path.read_text("utf-8")) for path in metrics.glob("*.json")}
    lines = ["| held-out figure | dB |", "|---|---|"]
    lines += [f"| {name} | {files[stage][key]:.1f} |" for name, stage, key in ROWS if key in files[stage]]
    minutes = sum(stage["seconds"] for stage in files.values()) / 60
    memory = max(stage["peak_memory_gb"] for stage in files.values())
    cost = f"All stages together: {minutes:.0f} minutes, at most {memory:.1f} GB in one stage."
    return "\n".join([*lines, "", cost, ""])


def write_picture(generated: Path, out: Path) -> None:
    """Rows of truth, model and repeated first picture for a few simulated clips, every other frame."""
    clips = [kinds for kinds in read_generated(generated) if kinds["truth"].group == "simulated"][:_CLIPS]
    rows = []
    for kinds in clips:
        truth = kinds["truth"].frames
        for frames in (truth, kinds["image"].frames, repeat_last(truth, 1)):
            rows.append(np.concatenate(list(frames[::2]), axis=1))
        rows.append(np.full((4, rows[-1].shape[1], 3), 255, np.uint8))
    sheet = Image.fromarray(np.concatenate(rows[:-1]))
    sheet.resize((sheet.width * _SCALE, sheet.height * _SCALE), Image.Resampling.NEAREST).save(out)


def main() -> None:
    """Rewrite the marked block of README.md and docs/images/sample.png."""
    readme = ROOT / "README.md"
    table = figures_table(ROOT / "metrics")
    readme.write_text(
        _BLOCK.sub(lambda match: match[1] + table + match[2], readme.read_text("utf-8")), encoding="utf-8"
    )
    write_picture(ROOT / "data" / "generated.parquet", ROOT / "docs/images/sample.png")


if __name__ == "__main__":
    main()
