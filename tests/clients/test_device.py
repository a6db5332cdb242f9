"""The site's own file decides where it computes."""

import pytest
import torch

from clients.device import device_description, torch_device
from secfed.errors import ConfigError


def test_auto_takes_cuda_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert torch_device("auto").type == "cuda"
    assert torch_device("cpu").type == "cpu"


def test_without_cuda_auto_is_the_cpu_and_cuda_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert torch_device("auto").type == "cpu"
    assert device_description(torch_device("auto")) == "cpu"
    with pytest.raises(ConfigError, match="no CUDA device"):
        torch_device("cuda")
