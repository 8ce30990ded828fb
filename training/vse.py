"""Trains VSE++ on Flickr8k, from an ImageNet CNN and word vectors to the files in ``models/weights/vse``.

The loss is the paper's, a hinge over the hardest negative of the batch. From the first step on, it maps everything to
one point when there are so few pictures: the maximum is a soft one until the last epochs.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from evaluation.retrieval import Retrieval, both_directions
from models.precision import FAST_TYPE
from models.vocabulary import SPECIAL, Vocabulary, tokenize
from models.vse import ImageTower, TextTower, VseModel, make_cnn, prepare_cnn
from progress import Progress
from training import imagenet
from training.efficientnet import NAME, PREPROCESSING, imagenet_weights
from training.features import cached_features
from training.flickr8k import CAPTIONS, Split
from training.words import SentenceEncoder, reduce

FEATURES, DIMENSION, WORD_DIMENSION = 1280, 1024, 300  # EfficientNet-Lite2's, and the paper's two
EVALUATION_BATCH = 500

Captions = list[list[list[int]]]  # word numbers of each caption of each picture


@dataclass(frozen=True)
class Recipe:
    """What the result depends on, beside the data."""

    seed: int
    epochs: int
    word_vectors: str  # "minilm" or "none"
    vocabulary: int = 12_000
    views: int = 8
    batch: int = 512
    classes: int = 128  # of ImageNet, beside each batch
    margin: float = 0.2
    temperature: float = 0.05  # of the soft maximum over the negatives
    hard_epochs: int = 2  # the last ones, in which the maximum is the paper's
    rate: float = 1e-3
    longest_gradient: float = 2.0
    feature_dropout: float = 0.2
    word_dropout: float = 0.1
    average: float = 0.99  # decay of the moving average of the weights, which is what is kept


class Head(nn.Module):
    """What is trained: both towers from the standardised features and the words on."""

    def __init__(self, fc: nn.Linear, text: TextTower, *, dropout: float) -> None:
        super().__init__()
        self.dropout, self.fc, self.text = nn.Dropout(dropout), fc, text

    def forward(self, features: Tensor, captions: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Unit vectors ``[n, dimension]`` of pictures and of captions."""
        with torch.autocast("cpu", FAST_TYPE, enabled=FAST_TYPE is torch.bfloat16):
            texts = self.text(captions)
        return F.normalize(self.fc(self.dropout(features)), dim=1), texts


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
        self._class_names = imagenet.class_names()
        names = [name for names in self._class_names for name in names]
        self.vocabulary, vectors = make_vocabulary(train, names, recipe=recipe, folder=workspace / "minilm")
        self._captions, self._dev_captions = (encode_captions(split, self.vocabulary) for split in (train, dev))
        self._image, text = make_towers(vectors)
        weights = imagenet_weights()
        self._image.cnn.load_state_dict({name: weights[name] for name in self._image.cnn.state_dict()})
        frozen = prepare_cnn(copy.deepcopy(self._image.cnn))
        views, dev_features = (
            picture_features(frozen, split, views=count, workspace=workspace)
            for split, count in ((train, recipe.views), (dev, 1))
        )
        self._image.centre.copy_(views.mean(dim=(0, 1)))
        self._image.scale.copy_(1 / views.std(dim=(0, 1)).clamp(min=1e-6))
        self._classes = self._image.standardise(imagenet.prototypes(weights["classifier.weight"], views[0]))
        self._views = torch.stack([self._image.standardise(view) for view in views])
        self._dev_features = self._image.standardise(dev_features[0])
        self._head = Head(self._image.fc, text, dropout=recipe.feature_dropout)
        average = get_ema_multi_avg_fn(recipe.average)  # type: ignore[no-untyped-call]
        self._average = AveragedModel(self._head, multi_avg_fn=average)
        self._optimizer = torch.optim.Adam(self._head.parameters(), lr=recipe.rate, fused=True)
        self._steps = recipe.epochs * CAPTIONS * -(-len(self._captions) // recipe.batch)
        self._schedule = CosineAnnealingLR(self._optimizer, T_max=self._steps)
        self._epoch, self._best_score = 0, 0.0
        self._best: dict[str, Tensor] = {}
        self._state_file = workspace / f"run-{_digest(_names(train), asdict(recipe))}.pt"

    def run(self) -> tuple[ImageTower, TextTower]:
        """Train the epochs that are left; returns the averaged towers after the epoch that was best on dev."""
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
        self._head.load_state_dict(self._best)
        return self._image, self._head.text

    def _run_epoch(self) -> float:
        """Five rounds over the pictures, each with another caption; returns the mean loss."""
        torch.manual_seed(self._recipe.seed + self._epoch)  # a run that goes on draws what an unbroken one would
        random.seed(self._recipe.seed + self._epoch)
        self._head.train()
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
        classes = torch.randperm(len(self._classes))[: self._recipe.classes]
        views = torch.randint(len(self._views), pictures.shape)
        texts = [self._captions[picture][caption] for picture, caption in zip(pictures, captions, strict=True)]
        images, texts = self._head(
            torch.cat([self._views[views, pictures], self._classes[classes]]),
            [self._drop_words(text) for text in (*texts, *map(self._class_caption, classes.tolist()))],
        )
        # Two losses: a picture of a dog is no negative of the word "dog".
        parts = [len(pictures), len(classes)]
        losses = [self._loss(*pair) for pair in zip(images.split(parts), texts.split(parts), strict=True)]
        loss = losses[0] + losses[1] * len(classes) / len(pictures)
        self._optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self._head.parameters(), self._recipe.longest_gradient)
        self._optimizer.step()
        self._schedule.step()
        self._average.update_parameters(self._head)
        return losses[0].item()

    def _loss(self, images: Tensor, captions: Tensor) -> Tensor:
        hard = self._epoch >= self._recipe.epochs - self._recipe.hard_epochs
        temperature = 0 if hard else self._recipe.temperature
        return hinge(images, captions, margin=self._recipe.margin, temperature=temperature)

    def _class_caption(self, number: int) -> list[int]:
        return self.vocabulary.encode(
            random.choice(imagenet.TEMPLATES).format(random.choice(self._class_names[number]))
        )

    def _drop_words(self, caption: list[int]) -> list[int]:
        """Make some words unknown, so that the unknown word, too, is learnt."""
        start, *words, end = caption
        dropped = (random.random() < self._recipe.word_dropout for _ in words)
        unknown = self.vocabulary.unknown
        return [start, *(unknown if drop else word for word, drop in zip(words, dropped, strict=True)), end]

    @torch.inference_mode()
    def _judge(self) -> tuple[Retrieval, Retrieval]:
        """How the averaged weights do on dev."""
        self._average.eval()
        vectors = [
            self._average(
                self._dev_features[start : start + EVALUATION_BATCH],
                [text for texts in self._dev_captions[start : start + EVALUATION_BATCH] for text in texts],
            )
            for start in range(0, len(self._dev_features), EVALUATION_BATCH)
        ]
        images, texts = (torch.cat(parts).float().numpy() for parts in zip(*vectors, strict=True))
        return both_directions(images, texts.reshape(len(images), CAPTIONS, -1))

    def _parts(self) -> dict[str, Any]:
        return {
            "head": self._head,
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


def hinge(images: Tensor, captions: Tensor, *, margin: float, temperature: float) -> Tensor:
    """The loss of VSE++ (equation 6 of the paper), a hinge over the hardest negative; soft if the temperature is not 0.

    The soft maximum, ``t log sum exp(x / t)``, lets all near negatives count and becomes the hard one at temperature 0.

    Args:
        images: unit vectors ``[n, d]``.
        captions: unit vectors ``[n, d]``, those of the same row belong together.
    """
    scores = images @ captions.T
    right = scores.diagonal()
    itself = torch.eye(len(scores), dtype=torch.bool)  # its 0 is the hinge: what is under it does not count
    for_images = (margin + scores - right[:, None]).masked_fill(itself, 0)
    for_captions = (margin + scores - right[None, :]).masked_fill(itself, 0)
    if temperature == 0:
        return for_images.amax(dim=1).mean() + for_captions.amax(dim=0).mean()
    soft = (for_images / temperature).logsumexp(dim=1).mean() + (for_captions / temperature).logsumexp(dim=0).mean()
    return soft * temperature


def make_vocabulary(train: Split, names: Sequence[str], *, recipe: Recipe, folder: Path) -> tuple[Vocabulary, Tensor]:
    """The words of the captions, the commonest first, then those of names, and a vector to start from for each.

    With vectors of MiniLM, words that neither has follow: they are understood by what is near them.
    """
    counts = Counter(word for texts in train.captions for text in texts for word in tokenize(text))
    words = sorted(counts, key=lambda word: (-counts[word], word))
    of_names = sorted({word for name in names for word in tokenize(name)} - counts.keys())
    special = torch.empty(len(SPECIAL), WORD_DIMENSION).uniform_(-0.1, 0.1)
    if recipe.word_vectors == "none":
        words = [word for word in words if counts[word] > 1] + of_names
        vectors = torch.empty(len(words), WORD_DIMENSION).uniform_(-0.1, 0.1)
    else:
        encoder = SentenceEncoder(folder)
        seen = len(words)
        words = [*words, *of_names]
        known = set(words)
        words = (words + [word for word in encoder.words() if word not in known])[: recipe.vocabulary]
        vectors = torch.from_numpy(reduce(encoder.vectors(words), dimension=WORD_DIMENSION, fit=seen))
    return Vocabulary([*SPECIAL, *words]), torch.cat([special, vectors])


def encode_captions(split: Split, vocabulary: Vocabulary) -> Captions:
    return [[vocabulary.encode(text) for text in texts] for texts in split.captions]


def make_towers(vectors: Tensor) -> tuple[ImageTower, TextTower]:
    """Untrained towers around a CNN without weights and the word vectors."""
    image = ImageTower(make_cnn(NAME), features=FEATURES, dimension=DIMENSION)
    nn.init.xavier_uniform_(image.fc.weight)
    nn.init.zeros_(image.fc.bias)
    text = TextTower(words=len(vectors), word_dimension=WORD_DIMENSION, dimension=DIMENSION)
    text.embed.weight.data.copy_(vectors)
    return image, text


def picture_features(frozen: nn.Module, split: Split, *, views: int, workspace: Path) -> Tensor:
    """float32 ``[views, pictures, features]``, from the cache if they are there."""
    folder = workspace / f"features-{_digest(_names(split))}"
    arrays = cached_features(frozen, split.pictures, views=views, preprocessing=PREPROCESSING, folder=folder)
    return torch.from_numpy(np.stack(arrays)).float()


def write_weights(folder: Path, image: ImageTower, text: TextTower, vocabulary: Vocabulary) -> None:
    """Write what `VseModel` reads: matrices as float16; vectors, some of which float16 cannot hold, as float32."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, tower in (("image", image), ("text", text)):
        weights = tower.state_dict().items()
        tensors = {key: (tensor.half() if tensor.dim() > 1 else tensor).contiguous() for key, tensor in weights}
        save_file(tensors, folder / f"{name}.safetensors")
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
