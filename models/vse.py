"""VSE++ (Faghri, Fleet, Kiros, Fidler, BMVC 2018): a CNN and a GRU that map pictures and captions into one space.

The towers are the paper's; `training/vse.py` trains them. The weights in ``weights/vse`` are the default, a checkpoint
of the authors takes their place when VSE_CHECKPOINT and VSE_VOCAB are set.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence

from models import ModelError
from models.preprocessing import Preprocessing

# torchvision, timm and NLTK are imported where they are used: each costs seconds, and no tower needs them all.

EMBEDDED = Path(__file__).resolve().parent / "weights" / "vse"
EMBEDDED_FILES = ("config.json", "image.safetensors", "text.safetensors", "vocabulary.json")
AUTHORS_PREPROCESSING = Preprocessing(
    size=224, resize=256, interpolation="bilinear", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)
AUTHORS_CNNS = ("vgg19", "resnet152")
IMAGE_BATCH = 16  # the fastest of 1, 8, 16 and 64: a batch's activations still fit the cache
TEXT_BATCH = 256

Weights = Mapping[str, Tensor]


class ImageTower(nn.Module):
    """CNN, L2 norm, linear layer, L2 norm.

    Args:
        cnn: maps pixels ``[n, 3, height, width]`` to features ``[n, features]``.
        features: how many numbers the CNN gives.
        dimension: of the common space.
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, cnn: nn.Module, *, features: int, dimension: int) -> None:
        super().__init__()
        self.cnn = cnn
        self.fc = nn.Linear(features, dimension)
        # Features that are all positive point one way, and training collapses: they are standardised before the norm.
        self.register_buffer("centre", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised pixels ``[n, 3, height, width]``, in the CNN's own type, to unit vectors ``[n, dimension]``."""
        return self.project(self.cnn(pixels).float())

    def project(self, features: Tensor) -> Tensor:
        """The CNN's features ``[n, features]`` to unit vectors ``[n, dimension]``."""
        return F.normalize(self.fc(F.normalize((features - self.centre) * self.scale, dim=1)), dim=1)


class TextTower(nn.Module):
    """Word vectors, one-layer GRU, last state, L2 norm."""

    def __init__(self, *, words: int, word_dimension: int, dimension: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, word_dimension)
        self.rnn = nn.GRU(word_dimension, dimension, batch_first=True)

    def forward(self, captions: Sequence[Sequence[int]]) -> Tensor:
        """The numbers of each caption's words, at least one a caption, to unit vectors ``[n, dimension]``."""
        lengths = torch.tensor([len(caption) for caption in captions])
        words = pad_sequence([torch.tensor(caption) for caption in captions], batch_first=True)
        packed = pack_padded_sequence(self.embed(words), lengths, batch_first=True, enforce_sorted=False)
        return F.normalize(self.rnn(packed)[1][0].float(), dim=1)


def make_cnn(name: str) -> nn.Module:
    """A CNN without its classifier, weights not set: ``vgg19``, ``resnet152`` or one of timm's names."""
    if name not in AUTHORS_CNNS:
        import timm

        return cast(nn.Module, timm.create_model(name, num_classes=0))
    import torchvision

    cnn: nn.Module = torchvision.models.get_model(name, weights=None)
    if name == "vgg19":
        cnn.classifier = cast(nn.Sequential, cnn.classifier)[:-1]
    else:
        cnn.fc = nn.Identity()
    return cnn


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """Multiply each batch norm into the convolution before it, in place; only an activation of timm's stays of it."""
    for parent in network.modules():
        previous, convolution = "", None
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d) and convolution is not None:
                setattr(parent, previous, fuse_conv_bn_eval(convolution, child))
                setattr(parent, name, getattr(child, "act", nn.Identity()))
            previous, convolution = name, child if isinstance(child, nn.Conv2d) else None
    return network


def normalise(pixels: np.ndarray, preprocessing: Preprocessing) -> Tensor:
    """uint8 ``[n, height, width, 3]`` to float32 ``[n, 3, height, width]``, channels last in memory."""
    mean, std = torch.tensor(preprocessing.mean), torch.tensor(preprocessing.std)
    scaled = torch.from_numpy(pixels).float().sub_(mean * 255).div_(std * 255)
    return scaled.permute(0, 3, 1, 2)


def fast_type() -> torch.dtype:
    """bfloat16 where the processor multiplies it in hardware (twice as fast there, cosine over 0.999), else float32."""
    return torch.bfloat16 if torch.cpu.get_capabilities().get("avx512_bf16") else torch.float32


def prepare_cnn(cnn: nn.Module) -> nn.Module:
    """Make a trained CNN ready for fast inference, in place."""
    return fold_batch_norm(cnn.eval()).to(dtype=fast_type(), memory_format=torch.channels_last)


def build_image_tower(cnn: str, weights: Weights) -> ImageTower:
    """The image tower that fits the weights, ready for inference.

    Raises:
        KeyError, RuntimeError: they do not fit.
    """
    dimension, features = weights["fc.weight"].shape
    with torch.device("meta"):  # nothing is set at random only to be overwritten
        tower = ImageTower(make_cnn(cnn), features=features, dimension=dimension)
    _assign(tower, {"centre": torch.zeros(features), "scale": torch.ones(features), **weights})
    prepare_cnn(tower.cnn)
    return tower.eval()


def build_text_tower(weights: Weights) -> TextTower:
    """The text tower that fits the weights, ready for inference.

    Raises:
        KeyError, RuntimeError: they do not fit.
    """
    words, word_dimension = weights["embed.weight"].shape
    with torch.device("meta"):
        tower = TextTower(words=words, word_dimension=word_dimension, dimension=weights["rnn.weight_hh_l0"].shape[1])
    _assign(tower, weights)
    tower.rnn.flatten_parameters()
    return tower.eval()


def _assign(tower: nn.Module, weights: Weights) -> None:
    """Set all weights of a tower; old files lack the counters of batch norm, which inference does not need."""
    counters = {name: torch.tensor(0) for name in tower.state_dict() if name.endswith("num_batches_tracked")}
    floats = {name: tensor.float() for name, tensor in weights.items() if name not in counters}
    tower.load_state_dict(counters | floats, assign=True)


@dataclass(frozen=True)
class _Source:
    """Where the weights are, read as far as is needed to tell which they are."""

    cnn: str
    dimension: int
    preprocessing: Preprocessing
    files: tuple[Path, ...]
    vocabulary: Path
    image: Any  # each of the two gives its tower's weights when called
    text: Any


class VseModel:
    """VSE++ ready to encode; see `models.Model`. Made by `load`."""

    name = "vse"

    def __init__(self, source: _Source) -> None:
        self.dimension, self.preprocessing = source.dimension, source.preprocessing
        self.fingerprint = f"vse {source.cnn} {self.dimension}-d {self.preprocessing} {_hash(source.files)}"
        self._image: ImageTower | None = None
        self._text: TextTower | None = None

    @classmethod
    def load(cls, *, image: bool = True, text: bool = True) -> VseModel:
        """Load the towers that are asked for.

        Raises:
            ModelError: a file is absent, is not what it should be, or only one of the two variables is set.
        """
        source = _find()
        model = cls(source)
        if image:
            model._image = _fit(source.files, partial(_load_image, source))
        if text:
            model._load_text(source)
        return model
