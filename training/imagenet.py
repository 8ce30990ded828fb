"""ImageNet's 1,000 classes as pairs of a picture's features and words, from the classifier's weights alone.

They teach a model things that the pictures of a small data set do not show. No picture of ImageNet is used.
"""

from __future__ import annotations

import torch
from torch import Tensor

TEMPLATES = (
    *("{}", "a {}", "the {}", "there is a {}", "a photo of a {}", "a picture of a {} ."),
    *("a {} on a table", "a close up of a {}"),
)


def class_names() -> list[list[str]]:
    """The names of each class, lower-cased: ``["tabby", "tabby cat"]``."""
    from timm.data.imagenet_info import ImageNetInfo  # timm takes seconds

    info = ImageNetInfo()
    return [info.index_to_description(number).lower().split(", ") for number in range(1000)]


def prototypes(classifier: Tensor, features: Tensor) -> Tensor:
    """The features that a mean picture of each class must have, float32 ``[classes, d]``.

    Where all classes spread alike, the best linear classifier has the weights ``S^-1 (m - c)``: S is the covariance, m
    the mean of a class, c that of everything (linear discriminant analysis; Fisher, 1936). This is the way back, in
    directions; the length is set to that of a picture's distance from c.

    Args:
        classifier: its weights, ``[classes, d]``.
        features: of any pictures, ``[n, d]``, for the mean and the covariance.
    """
    centre = features.mean(dim=0)
    centred = features - centre
    directions = (classifier - classifier.mean(dim=0)) @ (centred.T @ centred)
    return centre + torch.nn.functional.normalize(directions, dim=1) * centred.norm(dim=1).mean()
