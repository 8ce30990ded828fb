"""Trains VSE++ on Flickr8k, from an ImageNet CNN and word vectors to the files in ``models/weights/vse``.

The loss is the paper's: a hinge over the hardest negative of the batch. Alone and from the first step on, it maps
everything to one point when there are so few pictures; what mends that is said where it is done.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from models.precision import FAST_TYPE
from models.vocabulary import SPECIAL, Vocabulary, tokenize
from models.vse import ImageTower, TextTower, VseModel, make_cnn, prepare_cnn
from progress import Progress
from training.efficientnet import NAME, PREPROCESSING, imagenet_weights
from training.features import cached_features
from training.flickr8k import CAPTIONS, Split
from training.retrieval import Retrieval, both_directions
from training.words import SentenceEncoder, reduce

FEATURES, DIMENSION, WORD_DIMENSION = 1280, 1024, 300  # EfficientNet-Lite2's, and the paper's two
EVALUATION_BATCH = 250

Captions = list[list[list[int]]]  # word numbers of each caption of each picture


@dataclass(frozen=True)
class Recipe:
    """What the result depends on, beside the data."""

    seed: int
    epochs: int
    word_vectors: str  # "minilm" or "none"
    vocabulary: int = 12_000
    views: int = 4
    batch: int = 128
    margin: float = 0.2
    warm_up: int = 1  # epochs in which all negatives count and the CNN stands still
    rate: float = 5e-4
    cnn_rate: float = 1e-4
    longest_gradient: float = 2.0
    word_dropout: float = 0.1
    average: float = 0.998  # decay of the moving average of the weights, which is what is kept


class Towers(nn.Module):
    """Both towers; the image tower's CNN is cut into a frozen trunk and a top that is trained."""

    def __init__(self, image: ImageTower, text: TextTower) -> None:
        super().__init__()
        self.image, self.text = image.eval(), text  # eval: batch norm keeps ImageNet's statistics

    def trunk(self) -> nn.Module:
        """A fast copy of the part that is frozen: pixels to maps."""
        cnn: Any = copy.deepcopy(self.image.cnn)
        return prepare_cnn(nn.Sequential(cnn.conv_stem, cnn.bn1, cnn.blocks[:-1]))

    def top(self) -> nn.Module:
        """The part that is trained: maps to features."""
        cnn: Any = self.image.cnn
        return nn.Sequential(cnn.blocks[-1], cnn.conv_head, cnn.bn2, cnn.global_pool)

    def forward(self, maps: Tensor, captions: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Unit vectors ``[n, dimension]`` of pictures, given as the trunk's maps, and of captions."""
        with torch.autocast("cpu", FAST_TYPE, enabled=FAST_TYPE is torch.bfloat16):
            features, texts = self.top()(maps), self.text(captions)
        return self.image.project(features.float()), texts


class Training:
    """One run. Its state is written after each epoch; started again, it goes on from there.

    Args:
        train: what to learn from.
        dev: what to choose the best epoch on.
        workspace: the folder for features and states.

    Raises:
        ModelError: a package with weights is absent.
    """

    def __init__(self, train: Split, dev: Split, *, recipe: Recipe, workspace: Path) -> None:
        self._recipe = recipe
        torch.manual_seed(recipe.seed)
        self.vocabulary, vectors = make_vocabulary(train, recipe=recipe, folder=workspace / "minilm")
        self._captions, self._dev_captions = (encode_captions(split, self.vocabulary) for split in (train, dev))
        self._towers = make_towers(vectors)
        trunk = self._towers.trunk()
        self._views = trunk_maps(trunk, train, views=recipe.views, workspace=workspace)
        self._dev_maps = trunk_maps(trunk, dev, views=1, workspace=workspace)[0]
        centre_features(self._towers, self._views[0])
        average = get_ema_multi_avg_fn(recipe.average)  # type: ignore[no-untyped-call]
        self._average = AveragedModel(self._towers, multi_avg_fn=average)
        head = [*self._towers.image.fc.parameters(), *self._towers.text.parameters()]
        self._optimizer = torch.optim.Adam(
            [{"params": head, "lr": recipe.rate}, {"params": self._towers.top().parameters(), "lr": recipe.cnn_rate}]
        )
        steps = recipe.epochs * CAPTIONS * -(-len(self._captions) // recipe.batch)
        self._schedule = CosineAnnealingLR(self._optimizer, T_max=steps)
        self._epoch, self._best_score = 0, 0.0
        self._best: dict[str, Tensor] = {}
        self._state_file = workspace / f"run-{_digest(_names(train), asdict(recipe))}.pt"

    def run(self) -> Mapping[str, Tensor]:
        """Train the epochs that are left; returns the averaged weights after the epoch that was best on dev."""
        if self._state_file.exists():
            self._resume()
        while self._epoch < self._recipe.epochs:
            loss = self._run_epoch()
            self._epoch += 1
            text_to_image, image_to_text = results = self._judge()
            score = sum(text_to_image.recall.values()) + sum(image_to_text.recall.values())
            if score > self._best_score:
                self._best_score, self._best = score, copy.deepcopy(self._average.module.state_dict())
            self._save()
            print(f"epoch {self._epoch}: loss {loss:.4f}, dev {describe(results)}", flush=True)
        return self._best

    def _run_epoch(self) -> float:
        """Five rounds over the pictures, each with another caption; returns the mean loss."""
        torch.manual_seed(self._recipe.seed + self._epoch)  # a run that goes on draws what an unbroken one would
        self._towers.top().requires_grad_(self._epoch >= self._recipe.warm_up)
        batches = self._batches()
        with Progress(f"epoch {self._epoch + 1}", total=len(batches), unit="batches") as progress:
            losses = []
            for pictures, captions in batches:
                losses.append(self._step(pictures, captions))
                progress.advance()
        return sum(losses) / len(losses)

    def _batches(self) -> list[tuple[Tensor, Tensor]]:
        """Numbers of pictures and of their captions: no picture is twice in a batch, every caption has its turn."""
        count = len(self._captions)
        turns = torch.rand(count, CAPTIONS).argsort(dim=1)
        rounds = [torch.split(torch.randperm(count), self._recipe.batch) for _ in range(CAPTIONS)]
        return [(pictures, turns[pictures, turn]) for turn, parts in enumerate(rounds) for pictures in parts]

    def _step(self, pictures: Tensor, captions: Tensor) -> float:
        views = torch.randint(len(self._views), pictures.shape)
        maps = np.stack([self._views[view][picture] for view, picture in zip(views, pictures, strict=True)])
        texts = [self._caption(*pair) for pair in zip(pictures.tolist(), captions.tolist(), strict=True)]
        loss = hinge(
            *self._towers(torch.from_numpy(maps).float(), texts),
            margin=self._recipe.margin,
            hardest=self._epoch >= self._recipe.warm_up,
        )
        self._optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self._towers.parameters(), self._recipe.longest_gradient)
        self._optimizer.step()
        self._schedule.step()
        self._average.update_parameters(self._towers)
        return loss.item()

    def _caption(self, picture: int, caption: int) -> list[int]:
        """A caption with some words made unknown, so that the unknown word, too, is learnt."""
        start, *words, end = self._captions[picture][caption]
        dropped = (torch.rand(len(words)) < self._recipe.word_dropout).tolist()
        unknown = self.vocabulary.unknown
        return [start, *(unknown if drop else word for word, drop in zip(words, dropped, strict=True)), end]

    @torch.inference_mode()
    def _judge(self) -> tuple[Retrieval, Retrieval]:
        """How the averaged weights do on dev."""
        vectors = [
            self._average(
                torch.from_numpy(self._dev_maps[start : start + EVALUATION_BATCH]).float(),
                [text for texts in self._dev_captions[start : start + EVALUATION_BATCH] for text in texts],
            )
            for start in range(0, len(self._dev_maps), EVALUATION_BATCH)
        ]
        images, texts = (torch.cat(parts).float().numpy() for parts in zip(*vectors, strict=True))
        return both_directions(images, texts.reshape(len(images), CAPTIONS, -1))

    def _parts(self) -> dict[str, Any]:
        return {
            "towers": self._towers,
            "average": self._average,
            "optimizer": self._optimizer,
            "schedule": self._schedule,
        }

    def _save(self) -> None:
        state = {name: part.state_dict() for name, part in self._parts().items()}
        state |= {"epoch": self._epoch, "best_score": self._best_score, "best": self._best}
        partial = self._state_file.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self._state_file)

    def _resume(self) -> None:
        state = torch.load(self._state_file, weights_only=True)
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self._epoch, self._best_score, self._best = state["epoch"], state["best_score"], state["best"]
        print(f"going on after epoch {self._epoch}", flush=True)


