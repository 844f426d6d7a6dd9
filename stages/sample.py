"""Stage `sample`: generate held-out clips with the trained and the untrained model."""

from collections.abc import Sequence

from stages.stage import Stage
from videomar.checkpoint import weights_hash
from videomar.latents.shards import contents_hash
from videomar.sampling.held_out import seen_input
from videomar.sampling.sample import sample_held_out


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the generated clips; paths come from dvc.yaml."""
    with Stage(
        "sample", arguments, "raw", "ledger", "latents", "model", "tokenizer", "named", "out"
    ) as stage:
        path = stage.path
        # The ledger contains the hash of every video in `raw`.
        inputs = {
            "ledger": path.ledger,
            "latents": contents_hash(path.latents),
            "model": weights_hash(path.model),
            "tokenizer": path.tokenizer,
            **seen_input(path.named),
        }
        if not stage.is_done(inputs, ["ingest", "text", "sample", "suite"], device="suite"):
            stage.metrics = sample_held_out(path, stage.params)


if __name__ == "__main__":
    main()
