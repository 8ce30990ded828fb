"""What is done to a network to make it fast leaves its results as they are."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn

from models import precision
from models.precision import ConvolutionReLU6, prepare


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """An EfficientNet-Lite with random weights and statistics."""
    torch.manual_seed(0)
    made: nn.Module = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()
    for part in made.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(std=0.1)  # type: ignore[union-attr]
            part.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    return made


@pytest.mark.parametrize("size", [(64, 64), (65, 65), (62, 97)])
def test_prepared_network_gives_the_same(
    network: nn.Module, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "FAST_TYPE", torch.float32)
    pixels = torch.randn(2, 3, *size)
    fast = prepare(copy.deepcopy(network))
    assert any(isinstance(part, ConvolutionReLU6) for part in fast.modules())
    assert not any(isinstance(part, nn.BatchNorm2d | nn.ReLU6) for part in fast.modules())
    with torch.inference_mode():
        torch.testing.assert_close(fast(pixels), network(pixels), rtol=1e-4, atol=1e-5)
