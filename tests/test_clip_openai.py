"""CLIP against OpenAI's own code (clip-anytorch), on random weights in the formats of OpenAI's files."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import clip
import numpy as np
import open_clip
import pytest
import skimage
import torch
from clip.model import CLIP
from docarray import DocList
from PIL import Image, ImageOps

import models.clip
import models.precision
from executors.document import Document, picture_id
from executors.loader import Loader
from executors.normalizer import Normalizer
from models import ModelError
from models.clip import ClipModel

# embed_dim, image_resolution, vision_layers, vision_width, vision_patch_size, context_length, vocab_size,
# transformer_width, transformer_heads, transformer_layers: as OpenAI published them
SIZES: dict[str, tuple[Any, ...]] = {
    "ViT-B-32": (512, 224, 12, 768, 32, 77, 49408, 512, 8, 12),
    "ViT-B-16": (512, 224, 12, 768, 16, 77, 49408, 512, 8, 12),
    "RN50": (1024, 224, (3, 4, 6, 3), 64, None, 77, 49408, 512, 8, 12),
}
TEXTS = ["a dog", "a cat on a mat " * 60, "", "🐈 猫 &amp; café", "two children play at the sea"]
MARKS = ("input_resolution", "context_length", "vocab_size")


class Weights(NamedTuple):
    """Random weights of one architecture as OpenAI saves them, and the model that OpenAI's code makes of them."""

    archive: Path
    state_dict: Path
    plain: Path
    reference: Any
    preprocess: Any


