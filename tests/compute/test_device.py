"""The device rule, and the number formats of products."""

import pytest
import torch

from tests.support.fake_cuda import FakeCuda
from videomar.compute.device import autocast, choose_device, full_float32
from videomar.errors import ParamsError

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="says what holds without a GPU")


@pytest.fixture(autouse=True)
def formats_as_before():
    switches = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [switch.allow_tf32 for switch in switches]
    yield
    for switch, allowed in zip(switches, before, strict=True):
        switch.allow_tf32 = allowed


def test_gpu_is_chosen_where_there_is_one():
    assert [choose_device(wanted).type for wanted in ("auto", "cpu")] == ["cpu", "cpu"]
    with pytest.raises(ParamsError, match="resources.sample.device: got cuda, expected a GPU"):
        choose_device("cuda", "resources.sample.device")
    with FakeCuda():
        assert [choose_device(wanted).type for wanted in ("auto", "cpu", "cuda")] == ["cuda", "cpu", "cuda"]


def test_products_of_float32_are_tf32_on_a_chosen_gpu_but_where_ways_are_compared():
    matmul = torch.backends.cuda.matmul
    matmul.allow_tf32 = False
    choose_device("auto")
    assert not matmul.allow_tf32
    with FakeCuda():
        choose_device("auto")
    assert matmul.allow_tf32
    with full_float32():
        assert not matmul.allow_tf32
    assert matmul.allow_tf32


def test_products_are_bfloat16_on_hardware_that_has_it(monkeypatch):
    with autocast(torch.device("cpu")):
        assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype == torch.float32
    with FakeCuda():
        x = torch.ones(2, 2, device="cuda")
        with autocast(x.device):
            assert torch.mm(x, x).dtype == torch.bfloat16
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
        with autocast(x.device):
            assert torch.mm(x, x).dtype == torch.float32
