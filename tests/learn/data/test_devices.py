"""The device that `--device` names."""

import pytest
import torch

from learn.data.devices import chosen
from store.errors import ConfigError


def test_auto_is_a_gpu_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert chosen("auto") == chosen("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert chosen("auto") == chosen("cuda") == torch.device("cuda", 1)
    assert chosen("cuda:0") == torch.device("cuda", 0)
    with pytest.raises(ConfigError, match="2 CUDA devices"):
        chosen("cuda:2")


@pytest.mark.parametrize(("name", "says"), [("cuda", "no GPU"), ("abacus", "auto, cpu, cuda"),
                                            ("meta", "auto, cpu, cuda")])  # fmt: skip
def test_what_is_not_there_is_refused(name, says, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=says):
        chosen(name)
