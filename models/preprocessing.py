"""How a picture becomes the pixels that a model was trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class Preprocessing:
    """Resize, centre crop and the constants of the normalisation, as one model needs them.

    Args:
        size: side of the square that is cut out, in pixels.
        resize: length of the picture's shorter side before the cut, in pixels; at least ``size``.
        interpolation: ``"bilinear"`` or ``"bicubic"``, both with antialiasing.
        mean: per channel (RGB), subtracted from values in 0..1.
        std: per channel (RGB), divides after the subtraction.
    """

    size: int
    resize: int
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def crop(self, picture: Image.Image) -> np.ndarray:
        """Resize an RGB picture so that its shorter side is ``resize`` and cut out its centre.

        Returns:
            uint8 array ``[size, size, 3]``. The floats are made where they are used, in the encoder:
            a picture of uint8 is a quarter as heavy to send.
        """
        width, height = picture.size
        if width <= height:
            new = (self.resize, max(self.resize, int(self.resize * height / width)))
        else:
            new = (max(self.resize, int(self.resize * width / height)), self.resize)
        if new != picture.size:
            picture = picture.resize(new, _FILTERS[self.interpolation])
        left, top = round((new[0] - self.size) / 2), round((new[1] - self.size) / 2)
        return np.asarray(picture.crop((left, top, left + self.size, top + self.size)))

    def __str__(self) -> str:
        return f"{self.size}px/{self.resize} {self.interpolation}"
