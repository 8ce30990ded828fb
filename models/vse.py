"""VSE++ (Faghri, Fleet, Kiros, Fidler, BMVC 2018): a CNN and a GRU that map pictures and captions into one space.

The towers are the paper's; `training/vse.py` trains them. The weights in ``weights/vse`` are the default, a checkpoint
of the authors takes their place when VSE_CHECKPOINT and VSE_VOCAB are set.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence

from models import EMBEDDED, ModelError
from models.errors import one_line
from models.hashing import file_hash
from models.precision import prepare
from models.preprocessing import Preprocessing
from models.vocabulary import Vocabulary

# torchvision and timm are imported where they are used: each costs seconds, and the text tower needs neither.

OWN_WEIGHTS = EMBEDDED / "vse"
OWN_FILES = ("config.json", "image.safetensors", "text.safetensors", "vocabulary.json")
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
        """Normalised pixels ``[n, 3, height, width]`` to unit vectors ``[n, dimension]``."""
        return F.normalize(self.fc(self.standardise(self.cnn(pixels).float())), dim=1)

    def standardise(self, features: Tensor) -> Tensor:
        """The CNN's features ``[n, features]`` to unit vectors of as many numbers."""
        return F.normalize((features - self.centre) * self.scale, dim=1)


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

        return timm.create_model(name, num_classes=0)
    import torchvision

    cnn: nn.Module = torchvision.models.get_model(name, weights=None)
    if name == "vgg19":
        cnn.classifier = cast(nn.Sequential, cnn.classifier)[:-1]
    else:
        cnn.fc = nn.Identity()
    return cnn


def normalise(pixels: np.ndarray, preprocessing: Preprocessing) -> Tensor:
    """uint8 ``[n, height, width, 3]`` to float32 ``[n, 3, height, width]``, channels last in memory."""
    mean, std = torch.tensor(preprocessing.mean), torch.tensor(preprocessing.std)
    scaled = torch.tensor(pixels, dtype=torch.float32).sub_(mean * 255).div_(std * 255)
    return scaled.permute(0, 3, 1, 2)


def build_image_tower(cnn: str, weights: Weights) -> ImageTower:
    """The image tower that fits the weights, ready for inference.

    Raises:
        KeyError, RuntimeError: they do not fit.
    """
    dimension, features = weights["fc.weight"].shape
    with torch.device("meta"):  # nothing is set at random only to be overwritten
        tower = ImageTower(make_cnn(cnn), features=features, dimension=dimension)
    _assign(tower, {"centre": torch.zeros(features), "scale": torch.ones(features), **weights})
    prepare(tower.cnn)
    return tower.eval()


def build_text_tower(weights: Weights, *, words: int) -> TextTower:
    """The text tower that fits the weights and a vocabulary of so many words, ready for inference.

    Raises:
        KeyError, RuntimeError: they do not fit.
    """
    word_dimension = weights["embed.weight"].shape[1]
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


