"""Stage `train`: the curriculum on Ray Train, once or in several runs side by side."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from stages.stage import Stage
from videomar.files import LOG_FILE
from videomar.hub.start import refuse_other_encoders, starts_of, weights_of
from videomar.latents.shards import contents_hash
from videomar.provenance.checkout import made_from
from videomar.sampling.previews import Previews
from videomar.storage import absolute
from videomar.training.launch import RunSpec
from videomar.training.sweep import runs_folder, train_runs
from videomar.training.sweep_runs import CURVES_FILE, TABLE_FILE


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the stage; paths come from dvc.yaml."""
    with Stage("train", arguments, "latents", "tokenizer", "out", "plot", "runs", "curves") as stage:
        path, params = stage.path, stage.params
        outputs = ["out", "plot", "runs", "curves"]
        starts = starts_of(params)
        inputs = {"latents": contents_hash(path.latents), **weights_of(starts)}
        if stage.is_done(inputs, ["text", "model", "train"], outputs):
            return
        refuse_other_encoders(starts, path.tokenizer, params)
        # Previews are only for people to look at, so their parameters are no reason to train again.
        previews = Previews(
            latents=absolute(path.latents),
            tokenizer=path.tokenizer.resolve(),
            max_text_tokens=params.text.max_tokens,
            sampling=params.sample,
            fps=params.ingest.fps,
        )
        tokenizer, tags = path.tokenizer.resolve(), made_from(Path.cwd())
        spec = RunSpec(
            absolute(path.latents), path.out.resolve(), params, tags, tokenizer, previews.write, starts
        )
        stage.metrics = train_runs(spec)
        path.plot.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path.out / LOG_FILE, path.plot)
        shutil.copyfile(runs_folder(path.out) / TABLE_FILE, path.runs)
        shutil.copyfile(runs_folder(path.out) / CURVES_FILE, path.curves)


if __name__ == "__main__":
    main()
