"""CLIP (Radford et al. 2021) through open_clip: any of its models, with weights by name or from a file."""

from __future__ import annotations

import hashlib
import os
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import open_clip
import torch
from huggingface_hub import constants

from models import ModelError
from models.preprocessing import Preprocessing

BATCH = 32


class ClipModel:
    """A CLIP of open_clip's, as ``CLIP_MODEL`` (architecture) and ``CLIP_PRETRAINED`` (weights) name it.

    Args:
        architecture: open_clip's name of the model, such as ``ViT-B-32``.
        pretrained: open_clip's name of the weights, such as ``openai``, or a file.
        image: whether to load the image tower.
        text: whether to load the text tower.

    Raises:
        ModelError: there is no such model, its weights cannot be had, or they do not fit.
    """

    def __init__(self, architecture: str, pretrained: str, *, image: bool, text: bool) -> None:
        config = open_clip.get_model_config(architecture)
        if config is None:
            raise ModelError(f"open_clip has no model {architecture!r}: set CLIP_MODEL to one of its names")
        self._architecture, self._tag = architecture, "" if Path(pretrained).is_file() else pretrained
        self._file = Path(pretrained) if not self._tag else _download(architecture, pretrained)
        self.dimension = int(config["embed_dim"])
        self.preprocessing = _preprocessing(config, open_clip.get_pretrained_cfg(architecture, self._tag))
        weights = _hash(self._file)
        self.fingerprint = f"clip {architecture} {self.dimension}-d {self.preprocessing} {weights}"
        model = self._load() if image or text else None
        self._visual = model.visual if model is not None and image else None
        self._text = model if text else None
        if model is not None and not image:
            model.visual = None
        self._tokenizer: Any = open_clip.get_tokenizer(architecture) if text else None

    @classmethod
    def load(cls, *, image: bool, text: bool) -> ClipModel:
        """The CLIP that the environment names, by default ViT-B/32 with OpenAI's weights."""
        architecture = os.environ.get("CLIP_MODEL") or "ViT-B-32"
        return cls(architecture, os.environ.get("CLIP_PRETRAINED") or "openai", image=image, text=text)

    def _load(self) -> Any:
        # OpenAI's weights were trained with QuickGELU; without it they give wrong vectors and no error.
        quick_gelu = self._tag == "openai" or self._architecture.endswith("-quickgelu")
        try:
            model = open_clip.create_model(
                self._architecture, pretrained=str(self._file), force_quick_gelu=quick_gelu, weights_only=True
            )
        except Exception as error:  # torch, safetensors and open_clip each have their own for a file that does not fit
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise ModelError(f"{self._file} does not fit CLIP_MODEL={self._architecture}: {reason}") from error
        return model.eval()

    @torch.inference_mode()
    def encode_images(self, pixels: np.ndarray) -> np.ndarray:
        """From uint8 ``[n, size, size, 3]`` (RGB) to float32 ``[n, dimension]`` of unit length."""
        if self._visual is None:
            raise ModelError("the image tower of clip is not loaded")
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.preprocessing.mean, self.preprocessing.std))
        batches = (pixels[start : start + BATCH] for start in range(0, len(pixels), BATCH))
        scaled = (
            torch.from_numpy(batch).permute(0, 3, 1, 2).float().div_(255).sub_(mean).div_(std) for batch in batches
        )
        return _unit([self._visual(batch) for batch in scaled], self.dimension)

    @torch.inference_mode()
    def encode_texts(self, texts: list[str]) -> np.ndarray:
        """From any texts to float32 ``[n, dimension]`` of unit length; what is longer than the model reads is cut."""
        if self._text is None:
            raise ModelError("the text tower of clip is not loaded")
        batches = (texts[start : start + BATCH] for start in range(0, len(texts), BATCH))
        return _unit([self._text.encode_text(self._tokenizer(batch)) for batch in batches], self.dimension)


def _unit(batches: list[torch.Tensor], dimension: int) -> np.ndarray:
    vectors = torch.cat([torch.empty(0, dimension), *batches])
    return torch.nn.functional.normalize(vectors, dim=-1).numpy()


def _preprocessing(config: dict[str, Any], pretrained: dict[str, Any]) -> Preprocessing:
    """What the weights were trained with; where open_clip does not know, CLIP's own constants."""
    size = config["vision_cfg"]["image_size"]
    size = size if isinstance(size, int) else size[0]
    return Preprocessing(
        size=size,
        resize=size,
        interpolation=pretrained.get("interpolation", "bicubic"),
        mean=tuple(pretrained.get("mean") or open_clip.OPENAI_DATASET_MEAN),
        std=tuple(pretrained.get("std") or open_clip.OPENAI_DATASET_STD),
    )


def _download(architecture: str, tag: str) -> Path:
    """The file of open_clip's weights of that name, from the network if it is not on the disk yet."""
    known = open_clip.list_pretrained_tags_by_model(architecture)
    if tag not in known:
        raise ModelError(f"CLIP_PRETRAINED={tag!r} is neither a file nor one of {architecture}'s: {', '.join(known)}")
    config = open_clip.get_pretrained_cfg(architecture, tag)
    if not _reachable(constants.ENDPOINT):
        constants.HF_HUB_OFFLINE = True  # looks on the disk only, where it would try for a minute
    try:
        return Path(open_clip.download_pretrained(config))
    except Exception as error:  # of whatever the network libraries are made
        where = config.get("url") or config.get("hf_hub")
        raise ModelError(
            f"the weights {tag} of {architecture} cannot be fetched: get {where} on another machine and set "
            "CLIP_PRETRAINED to the file, or use -m vse, which needs no download"
        ) from error


def _reachable(address: str) -> bool:
    try:
        with socket.create_connection((urlsplit(address).hostname or "", 443), timeout=3):
            return True
    except OSError:
        return False


def _hash(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()[:12]
