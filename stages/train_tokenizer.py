"""Stage `train_tokenizer`: the video autoencoder, trained on the train split, or a pretrained one."""

from collections.abc import Sequence

from stages.stage import Stage
from videomar.encoders.train_tokenizer import train_from_ledger
from videomar.hub.start import with_start_tokenizer
from videomar.provenance.made_with import named_folders


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the tokenizer; paths come from dvc.yaml."""
    with Stage("train_tokenizer", arguments, "raw", "ledger", "out", "plot") as stage:
        path, params = stage.path, with_start_tokenizer(stage.params)
        # The ledger contains the hash of every video in `raw`.
        inputs = {"ledger": path.ledger, **named_folders(pretrained=params.tokenizer.pretrained)}
        if not stage.is_done(inputs, ["ingest", "tokenizer"], ["out", "plot"], device="tokenizer"):
            stage.metrics = train_from_ledger(path.raw, path.ledger, path.out, path.plot, params)


if __name__ == "__main__":
    main()
