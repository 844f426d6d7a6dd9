"""The clips that a run is trained on, and the shape of the network that fits them."""

import logging
from typing import Any, NamedTuple

from videomar.checkpoint.manifest import ModelShape
from videomar.config import Params
from videomar.latents.dataset import LatentDataset
from videomar.latents.keys import expected_metadata
from videomar.latents.shards import open_latents
from videomar.storage import Location

_log = logging.getLogger(__name__)


class Splits(NamedTuple):
    """Training clips, and held-out ones for validation; None if there are none."""

    train: LatentDataset
    val: LatentDataset | None = None


def read_splits(latents: Location, params: Params) -> Splits:
    """Return the clips of a latent cache that was made with these parameters.

    Raises:
        DataError: the cache was made with other parameters, is missing or damaged, or has no training clip.
    """
    facts = expected_metadata(params)
    val = val_split(params, latents, facts) if params.train.validate_every else None
    return Splits(LatentDataset(latents, "train", params.text.max_tokens, facts), val)


def val_split(params: Params, latents: Location, facts: dict[str, Any]) -> LatentDataset | None:
    """Return the held-out clips, or None if the cache has none, as with a user's few clips."""
    if all(row["split"] != "val" for shard in open_latents(latents) for row in shard.rows):
        _log.warning("%s: no clip in split val: this run has no validation loss", latents)
        return None
    return LatentDataset(latents, "val", params.text.max_tokens, facts)


def shape_of(dataset: LatentDataset, params: Params) -> ModelShape:
    """Return the shape of the network: section `model`, with the channels of the cache."""
    return ModelShape(params.model, dataset.latent_channels, dataset.text_channels, params.text.max_tokens)
