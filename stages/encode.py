"""Stage `encode`: encode kept clips and their captions into the latent cache."""

from collections.abc import Sequence

from stages.stage import Stage
from videomar.latents.encode import encode_clips


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the latents; paths come from dvc.yaml."""
    with Stage("encode", arguments, "raw", "ledger", "tokenizer", "out") as stage:
        path = stage.path
        stage.metrics = encode_clips(path.raw, path.ledger, path.tokenizer, path.out, stage.params)


if __name__ == "__main__":
    main()
