"""The sections of params.yaml as frozen dataclasses, and the layout of a pipeline folder.

Sections are imported when first used: most commands need only the layout, and classes take time to make.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from videomar.config.data import CurateParams, IngestParams, SamplesParams
    from videomar.config.evaluation import GateParams, SampleParams, SuiteParams
    from videomar.config.models import EncodeParams, ModelParams, TextParams, TokenizerParams
    from videomar.config.params import GenerationParams, load_generation_params, load_own_params, load_params
    from videomar.config.schema import Params
    from videomar.config.search import SearchSpace, Variant
    from videomar.config.training import CurriculumStage, TrainParams

__all__ = [
    "CurateParams",
    "CurriculumStage",
    "EncodeParams",
    "GateParams",
    "GenerationParams",
    "IngestParams",
    "ModelParams",
    "Params",
    "SampleParams",
    "SamplesParams",
    "SearchSpace",
    "SuiteParams",
    "TextParams",
    "TokenizerParams",
    "TrainParams",
    "Variant",
    "load_generation_params",
    "load_own_params",
    "load_params",
]
_HOMES = {
    "data": ("CurateParams", "IngestParams", "SamplesParams"),
    "evaluation": ("GateParams", "SampleParams", "SuiteParams"),
    "models": ("EncodeParams", "ModelParams", "TextParams", "TokenizerParams"),
    "params": ("GenerationParams", "load_generation_params", "load_own_params", "load_params"),
    "schema": ("Params",),
    "search": ("SearchSpace", "Variant"),
    "training": ("CurriculumStage", "TrainParams"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    """Import a public name."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'videomar.config' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"videomar.config.{_HOME_OF[name]}"), name)
    return value
