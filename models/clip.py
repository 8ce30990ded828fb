"""CLIP (Radford et al. 2021) through open_clip: any of its models, with weights by name, from a file or a folder.

A folder is in open_clip's layout for Hugging Face: ``open_clip_config.json``, the weights, and the files of the
tokeniser and of the text tower's configuration where these are of Hugging Face.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import open_clip
import torch
from huggingface_hub import constants
from open_clip.tokenizer import HFTokenizer
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from models import ModelError
from models.checkpoint import Checkpoint, read_checkpoint
from models.precision import FAST_TYPE, prepare
from models.preprocessing import Preprocessing

BATCH = 32
SECONDS_TO_CONNECT = 3.0
QUICK_GELU = "-quickgelu"
HUGGING_FACE = ("hf_model_name", "hf_tokenizer_name")
WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
    "pytorch_model.bin",
)
_PREPROCESSING = {
    "mean": open_clip.OPENAI_DATASET_MEAN,
    "std": open_clip.OPENAI_DATASET_STD,
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


@dataclass(frozen=True)
class _Source:
    """A CLIP before its weights are read: open_clip's configuration of model and preprocessing, and the file."""

    architecture: str
    config: dict[str, Any]
    preprocessing: dict[str, Any]
    file: Path
    hash: str
    folder: Path | None = None


class ClipModel:
    """A CLIP of open_clip's; see `models.Model`.

    Args:
        architecture: open_clip's name of the model, such as ``ViT-B-32``; a folder needs none.
        pretrained: open_clip's name of the weights, such as ``openai``, or a file, or a folder.
        image: whether to load the image tower.
        text: whether to load the text tower. With neither it is only checked that both could be loaded.
        name: of this project for the model, the first word of the fingerprint.

    Raises:
        ModelError: there is no such model, its weights cannot be had, or they do not fit.
    """

    def __init__(self, architecture: str, pretrained: str, *, image: bool, text: bool, name: str = "clip") -> None:
        source = _source(architecture.replace("/", "-"), pretrained)
        if any((needed := source.config["text_cfg"].get(key)) and not Path(needed).is_dir() for key in HUGGING_FACE):
            _prefer_disk()
        checkpoint = read_checkpoint(source.file)
        quick_gelu = bool(source.config.get("quick_gelu")) or checkpoint.quick_gelu
        self.dimension = int(source.config["embed_dim"])
        self.preprocessing = _preprocessing(source)
        architecture = source.architecture.removesuffix(QUICK_GELU) + (QUICK_GELU if quick_gelu else "")
        self.fingerprint = f"{name} {architecture} {self.dimension}-d {self.preprocessing} {source.hash}"
        model = _build(source, checkpoint, quick_gelu=quick_gelu, check=not (image or text))
        self._image: Any = prepare(model.visual) if image else None
        self._text: Any = model.text.eval().to(FAST_TYPE) if text else None
        self._tokenizer = _tokenizer(source) if text or not image else None

    @classmethod
    def load(cls, *, image: bool, text: bool) -> ClipModel:
        """The CLIP that the environment names, by default ViT-B/32 with OpenAI's weights."""
        architecture = os.environ.get("CLIP_MODEL") or "ViT-B-32"
        return cls(architecture, os.environ.get("CLIP_PRETRAINED") or "openai", image=image, text=text)

    @torch.inference_mode()
    def encode_images(self, pixels: np.ndarray) -> np.ndarray:
        """From uint8 ``[n, size, size, 3]`` (RGB) to float32 ``[n, dimension]`` of unit length."""
        if self._image is None:
            raise ModelError("the image tower of clip is not loaded")
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.preprocessing.mean, self.preprocessing.std))
        batches = (pixels[start : start + BATCH] for start in range(0, len(pixels), BATCH))
        scaled = (
            torch.from_numpy(batch).permute(0, 3, 1, 2).float().div_(255).sub_(mean).div_(std) for batch in batches
        )
        return _unit([self._image(batch) for batch in scaled], self.dimension)

    @torch.inference_mode()
    def encode_texts(self, texts: list[str]) -> np.ndarray:
        """From any texts to float32 ``[n, dimension]`` of unit length; what is longer than the model reads is cut."""
        if self._text is None or self._tokenizer is None:
            raise ModelError("the text tower of clip is not loaded")
        batches = (self._tokenizer(texts[start : start + BATCH]) for start in range(0, len(texts), BATCH))
        return _unit([_encode(self._text, tokens) for tokens in batches], self.dimension)


def _unit(batches: list[Any], dimension: int) -> np.ndarray:
    """CoCa's towers give a pair, of which the first is the vector."""
    vectors = [batch[0] if isinstance(batch, tuple) else batch for batch in batches]
    together = torch.cat([torch.empty(0, dimension), *(vector.float() for vector in vectors)])
    return torch.nn.functional.normalize(together, dim=-1).numpy()