class VseModel:
    """VSE++ ready to encode; see `models.Model`. Made by `load`."""

    name = "vse"

    def __init__(self, source: _Source, *, image: bool, text: bool) -> None:
        self.dimension, self.preprocessing = source.dimension, source.preprocessing
        with _blamed(source.files[0]):
            digest = file_hash(*source.files)[:12]
        self.fingerprint = f"vse {source.cnn} {self.dimension}-d {self.preprocessing} {digest}"
        self._image = source.image_tower() if image else None
        self._text = source.text_tower() if text else None

    @classmethod
    def load(cls, *, image: bool = True, text: bool = True) -> VseModel:
        """Load the towers that are asked for.

        Raises:
            ModelError: a file is absent or does not fit, or only one of the two variables is set.
        """
        checkpoint, vocabulary = os.environ.get("VSE_CHECKPOINT"), os.environ.get("VSE_VOCAB")
        if checkpoint and vocabulary:
            source = _authors_source(Path(checkpoint), Path(vocabulary))
        elif checkpoint or vocabulary:
            raise ModelError("VSE_CHECKPOINT and VSE_VOCAB belong together: set both, or neither")
        else:
            source = _own_source(OWN_WEIGHTS)
        return cls(source, image=image, text=text)

    @classmethod
    def load_own(cls, folder: Path) -> VseModel:
        """Load both towers from a folder that `training/vse.py` has written."""
        return cls(_own_source(folder), image=True, text=True)

    @torch.inference_mode()
    def encode_images(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 ``[n, size, size, 3]`` (RGB) to float32 ``[n, dimension]`` of unit length."""
        if self._image is None:
            raise ModelError("the image tower of vse is not loaded: load it with image=True")
        batches = (
            self._image(normalise(pixels[start : start + IMAGE_BATCH], self.preprocessing))
            for start in range(0, len(pixels), IMAGE_BATCH)
        )
        return _stack(batches, self.dimension)

    @torch.inference_mode()
    def encode_texts(self, texts: list[str]) -> np.ndarray:
        """Any texts to float32 ``[n, dimension]`` of unit length; what follows 2,000 characters is cut off."""
        if self._text is None:
            raise ModelError("the text tower of vse is not loaded: load it with text=True")
        tower, vocabulary = self._text
        captions = [vocabulary.encode(text) for text in texts]
        batches = (tower(captions[start : start + TEXT_BATCH]) for start in range(0, len(captions), TEXT_BATCH))
        return _stack(batches, self.dimension)


def _stack(batches: Iterable[Tensor], dimension: int) -> np.ndarray:
    return np.concatenate([np.empty((0, dimension), np.float32), *(batch.numpy() for batch in batches)])


@dataclass(frozen=True)
class _Source:
    """The weights of one VSE++; a tower's are only read when they are asked for."""

    cnn: str
    dimension: int
    preprocessing: Preprocessing
    files: Sequence[Path]
    image_tower: Callable[[], ImageTower]
    text_tower: Callable[[], tuple[TextTower, Vocabulary]]


def _own_source(folder: Path) -> _Source:
    """The weights that `training/vse.py` has written."""
    config_file, image_file, text_file, vocabulary_file = files = [folder / name for name in OWN_FILES]
    with _blamed(config_file):
        config = json.loads(config_file.read_text(encoding="utf-8"))
        cnn, dimension = config["cnn"], config["dimension"]
        lists = config["preprocessing"]
        preprocessing = Preprocessing(**lists | {name: tuple(lists[name]) for name in ("mean", "std")})

    def image_tower() -> ImageTower:
        with _blamed(image_file):
            return build_image_tower(cnn, load_file(image_file))

    def text_tower() -> tuple[TextTower, Vocabulary]:
        vocabulary = Vocabulary.read(vocabulary_file)
        with _blamed(text_file):
            return build_text_tower(load_file(text_file), words=len(vocabulary)), vocabulary

    return _Source(cnn, dimension, preprocessing, files, image_tower, text_tower)


def _authors_source(checkpoint: Path, vocabulary_file: Path) -> _Source:
    """A checkpoint of the authors: ``opt``, a Namespace, and ``model``, the weights of the image and the text tower."""
    with _blamed(checkpoint):
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(checkpoint, map_location="cpu", weights_only=True)
        options = vars(content["opt"])
        image, text = (_current_names(weights) for weights in content["model"])
        cnn = options.get("cnn_type") or _guess_cnn(image)
        _check_options(cnn, options, image)
        dimension = len(image["fc.weight"])

    def image_tower() -> ImageTower:
        with _blamed(checkpoint):
            return build_image_tower(cnn, image)

    def text_tower() -> tuple[TextTower, Vocabulary]:
        vocabulary = Vocabulary.read(vocabulary_file)
        with _blamed(checkpoint):
            return build_text_tower(text, words=len(vocabulary)), vocabulary

    files = (checkpoint, vocabulary_file)
    return _Source(cnn, dimension, AUTHORS_PREPROCESSING, files, image_tower, text_tower)


def _current_names(weights: Weights) -> dict[str, Tensor]:
    """Without DataParallel's ``module.``, and with the places that torchvision gives VGG's linear layers today."""
    names = {name: name.replace("module.", "") for name in weights}
    if "cnn.classifier.1.weight" in weights:
        old = {"cnn.classifier.1.": "cnn.classifier.0.", "cnn.classifier.4.": "cnn.classifier.3."}
        names |= {name: old[name[:17]] + name[17:] for name in names if name[:17] in old}
    return {names[name]: tensor for name, tensor in weights.items()}


def _guess_cnn(weights: Weights) -> str:
    return "vgg19" if "cnn.features.0.weight" in weights else "resnet152"


def _check_options(cnn: str, options: Mapping[str, object], image: Weights) -> None:
    """Refuse what another network was trained with.

    Raises:
        ValueError: says what.
    """
    if cnn not in AUTHORS_CNNS:
        raise ValueError(f"its CNN is {cnn!r}, not one of {', '.join(AUTHORS_CNNS)}")
    if not any(name.startswith("cnn.") for name in image):
        raise ValueError("it has no CNN, it was trained on precomputed features")
    if options.get("use_abs") or options.get("no_imgnorm") or options.get("measure", "cosine") != "cosine":
        raise ValueError("it was not trained for the cosine: order embeddings are another model")


@contextmanager
def _blamed(file: Path) -> Iterator[None]:
    """Whatever goes wrong inside becomes a `ModelError` of one line that names the file."""
    try:
        yield
    except FileNotFoundError as error:
        absent = error.filename or file
        raise ModelError(f"no weights of VSE++ at {absent}: correct VSE_CHECKPOINT, or restore the file") from error
    except Exception as error:  # a file that is not what it should be fails in many ways
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise ModelError(f"{file} cannot be used as weights of VSE++ ({reason})") from error
