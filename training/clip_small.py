"""Trains a small CLIP on Flickr8k, from an ImageNet CNN and a sentence encoder to a folder in open_clip's layout.

Two towers, a symmetric InfoNCE loss and a learnt temperature (Radford et al., 2021), with VSE++'s hinge over the
hardest negative beside it. First the heads of both towers are trained on what the frozen networks give, then the last
layers of the text tower with them. What stays frozen of it is rounded to float16 before, as it will be written.
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

from models.clip import WEIGHTS, ClipModel, make
from models.precision import FAST_TYPE
from models.vse import TEXT_BATCH, prepare_cnn
from progress import Progress
from training import imagenet, loop
from training.efficientnet import NAME, PREPROCESSING, imagenet_weights
from training.features import picture_features
from training.flickr8k import CAPTIONS, Split
from training.loop import Loop, draw_batches, save_weights
from training.vse import hinge
from training.wordpiece import choose_tokens, make_tokenizer, read_tokenizer
from training.words import unpack

LONGEST = 32  # tokens of a caption that training reads
CONTEXT = 64  # tokens that the application reads
NOT_SEEN = -1e4  # what is added to the attention of a token that is left out
FIRST, EMBEDDING = "visual.head.mlp.fc1", "embeddings.word_embeddings.weight"
SMALLEST_DEVIATION = 0.01  # one of MiniLM's 384 numbers is always the same
TEXT_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True, kw_only=True)
class Recipe(loop.Recipe):
    """What the result depends on, beside the data."""

    epochs: int = 20
    tuned_epochs: int = 5  # the last ones, in which the text tower's last layers are trained too
    tuned_layers: int = 2
    vocabulary: int = 16_000
    dimension: int = 512
    views: int = 8
    batch: int = 2000
    tuned_batch: int = 1000
    classes: int = 300  # of ImageNet, beside each batch
    class_weight: float = 0.3
    temperature: float = 0.05  # that InfoNCE starts with
    lowest_temperature: float = 0.01
    margin: float = 0.1
    hinge_weight: float = 2.0
    head_rate: float = 2e-3
    tuned_head_rate: float = 5e-4
    layer_rate: float = 5e-5
    warm_up: int = 20  # batches
    weight_decay: float = 0.01
    longest_gradient: float = 5.0
    image_dropout: float = 0.5  # inside the heads; half of it before them
    text_dropout: float = 0.3
    word_dropout: float = 0.1
    average: float = 0.99  # decay of the moving average of the weights, which is what is kept


@dataclass(frozen=True)
class Texts:
    """What the text tower makes of texts before it is trained.

    Args:
        hidden: behind the layers that stay frozen, bfloat16 ``[n, tokens, width]``.
        lengths: numbers of tokens, int ``[n]``.
        pooled: the mean over tokens behind all layers, float32 ``[n, width]``.
    """

    hidden: Tensor
    lengths: Tensor
    pooled: Tensor


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
    """What is trained of open_clip's model: both towers' heads, the text tower's last layers, the temperature.

    Args:
        clip: the model; its parts are taken, not copied.
        recipe: dropout, and how many layers.
    """

    def __init__(self, clip: Any, *, recipe: Recipe) -> None:
        super().__init__()
        image, text = clip.visual.head.mlp, clip.text.proj
        self.standard_image, self.standard_text = Standard(image.fc1.in_features), Standard(text[0].in_features)
        self.image = _with_dropout(image.fc1, image.fc2, recipe.image_dropout)
        self.text = _with_dropout(text[0], text[2], recipe.text_dropout)
        self.layers = nn.ModuleList(clip.text.transformer.encoder.layer[-recipe.tuned_layers :])
        self.log_scale = clip.logit_scale
        self._word_dropout = recipe.word_dropout

    def encode_images(self, features: Tensor) -> Tensor:
        """Features of the CNN ``[n, features]`` to unit vectors ``[n, dimension]``."""
        return F.normalize(self.image(self.standard_image(features)), dim=1)

    def encode_texts(self, pooled: Tensor) -> Tensor:
        """Texts as `pool` makes them ``[n, width]`` to unit vectors ``[n, dimension]``."""
        return F.normalize(self.text(self.standard_text(pooled)), dim=1)

    def pool(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """Mean over the tokens behind the last layers, float32 ``[n, width]``; in training some words are not seen.

        Args:
            hidden: what comes before these layers, ``[n, tokens, width]``.
            lengths: numbers of tokens, int ``[n]``.
        """
        hidden = hidden[:, : int(lengths.max())].float()
        seen = torch.arange(hidden.shape[1]) < lengths[:, None]
        if self.training:
            kept = torch.rand(seen.shape) >= self._word_dropout
            kept[:, 0] = True  # the start: something is left of every text
            seen = seen & kept
        mask = torch.zeros(seen.shape).masked_fill(~seen, NOT_SEEN)[:, None, None]
        with torch.autocast("cpu", FAST_TYPE, enabled=FAST_TYPE is torch.bfloat16):
            for layer in self.layers:
                hidden = layer(hidden, mask)
        weights = seen.float()[..., None]
        return (hidden.float() * weights).sum(dim=1) / weights.sum(dim=1)


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

        frozen = prepare_cnn(copy.deepcopy(trunk))
        self._views, dev_views = (
            picture_features(frozen, split, views=count, workspace=workspace)
            for split, count in ((train, recipe.views), (dev, 1))
        )
        self._dev_features = dev_views[0]
        self._classes = imagenet.prototypes(weights["classifier.weight"], self._views[0])
        self._texts, self._dev_texts, self._class_texts = (
            self._read(texts, head) for texts in (texts, dev_texts, class_texts)
        )
        head.standard_image.fit(self._views.flatten(0, 1))
        head.standard_text.fit(self._texts.pooled)

        heads = [*head.image.parameters(), *head.text.parameters(), head.log_scale]
        groups = [{"params": heads}, {"params": list(head.layers.parameters())}]
        optimizer = torch.optim.AdamW(groups, lr=1, weight_decay=recipe.weight_decay, fused=True)
        self._first_tuned = max(0, recipe.epochs - recipe.tuned_epochs)
        super().__init__(
            head,
            AveragedModel(head, multi_avg_fn=self._move_average),
            optimizer=optimizer,
            schedule=LambdaLR(optimizer, learning_rates(recipe, pictures=len(train.pictures))),
            recipe=recipe,
            longest_gradient=recipe.longest_gradient,
            state_file=workspace / f"run-{run}.pt",
        )

    @torch.no_grad()
    def _read(self, texts: list[str], head: Head) -> Texts:
        """Put texts through the text tower, the longest together."""
        tokens = read_tokenizer(self._text_folder)(texts, truncation=True, max_length=LONGEST)["input_ids"]
        frozen = copy.deepcopy(self._clip.text.transformer)
        frozen.encoder.layer = frozen.encoder.layer[: -len(head.layers)]
        frozen.eval().to(FAST_TYPE)
        head.eval()
        lengths = torch.tensor([len(numbers) for numbers in tokens])
        width = frozen.config.hidden_size
        hidden = torch.zeros(len(texts), int(lengths.max()), width, dtype=torch.bfloat16)
        pooled = torch.empty(len(texts), width)
        with Progress("texts", total=len(texts), unit="texts") as progress:
            for part in torch.split(lengths.argsort(stable=True), TEXT_BATCH):
                batch = pad_sequence([torch.tensor(tokens[number]) for number in part], batch_first=True)
                seen = (torch.arange(batch.shape[1]) < lengths[part, None]).long()
                states = frozen(input_ids=batch, attention_mask=seen).last_hidden_state
                hidden[part, : batch.shape[1]] = states.bfloat16()
                pooled[part] = head.pool(states, lengths[part])
                progress.advance(len(part))
        return Texts(hidden, lengths, pooled)

    def _move_average(self, averaged: Any, current: Any, count: Tensor | int) -> None:
        """As `get_ema_multi_avg_fn`, but at first the average forgets faster what the weights were at random."""
        start = 1.0 if self._tuning() else (1 + int(count)) / (10 + int(count))
        torch._foreach_lerp_(averaged, current, 1 - min(self._recipe.average, start))

    def _tuning(self) -> bool:
        return self._epoch >= self._first_tuned

    def _batches(self) -> list[tuple[Tensor, Tensor]]:
        if self._epoch == self._first_tuned:  # the average is what goes on, and the optimizer knows nothing of it
            self._head.load_state_dict(self._average.module.state_dict())
            self._optimizer.state.clear()
        return draw_batches(self._views.shape[1], self._recipe.tuned_batch if self._tuning() else self._recipe.batch)

    def _step(self, pictures: Tensor, captions: Tensor) -> float:
        classes = torch.randperm(len(self._classes))[: self._recipe.classes]
        views = torch.randint(len(self._views), pictures.shape)
        sizes = self._class_sizes
        drawn = (torch.rand(len(classes)) * sizes[classes]).long() + (sizes.cumsum(0) - sizes)[classes]
        images = self._head.encode_images(torch.cat([self._views[views, pictures], self._classes[classes]]))
        pooled = [
            self._pool(self._head, self._texts, pictures * CAPTIONS + captions),
            self._pool(self._head, self._class_texts, drawn),
        ]
        texts = self._head.encode_texts(torch.cat(pooled))
        # Two losses: a picture of a dog is no negative of the word "dog".
        parts = [len(pictures), len(classes)]
        losses = [self._loss(*pair) for pair in zip(torch.split(images, parts), torch.split(texts, parts), strict=True)]
        self._update(losses[0] + self._recipe.class_weight * losses[1])
        return losses[0].item()

    def _pool(self, head: Head, texts: Texts, numbers: Tensor) -> Tensor:
        return head.pool(texts.hidden[numbers], texts.lengths[numbers]) if self._tuning() else texts.pooled[numbers]

    def _loss(self, images: Tensor, texts: Tensor) -> Tensor:
        scale = self._head.log_scale.exp().clamp(max=1 / self._recipe.lowest_temperature)
        hardest = hinge(images, texts, margin=self._recipe.margin, temperature=0)
        return info_nce(images, texts, scale) + self._recipe.hinge_weight * hardest

    def _dev_vectors(self) -> tuple[Tensor, Tensor]:
        head = cast(Head, self._average.module)
        numbers = torch.split(torch.arange(len(self._dev_texts.lengths)), TEXT_BATCH)
        texts = [head.encode_texts(self._pool(head, self._dev_texts, part)) for part in numbers]
        return head.encode_images(self._dev_features), torch.cat(texts)

    def write(self, folder: Path) -> None:
        """Write what `load` reads; the standardisations become part of the layers behind and before them."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in TEXT_FILES:
            shutil.copyfile(self._text_folder / name, folder / name)
        content = json.dumps(configuration(self._recipe, "."), indent=2)
        (folder / "open_clip_config.json").write_text(content + "\n", encoding="utf-8")
        weights = self._clip.state_dict()
        image, text = self._head.standard_image, self._head.standard_text
        weights[f"{FIRST}.weight"] = weights[f"{FIRST}.weight"] / image.deviation
        weights[f"{FIRST}.bias"] = weights[f"{FIRST}.bias"] - weights[f"{FIRST}.weight"] @ image.mean
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