def hinge(images: Tensor, captions: Tensor, *, margin: float, hardest: bool) -> Tensor:
    """The loss of VSE++ (equation 6 of the paper) or, if not ``hardest``, the sum over all negatives (equation 5).

    Args:
        images: unit vectors ``[n, d]``.
        captions: unit vectors ``[n, d]``, those of the same row belong together.
    """
    scores = images @ captions.T
    right = scores.diagonal()
    negative = 1 - torch.eye(len(scores))
    for_images = (margin + scores - right[:, None]).clamp(min=0) * negative
    for_captions = (margin + scores - right[None, :]).clamp(min=0) * negative
    if hardest:
        return for_images.amax(dim=1).mean() + for_captions.amax(dim=0).mean()
    return (for_images.sum() + for_captions.sum()) / len(scores)


def make_vocabulary(train: Split, *, recipe: Recipe, folder: Path) -> tuple[Vocabulary, Tensor]:
    """The words of the captions, the commonest first, and a vector to start from for each: ``[words, 300]``.

    With vectors of MiniLM, words that no caption has follow: they are understood by what is near them.
    """
    counts = Counter(word for texts in train.captions for text in texts for word in tokenize(text))
    words = sorted(counts, key=lambda word: (-counts[word], word))
    special = torch.empty(len(SPECIAL), WORD_DIMENSION).uniform_(-0.1, 0.1)
    if recipe.word_vectors == "none":
        words = [word for word in words if counts[word] > 1]
        vectors = torch.empty(len(words), WORD_DIMENSION).uniform_(-0.1, 0.1)
    else:
        encoder = SentenceEncoder(folder)
        seen = len(words)
        words = (words + [word for word in encoder.words() if word not in counts])[: recipe.vocabulary]
        vectors = torch.from_numpy(reduce(encoder.vectors(words), dimension=WORD_DIMENSION, fit=seen))
    return Vocabulary([*SPECIAL, *words]), torch.cat([special, vectors])


