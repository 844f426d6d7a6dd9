"""Stage `list_clips`: what files outside of the repository hold, as files that other stages depend on."""

from collections.abc import Sequence
from pathlib import Path

from videomar.data.captioner import find_source
from videomar.data.listing import write_listing, write_named
from videomar.made_with import named_folders
from videomar.stage import Stage


def main(arguments: Sequence[str] | None = None) -> None:
    """List the folder of `samples.source`, and what else parameters name: functions, networks."""
    with Stage("list_clips", arguments, "raw", "out", "named", metrics=False) as stage:
        params = stage.params
        write_listing(Path(params.samples.source), stage.path.raw, stage.path.out)
        source = None if params.ingest.captioner is None else find_source(params.ingest.captioner)
        named = {
            "ingest": {**named_folders(**params.ingest.scorers), **({"captioner": source} if source else {})},
            "train_tokenizer": named_folders(pretrained=params.tokenizer.pretrained),
            "encode": named_folders(encoder=params.text.encoder),
            "evaluate": named_folders(extractor=params.suite.extractor),
        }
        write_named({name: paths.values() for name, paths in named.items()}, stage.path.named)


if __name__ == "__main__":
    main()