def learning_rates(recipe: Recipe, *, pictures: int) -> list[Callable[[int], float]]:
    """The rates of the heads and of the text tower's layers at each step: in both stages a cosine after a warm-up."""
    tuned = min(recipe.tuned_epochs, recipe.epochs)
    first = (recipe.epochs - tuned) * CAPTIONS * math.ceil(pictures / recipe.batch)
    second = tuned * CAPTIONS * math.ceil(pictures / recipe.tuned_batch)

    def factor(step: int, steps: int) -> float:
        return min(1, (step + 1) / recipe.warm_up) * (1 + math.cos(math.pi * step / steps)) / 2

    def heads(step: int) -> float:
        if step < first:
            return recipe.head_rate * factor(step, first)
        return recipe.tuned_head_rate * factor(step - first, second)

    def layers(step: int) -> float:
        return recipe.layer_rate * factor(step - first, second) if step >= first else 0

    return [heads, layers]


def configuration(recipe: Recipe, text: str) -> dict[str, Any]:
    """What open_clip calls the model; ``text`` is the folder of the text tower's files."""
    image = {"timm_model_name": NAME, "timm_model_pretrained": False, "timm_pool": "avg", "timm_proj": "mlp"}
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


def _with_dropout(first: nn.Module, second: nn.Module, rate: float) -> nn.Sequential:
    return nn.Sequential(nn.Dropout(rate / 2), first, nn.GELU(), nn.Dropout(rate), second)
