"""VSE++: the committed weights, and the files of the paper's authors, which are built here with their exact keys."""

from __future__ import annotations

import argparse
import os
import pickle
import shutil
import subprocess
import sys
import types
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from models import ModelError, precision, vse
from models.vocabulary import SPECIAL, Vocabulary
from models.vse import VseModel

WORDS = ["<pad>", "<start>", "<end>", "<unk>", "a", "dog", "runs", ".", "do", "n't", "it"]
CAPTIONS = {
    "A dog runs .": [1, 4, 5, 6, 7, 2],
    "don't, zebra": [1, 8, 9, 3, 3, 2],
    "": [1, 2],
    "a " * 50: [1, *[4] * 50, 2],
}
STRANGE = ["", " ", "\0", "\ud800", "🐈" * 5_000, "<end> <pad>", "no such wörd", "((((" * 9_999]
DIMENSION = 48
PHOTOS = ("chelsea.png", "coffee.png", "astronaut.png", "rocket.jpg", "motorcycle_left.png")


class Authors:
    """Files as the authors write them, and the same network in plain torchvision."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.cnn = random_cnn(name).eval()
        self.fc = nn.Linear(4096 if name == "vgg19" else 2048, DIMENSION)
        self.embed, self.rnn = nn.Embedding(len(WORDS), 300), nn.GRU(300, DIMENSION, batch_first=True)
        self.vocabulary = folder / "vocab.pkl"
        self.vocabulary.write_bytes(vocabulary_pickle("vocab"))

    def checkpoint(self, *, rename: tuple[tuple[str, str], ...] = (), drop: str = "?", **options: object) -> Path:
        """Write a checkpoint; in the names of the image tower's weights, ``rename`` is replaced, ``drop`` left out."""
        image = {authors_name(self.name, name): tensor.half() for name, tensor in self.cnn.state_dict().items()}
        image |= {f"fc.{name}": tensor for name, tensor in self.fc.state_dict().items()}
        for old, new in rename:
            image = {name.replace(old, new): tensor for name, tensor in image.items()}
        image = {name: tensor for name, tensor in image.items() if drop not in name}
        text = {f"embed.{name}": tensor for name, tensor in self.embed.state_dict().items()}
        text |= {f"rnn.{name}": tensor for name, tensor in self.rnn.state_dict().items()}
        settings = {"cnn_type": self.name, "measure": "cosine", "use_abs": False, "no_imgnorm": False} | options
        path = self.folder / "model_best.pth.tar"
        torch.save({"epoch": 1, "model": [image, text], "opt": argparse.Namespace(**settings), "Eiters": 1}, path)
        return path

    @torch.inference_mode()
    def images(self, pixels: np.ndarray) -> np.ndarray:
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        normalised = (torch.from_numpy(pixels) / 255 - mean) / std
        features = self.cnn(normalised.permute(0, 3, 1, 2))
        return F.normalize(self.fc(F.normalize(features))).numpy()

    @torch.inference_mode()
    def text(self, numbers: list[int]) -> np.ndarray:
        return F.normalize(self.rnn(self.embed(torch.tensor([numbers])))[1][0])[0].numpy()


def random_cnn(name: str) -> nn.Module:
    """Random weights that float16 holds exactly; big matrices repeat one column, so that a file of them is small."""
    torch.manual_seed(0)
    with torch.device("meta"):
        cnn = torchvision.models.get_model(name, weights=None)
        if name == "vgg19":
            cnn.classifier = cnn.classifier[:-1]
        else:
            cnn.fc = nn.Identity()
    cnn.load_state_dict({name: random_tensor(name, old) for name, old in cnn.state_dict().items()}, assign=True)
    return cnn


def random_tensor(name: str, like: torch.Tensor) -> torch.Tensor:
    if "num_batches" in name:
        return torch.tensor(1)
    if like.dim() == 1:
        return torch.rand(like.shape).half().float() / 2 + (0.25 if "weight" in name else 0)
    tensor = torch.randn(like.shape if like.dim() == 4 else (len(like), 1)) * (2 / like[0].numel()) ** 0.5
    return tensor.half().float().expand(like.shape)


