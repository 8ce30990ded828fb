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
        size: side of the square that the model sees, in pixels.
        resize: length of the picture's shorter side before the cut, in pixels; at least ``size``.
        interpolation: ``"bilinear"`` or ``"bicubic"``, both with antialiasing.
        mean: per channel (RGB), subtracted from values in 0..1.
        std: per channel (RGB), divides after the subtraction.
        mode: ``"shortest"`` resizes and cuts, ``"squash"`` changes the proportions to a square, ``"longest"`` makes the
            longer side ``size`` and fills the square with black.
    """

    size: int
    resize: int
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    mode: str = "shortest"

    def crop(self, picture: Image.Image) -> np.ndarray:
        """Make the square of a picture of any colour mode.

        Like CLIP's own code it converts to RGB last, which shows with palettes and transparency.

        Returns:
            uint8 array ``[size, size, 3]`` (RGB). The floats are made where they are used, in the encoder:
            a picture of uint8 is a quarter as heavy to send.
        """
        new = self._resized(*picture.size)
        if new != picture.size:
            picture = picture.resize(new, _FILTERS[self.interpolation])
        # As torchvision cuts and open_clip fills: an odd pixel is left out by rounding, and added at the end.
        left, top = (round((side - self.size) / 2) if side >= self.size else -((self.size - side) // 2) for side in new)
        return np.asarray(picture.convert("RGB").crop((left, top, left + self.size, top + self.size)))

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        if self.mode == "squash":
            return self.size, self.size
        if self.mode == "longest":
            ratio = max(width, height) / self.size
            return max(1, round(width / ratio)), max(1, round(height / ratio))
        if width <= height:
            return self.resize, max(self.resize, int(self.resize * height / width))
        return max(self.resize, int(self.resize * width / height)), self.resize

    def __str__(self) -> str:
        shape = "" if self.mode == "shortest" else f" {self.mode}"
        return f"{self.size}px/{self.resize} {self.interpolation}{shape}"
