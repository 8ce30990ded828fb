"""CLIP through open_clip, on random weights: what is tested is the way from a file to vectors, not a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from models import ModelError
from models.clip import ClipModel
from models.preprocessing import Preprocessing

ARCHITECTURE = "ViT-S-32-alt"  # the smallest of open_clip's: what is tested holds for all
TEXTS = ["a dog", "a cat on a mat " * 60, "", "🐈 猫 &amp; café"]


@pytest.fixture(scope="module")
def reference() -> Any:
    torch.manual_seed(0)
    return open_clip.create_model(ARCHITECTURE).eval()


@pytest.fixture(scope="module")
def weights(reference: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("clip") / "weights.pt"
    torch.save(reference.state_dict(), file)
    return file


def test_vectors_are_those_of_open_clip(reference: Any, weights: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), np.uint8)
    transform = open_clip.image_transform(
        224, is_train=False, mean=open_clip.OPENAI_DATASET_MEAN, std=open_clip.OPENAI_DATASET_STD
    )
    with torch.inference_mode():
        images = reference.encode_image(
            torch.stack([transform(Image.fromarray(one)) for one in pixels]), normalize=True
        )
        texts = reference.encode_text(open_clip.get_tokenizer(ARCHITECTURE)(TEXTS), normalize=True)
    model = ClipModel(ARCHITECTURE, str(weights), image=True, text=True)
    np.testing.assert_allclose(model.encode_images(pixels), images.numpy(), atol=1e-5)
    np.testing.assert_allclose(model.encode_texts(TEXTS), texts.numpy(), atol=1e-5)


def test_towers_share_one_fingerprint(weights: Path) -> None:
    image = ClipModel(ARCHITECTURE, str(weights), image=True, text=False)
    text = ClipModel(ARCHITECTURE, str(weights), image=False, text=True)
    assert image.fingerprint == text.fingerprint
    assert image.fingerprint.startswith(f"clip {ARCHITECTURE} {image.dimension}-d ")
    with pytest.raises(ModelError):
        image.encode_texts(["a dog"])


def test_other_weights_have_another_fingerprint(reference: Any, weights: Path, tmp_path: Path) -> None:
    state = reference.state_dict()
    state["logit_scale"] = state["logit_scale"] + 1
    torch.save(state, tmp_path / "other.pt")
    prints = [
        ClipModel(ARCHITECTURE, str(file), image=False, text=False).fingerprint
        for file in (weights, tmp_path / "other.pt")
    ]
    assert prints[0] != prints[1]


def test_preprocessing_is_clips_own() -> None:
    """To the pixel what open_clip makes of a picture."""
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (333, 517, 3), np.uint8))
    ours = Preprocessing(
        size=224,
        resize=224,
        interpolation="bicubic",
        mean=open_clip.OPENAI_DATASET_MEAN,
        std=open_clip.OPENAI_DATASET_STD,
    ).crop(picture)
    transform = open_clip.image_transform(224, is_train=False, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    theirs = (transform(picture) * 255).round().byte().permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("architecture", "pretrained", "message"),
    [
        ("ViT-B-33", "openai", "no model 'ViT-B-33'"),
        ("ViT-B-32", "no/such/file.pt", "'no/such/file.pt' is neither a file nor"),
    ],
)
def test_unknown_names_are_refused(architecture: str, pretrained: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        ClipModel(architecture, pretrained, image=False, text=False)


def test_file_that_does_not_fit_is_named(tmp_path: Path) -> None:
    file = tmp_path / "other.pt"
    torch.save({"weight": torch.zeros(3)}, file)
    with pytest.raises(ModelError, match=r"other\.pt does not fit CLIP_MODEL=ViT-S-32-alt"):
        ClipModel(ARCHITECTURE, str(file), image=True, text=False)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

    torch.save({"state_dict": Attack()}, tmp_path / "attack.pt")
    with pytest.raises(ModelError, match=r"attack\.pt"):
        ClipModel(ARCHITECTURE, str(tmp_path / "attack.pt"), image=True, text=False)
    assert not (tmp_path / "ran").exists()


def test_weights_that_cannot_be_fetched_are_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("models.clip.constants.ENDPOINT", "https://nowhere.invalid")
    monkeypatch.setattr("models.clip.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="set CLIP_PRETRAINED to the file, or use -m vse"):
        ClipModel("ViT-B-32", "openai", image=False, text=False)