def authors_name(cnn: str, name: str) -> str:
    """DataParallel is around VGG's convolutions, and around the whole of ResNet."""
    return f"cnn.{name.replace('features.', 'features.module.')}" if cnn == "vgg19" else f"cnn.module.{name}"


def vocabulary_pickle(module: str, **attributes: object) -> bytes:
    """What the authors' vocab.py writes. Their class exists only while this runs."""
    made = types.ModuleType(module)
    made.Vocabulary = type("Vocabulary", (), {"__module__": module})  # type: ignore[attr-defined]
    vocabulary = made.Vocabulary()
    vocabulary.word2idx = {word: number for number, word in enumerate(WORDS)}
    vocabulary.idx2word, vocabulary.idx = dict(enumerate(WORDS)), len(WORDS)
    vars(vocabulary).update(attributes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, module, made)
        return pickle.dumps(vocabulary, protocol=2)


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


Use = Callable[[Path, Path], None]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    """Sets the two variables."""

    def set_both(checkpoint: Path, vocabulary: Path) -> None:
        monkeypatch.setenv("VSE_CHECKPOINT", str(checkpoint))
        monkeypatch.setenv("VSE_VOCAB", str(vocabulary))

    return set_both


@pytest.fixture(scope="module")
def authors(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Authors]:
    return cache(lambda name: Authors(name, tmp_path_factory.mktemp(name)))


@pytest.fixture(scope="module")
def model() -> VseModel:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("VSE_CHECKPOINT", raising=False)
        patch.delenv("VSE_VOCAB", raising=False)
        return VseModel.load()


