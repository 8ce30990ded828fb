"""What the frozen part of a CNN makes of each picture, in several views, kept on disk.

The frozen part is by far the dearest step of training, and gives the same in each epoch: it is done once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from models.preprocessing import Preprocessing
from models.vse import IMAGE_BATCH, normalise
from progress import Progress
from training.efficientnet import PREPROCESSING
from training.flickr8k import Split

CHUNK = 240  # pictures in one file, the most work that is lost if the program is killed
SMALLEST_AREA = 0.4  # of a random crop, as a part of the picture
RATIOS = (3 / 4, 4 / 3)  # of a random crop's width to its height, seen from the picture's own

Frozen = Callable[[Tensor], Tensor]


def picture_features(frozen: Frozen, pictures: list[Path], *, views: int, workspace: Path) -> Tensor:
    """EfficientNet's of each picture, float32 ``[views, pictures, features]``, from the cache if they are there."""
    folder = workspace / f"features-{Split(pictures, []).digest()}"
    arrays = cached_features(frozen, pictures, views=views, preprocessing=PREPROCESSING, folder=folder)
    return torch.from_numpy(np.stack(arrays)).float()


def cached_features(
    frozen: Frozen, pictures: Sequence[Path], *, views: int, preprocessing: Preprocessing, folder: Path
) -> list[np.ndarray]:
    """The features of every picture, one array ``[pictures, …]`` of float16 a view, as maps of files in ``folder``.

    View 0 is the picture as the application sees it, view 1 its mirror image, all others are random crops. Files that
    are there already are taken as they are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    numbered = list(enumerate(pictures))
    chunks = [numbered[start : start + CHUNK] for start in range(0, len(numbered), CHUNK)]
    with Progress("features", total=views * len(pictures), unit="pictures") as progress:
        for view in range(views):
            for number, chunk in enumerate(chunks):
                path = folder / f"{view}-{number:03}.npy"
                if not path.exists():
                    _save(path, _chunk(frozen, chunk, view, preprocessing))
                progress.advance(len(chunk))
    return [
        np.concatenate([np.load(folder / f"{view}-{number:03}.npy") for number in range(len(chunks))])
        for view in range(views)
    ]


def _chunk(frozen: Frozen, pictures: Sequence[tuple[int, Path]], view: int, preprocessing: Preprocessing) -> np.ndarray:
    pixels = np.stack([see(path, view=view, seed=number, preprocessing=preprocessing) for number, path in pictures])
    with torch.inference_mode():
        batches = torch.split(normalise(pixels, preprocessing), IMAGE_BATCH)
        return torch.cat([frozen(batch).half() for batch in batches]).numpy()


def see(path: Path, *, view: int, seed: int, preprocessing: Preprocessing) -> np.ndarray:
    """One view of a picture, the same for the same seed: uint8 ``[size, size, 3]``."""
    with Image.open(path) as file:
        picture = file.convert("RGB")
    if view < 2:
        pixels = preprocessing.crop(picture)
        return pixels[:, ::-1] if view else pixels
    return random_crop(picture, size=preprocessing.size, random=np.random.default_rng((view, seed)))


def random_crop(picture: Image.Image, *, size: int, random: np.random.Generator) -> np.ndarray:
    """A part of at least 40% of the picture's area, made square, every second time mirrored."""
    area = random.uniform(SMALLEST_AREA, 1)
    ratio = np.exp(random.uniform(*np.log(RATIOS)))
    width = min(1, np.sqrt(area * ratio)) * picture.width
    height = min(1, np.sqrt(area / ratio)) * picture.height
    left, top = random.uniform(0, picture.width - width), random.uniform(0, picture.height - height)
    part = picture.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
    return np.asarray(part)[:, :: random.choice((-1, 1))]


def _save(path: Path, array: np.ndarray) -> None:
    """All or nothing."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as stream:
        np.save(stream, array)
    os.replace(partial, path)