def encode_captions(split: Split, vocabulary: Vocabulary) -> Captions:
    return [[vocabulary.encode(text) for text in texts] for texts in split.captions]


def make_towers(vectors: Tensor) -> Towers:
    """Untrained towers around ImageNet's CNN and the word vectors."""
    image = ImageTower(make_cnn(NAME), features=FEATURES, dimension=DIMENSION)
    weights = imagenet_weights()
    image.cnn.load_state_dict({name: weights[name] for name in image.cnn.state_dict()})
    nn.init.xavier_uniform_(image.fc.weight)
    nn.init.zeros_(image.fc.bias)
    text = TextTower(words=len(vectors), word_dimension=WORD_DIMENSION, dimension=DIMENSION)
    text.embed.weight.data.copy_(vectors)
    return Towers(image.to(memory_format=torch.channels_last), text)


def trunk_maps(trunk: nn.Module, split: Split, *, views: int, workspace: Path) -> list[np.ndarray]:
    """The trunk's maps of every view of every picture, from the cache if they are there."""
    folder = workspace / f"features-{_digest(_names(split))}"
    return cached_features(trunk, split.pictures, views=views, preprocessing=PREPROCESSING, folder=folder)


@torch.inference_mode()
def centre_features(towers: Towers, maps: np.ndarray) -> None:
    """Make the mean of the features over these maps the image tower's centre."""
    top = towers.top()
    parts = [
        top(torch.from_numpy(maps[start : start + EVALUATION_BATCH]).float())
        for start in range(0, len(maps), EVALUATION_BATCH)
    ]
    towers.image.centre.copy_(torch.cat(parts).mean(dim=0))


def write_weights(folder: Path, weights: Mapping[str, Tensor], vocabulary: Vocabulary) -> None:
    """Write what `VseModel` reads: matrices as float16; vectors, some of which float16 cannot hold, as float32."""
    folder.mkdir(parents=True, exist_ok=True)
    compact = {name: (tensor.half() if tensor.dim() > 1 else tensor).contiguous() for name, tensor in weights.items()}
    for tower in ("image", "text"):
        prefix = f"{tower}."
        tensors = {name.removeprefix(prefix): tensor for name, tensor in compact.items() if name.startswith(prefix)}
        save_file(tensors, folder / f"{tower}.safetensors")
    vocabulary.save(folder / "vocabulary.json")
    config = {"cnn": NAME, "dimension": DIMENSION, "preprocessing": asdict(PREPROCESSING)}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def evaluate(model: VseModel, split: Split) -> tuple[Retrieval, Retrieval]:
    """Text to image and image to text, by the way that the application goes: from files to vectors."""
    images = []
    with Progress("evaluation", total=len(split.pictures), unit="pictures") as progress:
        for path in split.pictures:
            with Image.open(path) as picture:
                images.append(model.encode_images(model.preprocessing.crop(picture.convert("RGB"))[None]))
            progress.advance()
    texts = model.encode_texts([text for texts in split.captions for text in texts])
    return both_directions(np.concatenate(images), texts.reshape(len(images), CAPTIONS, -1))


def describe(results: tuple[Retrieval, Retrieval]) -> str:
    """Both directions in one line."""
    return f"text to image {results[0]}; image to text {results[1]}"


def _names(split: Split) -> list[str]:
    return [str(path.resolve()) for path in split.pictures]


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]
