"""Stage `list_clips`: list files outside the repository, so that other stages can depend on them."""

from collections.abc import Sequence
from pathlib import Path

from stages.stage import Stage
from videomar.config import Params
from videomar.config.layout import Layout
from videomar.config.params import names_of_starts
from videomar.curation.retries import retry_entry
from videomar.encoders.check_folders import check_folders
from videomar.sources.listing import write_listing, write_named


def main(arguments: Sequence[str] | None = None) -> None:
    """List the folder `samples.source` and the functions and networks that parameters name.

    Folders of weights that a later stage could not load are refused here, before anything is decoded.
    """
    with Stage("list_clips", arguments, "raw", "out", "named", metrics=False) as stage:
        check_folders(stage.params)
        _check_tokenizer(stage.params)
        write_listing(Path(stage.params.samples.source), stage.path.raw, stage.path.out)
        write_named(stage.params, stage.path.named, _starts(stage.params))


def _check_tokenizer(params: Params) -> None:
    """Refuse a pretrained tokenizer that clips do not fit: here, because decoding them takes hours."""
    if params.tokenizer.pretrained is None:
        return
    from videomar.encoders.pretrained import check_pretrained  # here, as below

    check_pretrained(params, Layout().local / "pretrained.json")


def _starts(params: Params) -> dict[str, dict[str, dict[str, str]]]:
    """What stages depend on because of weights to start from, or of files that failed."""
    failed = retry_entry(Layout().candidates)
    if not names_of_starts(params):
        return failed
    from videomar.hub.start import named_starts, refuse_misfits, starts_of  # here: that takes seconds

    refuse_misfits(params, starts_of(params))
    return {**named_starts(params), **failed}


if __name__ == "__main__":
    main()
