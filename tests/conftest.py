"""Small parameters and fixtures that several tests share."""

import dataclasses
import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from videomar.compute.seeding import step_generator
from videomar.config import CurriculumStage, ModelParams, Params, load_params
from videomar.config.models import CONDITIONS
from videomar.model.videomar import VideoMAR

if importlib.util.find_spec("cv2"):  # a bare GPU machine has no libraries for videos, and tests the model
    from tests.support.videos import clip_shape, copied, curate_params, ingest_params, videos

    __all__ = ["clip_shape", "copied", "curate_params", "ingest_params", "videos"]
ROOT = Path(__file__).parent.parent
# One thread as with `make test`, here and in child processes: sums round differently with more, and two test
# processes with two threads each are slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
_THREADS = int(os.environ["OMP_NUM_THREADS"])
# No test uses the store of the user's shell.
os.environ.pop("MLFLOW_TRACKING_URI", None)
# Environment of child processes. Importing `flows` sets PREFECT_HOME for the whole test process, so this copy
# is taken first: a child in a folder of its own must not use the Prefect database of the repository.
ENVIRONMENT_AT_START = dict(os.environ)


def small_params() -> Params:
    """The shipped parameters, with a network and a curriculum that take a second."""
    shipped = load_params(ROOT / "params.yaml")
    return dataclasses.replace(
        shipped,
        model=dataclasses.replace(
            shipped.model,
            hidden_size=32,
            depth=2,
            num_heads=2,
            rope_axis_dims=(8, 4, 4),
            head_width=32,
            head_depth=1,
        ),
        train=dataclasses.replace(
            shipped.train,
            curriculum=(
                CurriculumStage(num_latent_frames=2, steps=6, batch_size=4),
                CurriculumStage(num_latent_frames=0, steps=6, batch_size=4),
            ),
            warmup_steps=2,
            real_cond_drop_prob=None,
            log_every=2,
            checkpoint_every=4,
            num_workers=1,
            threads_per_worker=1,
        ),
        tokenizer=dataclasses.replace(shipped.tokenizer, channels=4, hidden_size=8, depth=1, threads=1),
        encode=dataclasses.replace(shipped.encode, views=0),
    )


@pytest.fixture(scope="session")
def params() -> Params:
    """See `small_params`."""
    return small_params()


def lively(network: VideoMAR) -> VideoMAR:
    """The network with its zero-initialised layers drawn too, so that nothing is trivially zero."""
    generator = step_generator(1, 0)
    with torch.no_grad():
        for weight in network.parameters():
            if not weight.any():
                weight.normal_(0, 0.2, generator=generator)
        for buffer in network.buffers():  # the deviation of a residual
            buffer.uniform_(0.5, 1.5, generator=generator)
    return network.eval()


def lively_model(params: ModelParams) -> VideoMAR:
    """A network without trivial zeros, for 4 latent channels and captions of 5 tokens and 6 channels."""
    return lively(VideoMAR(params, 4, 6, 5).initialise(step_generator(0, -1)))


@pytest.fixture(autouse=True)
def environment_as_at_the_start() -> Iterator[None]:
    """What a test sets ends with it: MLflow itself sets MLFLOW_TRACKING_URI, for child processes."""
    with patch.dict(os.environ):
        yield


@pytest.fixture(autouse=True)
def threads_as_at_the_start() -> None:
    """The same number of threads of torch for each test, whatever a test before has set: they move bits."""
    torch.set_num_threads(_THREADS)


@pytest.fixture
def measured(record_property: Callable[[str, object], None]) -> Callable[[str, float, float], None]:
    """Demands that an error is below its bound; both go into docs/evidence/proofs.md (`make proofs`)."""

    def demand(what: str, error: float | torch.Tensor, bound: float) -> None:
        record_property("measured", [what, float(error), bound])
        assert error <= bound

    return demand


@pytest.fixture
def model(params: Params) -> VideoMAR:
    """See `lively_model`."""
    return lively_model(params.model)


@pytest.fixture
def conditioned_model(params: Params) -> VideoMAR:
    """A lively network that can be told everything there is."""
    return lively_model(dataclasses.replace(params.model, conditions=CONDITIONS))


@pytest.fixture
def captions() -> tuple[torch.Tensor, torch.Tensor]:
    """States (3, 5, 6) and mask (3, 5) of three captions; the last is empty."""
    generator = step_generator(2, 0)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]]).bool()
    return torch.randn(3, 5, 6, generator=generator), mask
