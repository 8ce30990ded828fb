"""What the trainings of all models share: epochs that can be killed, averaged weights, the choice on dev, measuring."""

from __future__ import annotations

import copy
import os
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from dataset import open_data_set
from evaluation.retrieval import Retrieval, both_directions, search
from models import Model
from progress import Progress
from training.flickr8k import CAPTIONS, Split

Results = tuple[Retrieval, Retrieval]
"""Text to image, and image to text."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What the result of every training depends on, beside the data."""

    seed: int = 0
    epochs: int


class Loop(ABC):
    """Epochs of five rounds over the pictures; the state is written after each, and a new run goes on from there.

    Args:
        head: what is trained.
        average: its moving average, which is judged and kept.
        optimizer: of the head's parameters.
        schedule: of the optimizer, one step a batch.
        recipe: seed and number of epochs.
        longest_gradient: longer ones are shortened to this.
        state_file: where the state is kept; its name must change with whatever the result depends on.
    """

    def __init__(
        self,
        head: nn.Module,
        average: AveragedModel,
        *,
        optimizer: Optimizer,
        schedule: LRScheduler,
        recipe: Recipe,
        longest_gradient: float,
        state_file: Path,
    ) -> None:
        self._recipe, self._longest_gradient, self._state_file = recipe, longest_gradient, state_file
        self._head, self._average = head, average
        self._optimizer, self._schedule = optimizer, schedule
        self._epoch, self._best_score = 0, 0.0
        self._best: dict[str, Tensor] = {}

    @abstractmethod
    def _batches(self) -> list[tuple[Tensor, Tensor]]:
        """Numbers of pictures and of their captions, for one epoch."""

    @abstractmethod
    def _step(self, pictures: Tensor, captions: Tensor) -> float:
        """Learn from one batch, by `_update`; returns the loss."""

    @abstractmethod
    def _dev_vectors(self) -> tuple[Tensor, Tensor]:
        """What the averaged weights make of dev: unit vectors ``[n, d]`` and ``[n * CAPTIONS, d]``."""

    def run(self) -> None:
        """Train the epochs that are left; the head is then the average after the epoch that was best on dev."""
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

    def _run_epoch(self) -> float:
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

    def _update(self, loss: Tensor) -> None:
        self._optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self._head.parameters(), self._longest_gradient)
        self._optimizer.step()
        self._schedule.step()
        self._average.update_parameters(self._head)

    @torch.inference_mode()
    def _judge(self) -> Results:
        self._average.eval()
        images, texts = (vectors.float().numpy() for vectors in self._dev_vectors())
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


def draw_batches(pictures: int, size: int) -> list[tuple[Tensor, Tensor]]:
    """Numbers of pictures and of their captions: no picture is twice in a batch, every caption has its turn."""
    turns = torch.rand(pictures, CAPTIONS).argsort(dim=1)
    rounds = [torch.split(torch.randperm(pictures), size) for _ in range(CAPTIONS)]
    return [(numbers, turns[numbers, turn]) for turn, parts in enumerate(rounds) for numbers in parts]


def save_weights(weights: Mapping[str, Tensor], file: Path) -> None:
    """Write matrices as float16, and vectors, some of which float16 cannot hold, as float32."""
    tensors = {name: tensor.half() if tensor.dim() > 1 else tensor for name, tensor in weights.items()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)


def evaluate(model: Model, split: Split) -> Results:
    """How a model does by the way that the application goes: from files to vectors."""
    images = _encode(model, split.pictures)
    texts = model.encode_texts([text for texts in split.captions for text in texts])
    return both_directions(images, texts.reshape(len(images), CAPTIONS, -1))


def describe(results: Results) -> str:
    """Both directions in one line."""
    return f"text to image {results[0]}; image to text {results[1]}"


def figures(results: Results, split: str) -> dict[str, Any]:
    """The content of a ``figures.json`` for the split of that name; see `models.catalogue`."""
    directions = (
        {f"R@{cut}": round(value, 1) for cut, value in result.recall.items()} | {"MRR": round(result.mrr, 3)}
        for result in results
    )
    return {"split": split} | dict(zip(("text_to_image", "image_to_text"), directions, strict=True))


def evaluate_toy(model: Model) -> tuple[int, int]:
    """How many captions of the data set toy, which nothing is trained on, find their picture first, and of how many."""
    pairs = [(path, text) for path, _, text in open_data_set("toy").pairs(skip=lambda *_: None) if text]
    pictures = sorted({path for path, _ in pairs})
    owners = np.array([pictures.index(path) for path, _ in pairs])
    texts = model.encode_texts([text for _, text in pairs])
    ranks, _ = search(texts, _encode(model, pictures), asked=owners, given=np.arange(len(pictures)))
    return int((ranks == 1).sum()), len(ranks)


def _encode(model: Model, pictures: list[Path]) -> np.ndarray:
    images = []
    with Progress("evaluation", total=len(pictures), unit="pictures") as progress:
        for path in pictures:
            with Image.open(path) as picture:
                pixels = model.preprocessing.crop(picture.convert("RGB"))
            images.append(model.encode_images(np.stack([pixels])))
            progress.advance()
    return np.concatenate(images)