def _encode(tower: Any, tokens: Tensor) -> Any:
    """The tower's output for tokens ``[n, length]``, without the columns at the end that it masks in all rows."""
    if hasattr(tower, "pooler"):  # of Hugging Face, where padding is masked
        used = (tokens != tower.config.pad_token_id).any(0).nonzero()
        return tower(tokens[:, : int(used.max()) + 1 if len(used) else 1])
    if tower.pool_type == "argmax" and tower.attn_mask is not None and tower.cls_emb is None:
        length = int(tokens.argmax(1).max()) + 1  # a text's end has the highest number and sees only what is before it
        mask = {"attn_mask": tower.attn_mask[:length, :length]}
        return torch.func.functional_call(tower, mask, (tokens[:, :length],))
    return tower(tokens)


class _NoRandomNumbers(TorchFunctionMode):
    """Making the numbers that the weights replace would take longer than reading the weights."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func in (Tensor.uniform_, Tensor.normal_) else func(*args, **kwargs or {})


def _source(architecture: str, pretrained: str) -> _Source:
    path = Path(pretrained).expanduser()
    if path.is_dir():
        return _folder_source(path.resolve())
    if architecture not in open_clip.list_models():
        raise ModelError(
            f"open_clip has no model {architecture!r}: set CLIP_MODEL to one of its names, "
            "of which `python app.py -t models` shows some"
        )
    file = path if path.is_file() else _download(architecture, pretrained)
    with _blamed(file), file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    base = architecture.removesuffix(QUICK_GELU)
    published = {tag: open_clip.get_pretrained_cfg(base, tag) for tag in open_clip.list_pretrained_tags_by_model(base)}
    if path.is_file():
        known = next((tag for tag in published.values() if _is_published(tag, digest)), None)
    else:
        known = open_clip.get_pretrained_cfg(architecture, pretrained)
    config = open_clip.get_model_config(architecture) or {}
    if known:
        config["quick_gelu"] = known.get("quick_gelu", False)
    shared = known or _in_common(list(published.values()))
    return _Source(architecture, config, shared, file, digest[:12])


def _is_published(tag: dict[str, Any], digest: str) -> bool:
    """Addresses of OpenAI's and open_clip's files have the whole SHA-256 or its first eight digits in them."""
    return digest in tag.get("url", "") or f"-{digest[:8]}." in tag.get("url", "")


def _in_common(tags: list[dict[str, Any]]) -> dict[str, Any]:
    """The preprocessing that all published weights of an architecture agree on."""
    return {
        key: tags[0].get(key) for key in _PREPROCESSING if tags and all(tag.get(key) == tags[0][key] for tag in tags)
    }


def _folder_source(folder: Path) -> _Source:
    config_file = folder / "open_clip_config.json"
    if not config_file.is_file():
        raise ModelError(
            f"{folder} has no open_clip_config.json: CLIP_PRETRAINED takes folders in open_clip's layout, "
            "which transformers' CLIPModel does not have; get the model as open_clip publishes it"
        )
    with _blamed(config_file):
        content = json.loads(config_file.read_text(encoding="utf-8"))
        config = content["model_cfg"]
        text = config["text_cfg"]
        for key in HUGGING_FACE:
            if text.get(key) and (folder / text[key]).is_dir():
                text[key] = str((folder / text[key]).resolve())
        preprocessing = content.get("preprocess_cfg", {})
        file = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
        if file is None:
            raise ModelError(f"{folder} has no weights: one of {', '.join(WEIGHTS)} belongs there")
        digest = hashlib.sha256(config_file.read_bytes())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
        return _Source("folder", config, preprocessing, file, digest.hexdigest()[:12], folder)


def make(config: dict[str, Any], *, quick_gelu: bool) -> Any:
    """The model of open_clip's configuration, whose parameters are not set.

    Always the class whose towers can be used alone and whose text tower reads less than its whole context.
    """
    config = {key: value for key, value in config.items() if key not in ("custom_text", "multimodal_cfg")}
    config["vision_cfg"] = config["vision_cfg"] | {"timm_model_pretrained": False}
    config["text_cfg"] = config["text_cfg"] | {"hf_model_pretrained": False}
    with _NoRandomNumbers():
        return open_clip.CustomTextCLIP(**config | {"quick_gelu": quick_gelu})


def _build(source: _Source, checkpoint: Checkpoint, *, quick_gelu: bool, check: bool) -> Any:
    """The model with its weights; for a mere check one without memory, which costs no time."""
    with _blamed(source.file, "its model cannot be made"), torch.device("meta" if check else "cpu"):
        model = make(source.config, quick_gelu=quick_gelu)
    with _blamed(source.file):
        weights = _weights(model, checkpoint)
    _check_fit(source, model, weights)
    if not check:
        model.load_state_dict(weights, strict=False)
    return model


def _weights(model: Any, checkpoint: Checkpoint) -> dict[str, Tensor]:
    """By the names of a model with a tower for texts of its own, and without what vectors do not need."""
    weights = open_clip.factory.convert_state_dict(model, checkpoint.weights)
    if "positional_embedding" in weights:
        weights = open_clip.factory.convert_to_custom_text_state_dict(weights)
    scales_and_decoder = ("logit_scale", "logit_bias", "text_decoder.")
    constants_of_old_files = ("attn_mask", "text.transformer.embeddings.position_ids")
    return {
        name: tensor
        for name, tensor in weights.items()
        if not name.startswith(scales_and_decoder) and not name.endswith(constants_of_old_files)
    }


def _check_fit(source: _Source, model: nn.Module, weights: dict[str, Tensor]) -> None:
    needed = {name: list(tensor.shape) for name, tensor in model.state_dict().items() if not name.startswith("logit_")}
    given = {name: list(tensor.shape) for name, tensor in weights.items()}
    for name in sorted(needed.keys() | given.keys()):
        if needed.get(name) != given.get(name):
            shapes = (
                f"{name} is {given.get(name) or 'absent'} in the file and {needed.get(name) or 'absent'} in the model"
            )
            if source.folder:
                raise ModelError(f"{source.file} does not fit its open_clip_config.json: {shapes}")
            raise ModelError(
                f"{source.file} does not fit CLIP_MODEL={source.architecture}: {shapes}; "
                "set CLIP_MODEL to the architecture that the file was made with"
            )


def _preprocessing(source: _Source) -> Preprocessing:
    """What the weights were trained with; where nobody says, CLIP's own constants."""
    known = _PREPROCESSING | {key: value for key, value in source.preprocessing.items() if value is not None}
    size = source.config["vision_cfg"].get("image_size", 224)
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) > 1:
        raise ModelError(f"{source.architecture} takes pictures of {size[0]} x {size[1]} pixels: only squares are made")
    size = sides.pop()
    return Preprocessing(
        size=size,
        resize=size,
        interpolation="bilinear" if known["interpolation"] == "bilinear" else "bicubic",  # as open_clip decides
        mean=tuple(known["mean"]),
        std=tuple(known["std"]),
        mode=known["resize_mode"],
    )


