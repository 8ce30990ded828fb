"""What a CLIP is made of, before it is made: configuration, preprocessing and weights, by name or from files.

A folder is in one of two layouts. open_clip's for Hugging Face has ``open_clip_config.json``, the weights, and the
files of the tokeniser and of the text tower's configuration where these are of Hugging Face. transformers' for its
``CLIPModel`` has ``config.json``, the weights, and files of preprocessing and tokeniser, which must be CLIP's own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
from transformers import dynamic_module_utils

from models import ModelError, published, transformers_clip
from models.checkpoint import Checkpoint, read_checkpoint
from models.errors import blamed
from models.hashing import file_hash
from models.preprocessing import Preprocessing

HUGGING_FACE = ("hf_model_name", "hf_tokenizer_name")
QUICK_GELU = "-quickgelu"
WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
    "pytorch_model.bin",
)
_DESCRIPTIONS = ("open_clip_config.json", transformers_clip.CONFIG)
_CLIPS_OWN = {
    "mean": open_clip.OPENAI_DATASET_MEAN,
    "std": open_clip.OPENAI_DATASET_STD,
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}

dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0  # else transformers asks at the console whether to run a model's code


@dataclass(frozen=True)
class Source:
    """A CLIP before it is made.

    Args:
        architecture: open_clip's name, or ``"folder"``.
        config: open_clip's configuration of the model.
        preprocessing: what the weights were trained with; where nobody says, CLIP's own.
        file: of the weights.
        checkpoint: the weights.
        hash: the first 12 hexadecimal digits of the SHA-256 of the weights and of a folder's configuration.
        described_by: the configuration of a folder.
    """

    architecture: str
    config: dict[str, Any]
    preprocessing: Preprocessing
    file: Path
    checkpoint: Checkpoint
    hash: str
    described_by: Path | None = None


def find_source(architecture: str, pretrained: str) -> Source:
    """What is to be made of open_clip's names of a model and its weights, or of a file, or of a folder.

    Raises:
        ModelError: there is no such model, its weights cannot be had, or they cannot be used.
    """
    path, tag = published.locate(architecture, pretrained)
    if path.is_dir():
        return _folder(path)
    checkpoint = read_checkpoint(path)
    if checkpoint.of_transformers:
        return _beside(path, checkpoint)
    with blamed(path):
        digest = file_hash(path)
        alike = published.known(architecture.removesuffix(QUICK_GELU))
        tag = tag or next((tag for tag in alike if _is_published(tag, digest)), {})
        config = open_clip.get_model_config(architecture) or {}
        if tag:
            config["quick_gelu"] = tag.get("quick_gelu", False)
        preprocessing = _preprocessing(config, tag or _in_common(alike))
    return Source(architecture, config, preprocessing, path, checkpoint, digest[:12])


def _is_published(tag: dict[str, Any], digest: str) -> bool:
    """Addresses of OpenAI's and open_clip's files have the whole SHA-256 or its first eight digits in them."""
    return digest in tag.get("url", "") or f"-{digest[:8]}." in tag.get("url", "")


def _in_common(tags: list[dict[str, Any]]) -> dict[str, Any]:
    """The preprocessing that all published weights of an architecture agree on."""
    return {key: tags[0].get(key) for key in _CLIPS_OWN if tags and all(tag.get(key) == tags[0][key] for tag in tags)}


def _folder(folder: Path) -> Source:
    described_by = next((folder / name for name in _DESCRIPTIONS if (folder / name).is_file()), None)
    if described_by is None:
        raise ModelError(f"{folder} has no {' or '.join(_DESCRIPTIONS)}, which would say what its model is")
    file = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if file is None:
        raise ModelError(f"{folder} has no weights: one of {', '.join(WEIGHTS)} belongs there")
    if described_by.name == transformers_clip.CONFIG:
        return _beside(file)
    _refuse_code(folder)
    with blamed(described_by):
        content = json.loads(described_by.read_text(encoding="utf-8"))
        config = content["model_cfg"]
        for key in HUGGING_FACE:
            if (name := config["text_cfg"].get(key)) and (folder / name).is_dir():
                config["text_cfg"][key] = str((folder / name).resolve())
                _refuse_code(folder / name)
        preprocessing = _preprocessing(config, content.get("preprocess_cfg", {}))
        digest = file_hash(described_by, file)[:12]
    return Source("folder", config, preprocessing, file, read_checkpoint(file), digest, described_by)


def _beside(file: Path, checkpoint: Checkpoint | None = None) -> Source:
    """Weights of transformers' ``CLIPModel``, read already or not; files beside them say what the model is."""
    folder = file.parent
    described_by = folder / transformers_clip.CONFIG
    if not described_by.is_file():
        raise ModelError(f"{file} is of transformers, which wrote a {described_by.name} too: it belongs beside it")
    _refuse_code(folder)
    config = transformers_clip.read_config(described_by)
    transformers_clip.check_tokenizer(folder)
    prepared_by = transformers_clip.preprocessing_file(folder)
    with blamed(prepared_by or described_by):
        size = config["vision_cfg"]["image_size"]
        preprocessing = _preprocessing(
            config, transformers_clip.read_preprocessing(prepared_by, size) if prepared_by else {}
        )
        digest = file_hash(*filter(None, (described_by, prepared_by, file)))[:12]
    return Source("folder", config, preprocessing, file, checkpoint or read_checkpoint(file), digest, described_by)


def _refuse_code(folder: Path) -> None:
    """Refuse a folder that asks transformers to run code, before transformers sees it."""
    for file in sorted(folder.glob("*config.json")):

        def check(part: dict[str, Any], file: Path = file) -> dict[str, Any]:
            if "auto_map" in part:
                raise ModelError(f"{file} is refused: its auto_map asks to run code, which is never done")
            return part

        with blamed(file):
            json.loads(file.read_text(encoding="utf-8"), object_hook=check)


def _preprocessing(config: dict[str, Any], known: dict[str, Any]) -> Preprocessing:
    known = _CLIPS_OWN | {key: value for key, value in known.items() if value is not None}
    size = config["vision_cfg"].get("image_size", 224)
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) > 1:
        raise ValueError(f"it is for pictures of {size[0]} x {size[1]} pixels, and only squares are made")
    side = sides.pop()
    mean, std = (tuple(float(value) for value in known[key]) for key in ("mean", "std"))
    if len(mean) != 3 or len(std) != 3 or not all(std):
        raise ValueError(f"mean {mean} and standard deviation {std} are not those of three colours")
    return Preprocessing(
        size=side,
        resize=side,
        interpolation="bilinear" if known["interpolation"] == "bilinear" else "bicubic",  # as open_clip decides
        mean=mean,
        std=std,
        mode=known["resize_mode"],
    )
