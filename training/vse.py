"""Trains VSE++ on Flickr8k, from an ImageNet CNN and word vectors to the files in ``models/weights/vse``.

The loss is the paper's, a hinge over the hardest negative of the batch. From the first step on, it maps everything to
one point when there are so few pictures: the maximum is a soft one until the last epochs.
"""

from __future__ import annotations

import copy
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from models.precision import FAST_TYPE, prepare
from models.vocabulary import SPECIAL, Vocabulary, tokenize
from models.vse import ImageTower, TextTower, VseModel, make_cnn
from training import imagenet, loop
from training.efficientnet import NAME, PREPROCESSING, imagenet_weights
from training.features import picture_features
from training.flickr8k import CAPTIONS, Split
from training.loop import Loop, draw_batches, save_weights
from training.words import SentenceEncoder, reduce

FEATURES, DIMENSION, WORD_DIMENSION = 1280, 1024, 300  # EfficientNet-Lite2's, and the paper's two
EVALUATION_BATCH = 500

Captions = list[list[list[int]]]  # word numbers of each caption of each picture


@dataclass(frozen=True, kw_only=True)
class Recipe(loop.Recipe):
    """What the result depends on, beside the data."""

    epochs: int = 10
    word_vectors: str = "minilm"  # or "none"
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


class Training(Loop):
    """One run. Its state is written after each epoch; started again, it goes on from there.

    Args:
        train: what to learn from.
        dev: what to choose the best epoch on.
        recipe: how to learn.
        workspace: the folder for features and states.

    Raises:
        ModelError: a package with weights is absent.
    """

    _recipe: Recipe

    def __init__(self, train: Split, dev: Split, *, recipe: Recipe, workspace: Path) -> None:
        self._recipe = recipe
        torch.manual_seed(recipe.seed)
        self._class_names = imagenet.class_names()
        names = [name for names in self._class_names for name in names]
        self._vocabulary, vectors = make_vocabulary(train, names, recipe=recipe, folder=workspace / "minilm")
        self._captions, self._dev_captions = (encode_captions(split, self._vocabulary) for split in (train, dev))
        self._image, self._text = make_towers(vectors)
        weights = imagenet_weights()
        self._image.cnn.load_state_dict({name: weights[name] for name in self._image.cnn.state_dict()})
        frozen = prepare(copy.deepcopy(self._image.cnn))
        views, dev_features = (
            picture_features(frozen, split.pictures, views=count, workspace=workspace)
            for split, count in ((train, recipe.views), (dev, 1))
        )
        self._image.centre.copy_(views.mean(dim=(0, 1)))
        self._image.scale.copy_(1 / views.std(dim=(0, 1)).clamp(min=1e-6))
        self._classes = self._image.standardise(imagenet.prototypes(weights["classifier.weight"], views[0]))
        self._views = torch.stack([self._image.standardise(view) for view in views])
        self._dev_features = self._image.standardise(dev_features[0])
        head = Head(self._image.fc, self._text, dropout=recipe.feature_dropout)
        average = get_ema_multi_avg_fn(recipe.average)  # type: ignore[no-untyped-call]
        optimizer = torch.optim.Adam(head.parameters(), lr=recipe.rate, fused=True)
        steps = recipe.epochs * CAPTIONS * -(-len(self._captions) // recipe.batch)
        super().__init__(
            head,
            AveragedModel(head, multi_avg_fn=average),
            optimizer=optimizer,
            schedule=CosineAnnealingLR(optimizer, T_max=steps),
            recipe=recipe,
            longest_gradient=recipe.longest_gradient,
            state_file=workspace / f"run-{train.digest(asdict(recipe))}.pt",
        )

    def _batches(self) -> list[tuple[Tensor, Tensor]]:
        return draw_batches(len(self._captions), self._recipe.batch)

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
        self._update(loss)
        return losses[0].item()

    def _loss(self, images: Tensor, captions: Tensor) -> Tensor:
        hard = self._epoch >= self._recipe.epochs - self._recipe.hard_epochs
        temperature = 0 if hard else self._recipe.temperature
        return hinge(images @ captions.T, margin=self._recipe.margin, temperature=temperature)

    def _class_caption(self, number: int) -> list[int]:
        return self._vocabulary.encode(
            random.choice(imagenet.TEMPLATES).format(random.choice(self._class_names[number]))
        )

    def _drop_words(self, caption: list[int]) -> list[int]:
        """Make some words unknown, so that the unknown word, too, is learnt."""
        start, *words, end = caption
        dropped = (random.random() < self._recipe.word_dropout for _ in words)
        unknown = self._vocabulary.unknown
        return [start, *(unknown if drop else word for word, drop in zip(words, dropped, strict=True)), end]

    def _dev_vectors(self) -> tuple[Tensor, Tensor]:
        vectors = [
            self._average(
                self._dev_features[start : start + EVALUATION_BATCH],
                [text for texts in self._dev_captions[start : start + EVALUATION_BATCH] for text in texts],
            )
            for start in range(0, len(self._dev_features), EVALUATION_BATCH)
        ]
        images, texts = zip(*vectors, strict=True)
        return torch.cat(images), torch.cat(texts)

    def write(self, folder: Path) -> None:
        """Write what `load` reads."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, tower in (("image", self._image), ("text", self._text)):
            save_weights(tower.state_dict(), folder / f"{name}.safetensors")
        self._vocabulary.save(folder / "vocabulary.json")
        config = {"cnn": NAME, "dimension": DIMENSION, "preprocessing": asdict(PREPROCESSING)}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load(folder: Path) -> VseModel:
    """The model as the application loads it, from what `Training.write` has written."""
    return VseModel.load_own(folder)


def hinge(scores: Tensor, *, margin: float, temperature: float) -> Tensor:
    """The loss of VSE++ (equation 6 of the paper), a hinge over the hardest negative; soft if the temperature is not 0.

    The soft maximum, ``t log sum exp(x / t)``, lets all near negatives count and becomes the hard one at temperature 0.

    Args:
        scores: cosines of pictures and captions ``[n, n]``, those of pairs on the diagonal.
    """
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