def _tokenizer(source: _Source) -> Any:
    text = source.config["text_cfg"]
    with _blamed(source.file, "its tokeniser cannot be loaded"):
        if source.folder is None:
            return open_clip.get_tokenizer(source.architecture)
        length, options = text.get("context_length", 77), text.get("tokenizer_kwargs", {})
        if not text.get("hf_tokenizer_name"):
            return open_clip.SimpleTokenizer(context_length=length, **options)
        options = options | {"trust_remote_code": False}  # a folder may ask to run its own code
        mode = text.get("tokenizer_mode")
        return HFTokenizer(text["hf_tokenizer_name"], length, tokenizer_mode=mode, **options)


def _download(architecture: str, tag: str) -> Path:
    """The file of open_clip's weights of that name, from the network if it is not on the disk yet."""
    known = open_clip.list_pretrained_tags_by_model(architecture)
    config = open_clip.get_pretrained_cfg(architecture, tag)
    if not config:
        raise ModelError(f"CLIP_PRETRAINED={tag!r} is neither a file nor one of {architecture}'s: {', '.join(known)}")
    _prefer_disk()
    try:
        return Path(open_clip.download_pretrained(config))
    except Exception as error:  # of whatever the network libraries are made
        where = config.get("url") or config.get("hf_hub")
        raise ModelError(
            f"the weights {tag} of {architecture} cannot be fetched: get {where} on another machine and set "
            "CLIP_PRETRAINED to the file, or use -m clip-small, which needs no download"
        ) from error


def _prefer_disk() -> None:
    """Without a network look on the disk only, where Hugging Face's library would try for a minute."""
    constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE or not _reachable(constants.ENDPOINT)


@functools.cache
def _reachable(address: str) -> bool:
    """Whether a host answers, or the proxy before it."""
    parts = urlsplit(urllib.request.getproxies().get("https") or address)
    answers: list[bool] = []

    def connect() -> None:
        with (
            suppress(OSError),
            socket.create_connection((parts.hostname or "", parts.port or 443), SECONDS_TO_CONNECT),
        ):
            answers.append(True)

    thread = threading.Thread(target=connect, daemon=True)  # no timeout holds for a name server that is silent
    thread.start()
    thread.join(SECONDS_TO_CONNECT)
    return bool(answers)


@contextmanager
def _blamed(file: Path, what: str = "it cannot be used as weights of CLIP") -> Iterator[None]:
    """Whatever goes wrong inside becomes a `ModelError` of one line that names the file."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # open_clip, timm, transformers and torch each have their own
        reason = " ".join((str(error) or type(error).__name__).split())[:200]
        raise ModelError(f"{file}: {what} ({type(error).__name__}: {reason})") from error