@pytest.fixture(scope="module", params=SIZES)
def weights(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Weights:
    return save(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.node.callspec.params["weights"])


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (models.clip, models.precision):
        monkeypatch.setattr(module, "FAST_TYPE", torch.float32)


def save(name: str, folder: Path) -> Weights:
    torch.manual_seed(0)
    model = CLIP(*SIZES[name]).eval()
    torch.save(model.state_dict(), folder / "plain.pt")
    traced = save_archive(model, SIZES[name], folder / "archive.pt")
    torch.save(traced.state_dict(), folder / "state_dict.pt")
    reference, preprocess = clip.load(str(folder / "archive.pt"), device="cpu")
    return Weights(folder / "archive.pt", folder / "state_dict.pt", folder / "plain.pt", reference, preprocess)


def save_archive(model: CLIP, sizes: tuple[Any, ...], file: Path) -> Any:
    """It is traced and in half precision, and its three marks are buffers, as in OpenAI's."""
    for mark, value in zip(MARKS, (sizes[1], sizes[5], sizes[6]), strict=True):
        vars(model).pop(mark, None)
        model.register_buffer(mark, torch.tensor(value))
    inputs = torch.zeros(1, 3, 224, 224), torch.zeros(1, 77, dtype=torch.long)
    trace: Any = torch.jit.trace
    traced = trace(model, inputs, check_trace=False)
    for parameter in traced.parameters():
        if parameter.ndim > 1:
            parameter.data = parameter.data.half()
    traced.save(str(file))
    return traced


@cache
def photographs() -> list[Image.Image]:
    """Real pictures of scikit-image, in their own colour modes, and parts of them: 100."""
    found: list[Any] = []
    for path in sorted((Path(skimage.__file__).parent / "data").glob("*.[pj][np]g")):
        with Image.open(path) as opened:
            found.append(opened.copy())
    random = np.random.default_rng(0)
    whole = [picture for picture in found if min(picture.size) > 100]
    while len(found) < 100:
        picture = whole[len(found) % len(whole)]
        width, height = (int(random.integers(60, side)) for side in picture.size)
        left, top = (
            int(random.integers(0, all_ - part)) for all_, part in zip(picture.size, (width, height), strict=True)
        )
        found.append(picture.crop((left, top, left + width, top + height)))
    return found


def through_the_application(files: list[Path]) -> np.ndarray:
    """What the boxes ``loader`` and ``normalizer`` make of files: uint8 ``[n, size, size, 3]``."""
    docs = DocList[Document](Document(id=picture_id(file.read_bytes()), uri=str(file)) for file in files)
    docs = Normalizer(model="clip").normalize(Loader(root=str(files[0].parent)).load(docs))
    assert [doc.error for doc in docs] == [""] * len(files)
    return np.stack([doc.pixels for doc in docs])


def by_openai(preprocess: Any, files: list[Path]) -> np.ndarray:
    """OpenAI's preprocessing up to the floats."""
    pixels = []
    for file in files:
        with Image.open(file) as opened:
            picture: Any = opened
            for step in preprocess.transforms[:-2]:
                picture = step(picture)
            pixels.append(np.asarray(picture))
    return np.stack(pixels)


@pytest.fixture
def configured(weights: Weights, architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIP_MODEL", architecture)
    monkeypatch.setenv("CLIP_PRETRAINED", str(weights.archive))


def cosines(ours: np.ndarray, theirs: torch.Tensor) -> np.ndarray:
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)
    return np.einsum("ij,ij->i", ours, torch.nn.functional.normalize(theirs.float(), dim=-1).numpy())


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{place:03}.png" for place in range(100)]
    for path, picture in zip(paths, photographs(), strict=True):
        picture.save(path)
    return paths


def test_vectors_are_those_of_openai(weights: Weights, architecture: str, exact: None) -> None:
    model = ClipModel(architecture, str(weights.archive), image=True, text=True)
    assert model.fingerprint.startswith(f"clip {architecture}-quickgelu ")
    pictures = [picture.convert("RGB") for picture in photographs()[:4]]
    with torch.inference_mode():
        images = weights.reference.encode_image(torch.stack([weights.preprocess(picture) for picture in pictures]))
        texts = weights.reference.encode_text(clip.tokenize(TEXTS, truncate=True))
    pixels = np.stack([model.preprocessing.crop(picture) for picture in pictures])
    least = cosines(model.encode_images(pixels), images).min(), cosines(model.encode_texts(TEXTS), texts).min()
    np.testing.assert_allclose(model.encode_texts(TEXTS[:1]), model.encode_texts(TEXTS)[:1], atol=1e-6)
    print(f"{architecture}: cosine {least[0]:.7f} image, {least[1]:.7f} text")
    assert min(least) >= 0.99999


def test_bfloat16_is_near(weights: Weights, architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.stack([np.asarray(one.convert("RGB").resize((224, 224))) for one in photographs()[:4]])
    vectors = []
    for dtype in (torch.float32, torch.bfloat16):
        for module in (models.clip, models.precision):
            monkeypatch.setattr(module, "FAST_TYPE", dtype)
        model = ClipModel(architecture, str(weights.archive), image=True, text=True)
        vectors.append((model.encode_images(pixels), model.encode_texts(TEXTS)))
    least = [(one * other).sum(1).min() for one, other in zip(*vectors, strict=True)]
    print(f"{architecture}: bfloat16 cosine {least[0]:.5f} image, {least[1]:.5f} text")
    assert min(least) >= 0.999


@pytest.mark.parametrize("weights", ["ViT-B-32"], indirect=True)
class TestPreprocessing:
    def test_real_pictures(self, weights: Weights, configured: None, files: list[Path]) -> None:
        np.testing.assert_array_equal(through_the_application(files), by_openai(weights.preprocess, files))

    def test_flickr8k(self, weights: Weights, configured: None, flickr8k: Path) -> None:
        files = sorted((flickr8k / "images").glob("*.jpg"))[:100]
        np.testing.assert_array_equal(through_the_application(files), by_openai(weights.preprocess, files))

    def test_an_upright_picture_is_the_one_difference(self, weights: Weights, configured: None, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        picture = photographs()[0].convert("RGB")
        picture.save(tmp_path / "turned.png", exif=exif)
        ImageOps.exif_transpose(Image.open(tmp_path / "turned.png")).save(tmp_path / "upright.png")
        ours = through_the_application([tmp_path / "turned.png"])
        np.testing.assert_array_equal(ours, by_openai(weights.preprocess, [tmp_path / "upright.png"]))
        assert (ours != by_openai(weights.preprocess, [tmp_path / "turned.png"])).any()


def captions(folder: Path) -> Iterator[str]:
    with (folder / "captions.txt").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield row["caption"]


def test_tokens_of_all_captions(flickr8k: Path) -> None:
    texts = list(captions(flickr8k))
    assert len(texts) == 40_455
    assert torch.equal(open_clip.get_tokenizer("ViT-B-32")(texts), clip.tokenize(texts, truncate=True).long())


@pytest.mark.parametrize(
    "text",
    [
        "🐈‍⬛ 👩🏽‍🚀 🇩🇪",
        "一只猫坐在垫子上",
        "caf&eacute; &amp;amp; &lt;b&gt;",
        "word " * 1000,
        "猫" * 1000,
        "",
        " \n\t ",
    ],
    ids=["emoji", "chinese", "entities", "1000 words", "1000 signs", "empty", "blank"],
)
def test_tokens_of_unusual_texts(text: str) -> None:
    assert torch.equal(open_clip.get_tokenizer("ViT-B-32")([text]), clip.tokenize([text], truncate=True).long())


@pytest.mark.parametrize("weights", ["ViT-B-32"], indirect=True)
class TestQuickGelu:
    def test_a_state_dict_of_openais_code_is_recognised(self, weights: Weights) -> None:
        """It has no marks, only the order of its parts."""
        model = ClipModel("ViT-B-32", str(weights.plain), image=False, text=False)
        assert model.fingerprint.startswith("clip ViT-B-32-quickgelu ")

    def test_a_state_dict_is_as_the_archive(self, weights: Weights) -> None:
        files = weights.archive, weights.state_dict
        one, other = (ClipModel("ViT-B-32", str(file), image=False, text=True) for file in files)
        np.testing.assert_array_equal(one.encode_texts(TEXTS), other.encode_texts(TEXTS))

    def test_a_state_dict_of_open_clip_is_not(self, weights: Weights, tmp_path: Path) -> None:
        torch.save(open_clip.create_model("ViT-B-32").state_dict(), tmp_path / "plain.pt")
        model = ClipModel("ViT-B-32", str(tmp_path / "plain.pt"), image=False, text=False)
        assert model.fingerprint.startswith("clip ViT-B-32 512-d ")

    def test_another_architecture_is_refused(self, weights: Weights) -> None:
        with pytest.raises(ModelError, match=r"archive\.pt does not fit CLIP_MODEL=ViT-B-16: .*set CLIP_MODEL"):
            ClipModel("ViT-B-16", str(weights.archive), image=False, text=False)