@pytest.fixture
def own_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the committed weights that is used in their place."""
    folder = shutil.copytree(vse.OWN_WEIGHTS, tmp_path / "vse")
    monkeypatch.setattr(vse, "OWN_WEIGHTS", folder)
    return folder


OLD_VGG = (("classifier.3.", "classifier.4."), ("classifier.0.", "classifier.1."))


@pytest.mark.parametrize(
    ("cnn", "layout"),
    [
        ("vgg19", {}),
        ("vgg19", {"rename": OLD_VGG}),
        ("resnet152", {}),
        ("resnet152", {"drop": "num_batches_tracked", "cnn_type": None}),
    ],
    ids=["vgg19", "old vgg19", "resnet152", "old resnet152"],
)
def test_authors_files_give_their_vectors(
    cnn: str,
    layout: dict[str, Any],
    authors: Callable[[str], Authors],
    use: Use,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(precision, "FAST_TYPE", torch.float32)
    files = authors(cnn)
    use(files.checkpoint(**layout), files.vocabulary)
    loaded = VseModel.load()
    pixels = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    np.testing.assert_allclose(loaded.encode_images(pixels), files.images(pixels), atol=1e-4)
    texts = np.stack([files.text(numbers) for numbers in CAPTIONS.values()])
    np.testing.assert_allclose(loaded.encode_texts(list(CAPTIONS)), texts, atol=1e-5)
    assert loaded.fingerprint.startswith(f"vse {cnn} {DIMENSION}-d 224px/256 bilinear ")


@pytest.mark.parametrize(
    ("layout", "reason"),
    [
        ({"cnn_type": "alexnet"}, "alexnet"),
        ({"use_abs": True}, "order embeddings"),
        ({"drop": "cnn."}, "precomputed features"),
        ({"drop": "classifier.0.bias"}, "classifier.0.bias"),
        ({"drop": "fc.weight"}, "fc.weight"),
        ({"rename": (("fc.", "head."),)}, "fc.weight"),
    ],
)
def test_checkpoint_that_does_not_fit_is_named(
    layout: dict[str, Any], reason: str, authors: Callable[[str], Authors], use: Use
) -> None:
    files = authors("vgg19")
    checkpoint = files.checkpoint(**layout)
    use(checkpoint, files.vocabulary)
    with pytest.raises(ModelError, match=reason) as error:
        VseModel.load()
    assert_one_line(error.value, checkpoint)


def test_vocabulary_of_another_size_is_refused(authors: Callable[[str], Authors], use: Use, tmp_path: Path) -> None:
    other = tmp_path / "other.pkl"
    other.write_bytes(vocabulary_pickle("__main__", word2idx={word: n for n, word in enumerate(WORDS[:-1])}))
    files = authors("vgg19")
    use(files.checkpoint(), other)
    with pytest.raises(ModelError, match=r"11.*10"):
        VseModel.load(image=False)


def test_malicious_checkpoint_does_not_run(use: Use, tmp_path: Path) -> None:
    checkpoint, vocabulary = tmp_path / "evil.pth.tar", tmp_path / "vocab.pkl"
    torch.save({"opt": argparse.Namespace(), "model": Trap(tmp_path / "ran")}, checkpoint)
    vocabulary.write_bytes(vocabulary_pickle("vocab"))
    use(checkpoint, vocabulary)
    with pytest.raises(ModelError) as error:
        VseModel.load()
    assert_one_line(error.value, checkpoint)
    assert not (tmp_path / "ran").exists()


def test_malicious_vocabulary_does_not_run(tmp_path: Path) -> None:
    path = tmp_path / "vocab.pkl"
    path.write_bytes(vocabulary_pickle("vocab", idx=Trap(tmp_path / "ran")))
    with pytest.raises(ModelError, match="not admitted") as error:
        Vocabulary.read(path)
    assert_one_line(error.value, path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("module", ["vocab", "__main__"])
def test_authors_vocabulary(module: str, tmp_path: Path) -> None:
    path = tmp_path / "vocab.pkl"
    path.write_bytes(vocabulary_pickle(module))
    assert Vocabulary.read(path).words == WORDS


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80",
        pickle.dumps(5),
        vocabulary_pickle("vocab", word2idx=["a"]),
        vocabulary_pickle("vocab", word2idx={"<pad>": 0, "<start>": 1, "<end>": 2, "<unk>": 4}),
        vocabulary_pickle("vocab", word2idx={"a": 0}),
    ],
)
def test_broken_vocabulary_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "vocab.pkl"
    path.write_bytes(content)
    with pytest.raises(ModelError) as error:
        Vocabulary.read(path)
    assert_one_line(error.value, path)


@given(st.lists(st.text(), unique=True))
def test_vocabulary_is_read_as_written(tmp_path_factory: pytest.TempPathFactory, words: list[str]) -> None:
    words = [*SPECIAL, *(word for word in words if word not in SPECIAL)]
    path = tmp_path_factory.mktemp("vocabulary") / "vocabulary.json"
    Vocabulary(words).save(path)
    assert Vocabulary.read(path).words == words


@pytest.mark.parametrize("content", [b"", b"PK\3\4 no", b"\x80\x02}."])
def test_broken_checkpoint_is_named(content: bytes, use: Use, tmp_path: Path) -> None:
    checkpoint = tmp_path / "model_best.pth.tar"
    checkpoint.write_bytes(content)
    use(checkpoint, tmp_path / "vocab.pkl")
    with pytest.raises(ModelError) as error:
        VseModel.load()
    assert_one_line(error.value, checkpoint)


def test_missing_files_are_named(use: Use, tmp_path: Path, authors: Callable[[str], Authors]) -> None:
    use(tmp_path / "absent.pth.tar", tmp_path / "absent.pkl")
    with pytest.raises(ModelError, match=r"absent\.pth\.tar"):
        VseModel.load(image=False, text=False)
    use(authors("vgg19").checkpoint(), tmp_path / "absent.pkl")
    with pytest.raises(ModelError, match=r"absent\.pkl"):
        VseModel.load(image=False)


@pytest.mark.parametrize("variable", ["VSE_CHECKPOINT", "VSE_VOCAB"])
def test_variables_belong_together(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "file")
    with pytest.raises(ModelError, match="set both"):
        VseModel.load()


def test_vectors_have_unit_length(model: VseModel) -> None:
    size = model.preprocessing.size
    pixels = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), np.uint8)
    for vectors in (model.encode_images(pixels), model.encode_texts(STRANGE)):
        assert vectors.dtype == np.float32
        assert vectors.shape[1] == model.dimension == 1024
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_nothing_gives_nothing(model: VseModel) -> None:
    size = model.preprocessing.size
    assert (
        model.encode_texts([]).shape == model.encode_images(np.empty((0, size, size, 3), np.uint8)).shape == (0, 1024)
    )


@given(st.lists(st.text(max_size=50), min_size=1, max_size=5))
@settings(deadline=None, max_examples=20)
def test_vector_does_not_depend_on_its_batch(model: VseModel, texts: list[str]) -> None:
    alone = np.concatenate([model.encode_texts([text]) for text in texts])
    np.testing.assert_allclose(model.encode_texts(texts), alone, atol=1e-5)


def test_picture_does_not_depend_on_its_batch(model: VseModel) -> None:
    pixels = photos(model)
    alone = np.concatenate([model.encode_images(one[None]) for one in pixels])
    assert (alone * model.encode_images(pixels)).sum(axis=1).min() > 0.9999


def test_fast_type_changes_little(model: VseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = photos(model)
    monkeypatch.setattr(precision, "FAST_TYPE", torch.float32)
    exact = VseModel.load(text=False).encode_images(pixels)
    monkeypatch.undo()
    cosines = (exact * model.encode_images(pixels)).sum(axis=1)
    assert cosines.mean() > 0.999
    assert cosines.min() > 0.998


@pytest.mark.parametrize(
    ("text", "photo"),
    [
        ("a cat", "chelsea.png"),
        ("a cup of coffee", "coffee.png"),
        ("a motorcycle", "motorcycle_left.png"),
        ("a smiling woman in orange", "astronaut.png"),
    ],
)
def test_text_finds_its_photo(model: VseModel, text: str, photo: str) -> None:
    scores = model.encode_images(photos(model)) @ model.encode_texts([text])[0]
    assert PHOTOS[int(scores.argmax())] == photo


def test_fingerprint_is_of_all_files(model: VseModel, own_weights: Path) -> None:
    fingerprints = {VseModel.load(image=image, text=not image).fingerprint for image in (True, False)}
    assert fingerprints == {model.fingerprint}
    with (own_weights / "text.safetensors").open("ab") as stream:
        stream.write(b"\0")
    assert VseModel.load(image=False, text=False).fingerprint != model.fingerprint


@pytest.mark.parametrize("name", vse.OWN_FILES)
def test_broken_own_file_is_named(name: str, own_weights: Path) -> None:
    (own_weights / name).write_bytes(b"{}")
    with pytest.raises(ModelError) as error:
        VseModel.load()
    assert_one_line(error.value, own_weights / name)
    (own_weights / name).unlink()
    with pytest.raises(ModelError, match=name):
        VseModel.load(image=False, text=False)


def test_text_tower_needs_neither_the_image_file_nor_its_libraries(own_weights: Path) -> None:
    (own_weights / "image.safetensors").write_bytes(b"not weights")
    assert VseModel.load(image=False).encode_texts(["a dog"]).shape == (1, 1024)
    load = "import sys, models; models.load('vse', image=False, text=True)"
    code = f"{load}; assert not {{'timm', 'torchvision'}} & {{*sys.modules}}"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(vse.__file__).parent.parent)


def test_tower_that_was_not_loaded_says_so() -> None:
    model = VseModel.load(image=False, text=False)
    with pytest.raises(ModelError, match="image=True"):
        model.encode_images(np.zeros((1, 260, 260, 3), np.uint8))
    with pytest.raises(ModelError, match="text=True"):
        model.encode_texts(["a dog"])


def photos(model: VseModel) -> np.ndarray:
    """scikit-image's photographs as pixels."""
    folder = Path(pytest.importorskip("skimage").__file__).parent / "data"
    pictures = [Image.open(folder / name).convert("RGB") for name in PHOTOS]
    return np.stack([model.preprocessing.crop(picture) for picture in pictures])


def assert_one_line(error: Exception, file: Path) -> None:
    assert str(file) in str(error)
    assert "\n" not in str(error)
