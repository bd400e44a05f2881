"""Evaluation mode for a block, and everything as it was afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from unisd.modes import evaluation_mode


def test_dropout_is_off_inside_and_a_module_the_user_froze_stays_frozen() -> None:
    model = nn.Sequential(nn.Dropout(0.9), nn.Sequential(nn.Dropout(0.9)), nn.Dropout(0.9))
    model.train()
    model[1].eval()
    before = [module.training for module in model.modules()]
    with evaluation_mode(model):
        assert torch.equal(model(torch.ones(100)), torch.ones(100))
    with pytest.raises(RuntimeError, match="inside"), evaluation_mode(model):
        raise RuntimeError("inside")
    assert [module.training for module in model.modules()] == before == [True, True, False, False, True]
