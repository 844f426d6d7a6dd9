"""The sections of params.yaml as frozen dataclasses, and the layout of a pipeline folder."""

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
