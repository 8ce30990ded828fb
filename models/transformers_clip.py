"""The CLIP of transformers, its ``CLIPModel``, in open_clip's terms: the configuration and the names of weights."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import open_clip
import torch
import transformers
from torch import Tensor

from models import ModelError
from models.errors import blamed

CONFIG = "config.json"
_PREPROCESSING = ("preprocessor_config.json", "processor_config.json")
_TOKENIZER = ("tokenizer.json", "vocab.json")
_MARKS = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}  # open_clip's and transformers' names
_STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")
_INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_TOWERS = {"text_model": "transformer", "vision_model": "visual.transformer"}
_NAMES = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
}
_PROJECTIONS = {"text_projection.weight": "text_projection", "visual_projection.weight": "visual.proj"}
_LAYER = re.compile(rf"({'|'.join(_TOWERS)})\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
_PARTS = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


_clips_tokenizer = functools.cache(open_clip.SimpleTokenizer)


def is_of_transformers(names: Iterable[str]) -> bool:
    """Whether these are names of weights that ``CLIPModel``, or a model like it, has saved."""
    return any(name.startswith(tuple(f"{tower}." for tower in _TOWERS)) for name in names)


def convert(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by open_clip's names. What has none there keeps its own."""
    return dict(_converted(weights))


def _converted(weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in weights.items():
        layer = _LAYER.fullmatch(name)
        if name in _PROJECTIONS:
            yield _PROJECTIONS[name], tensor.T
        elif layer and layer[3] in _PARTS:
            yield f"{_TOWERS[layer[1]]}.resblocks.{layer[2]}.{_PARTS[layer[3]]}.{layer[4]}", tensor
        elif layer and layer[3] in _ATTENTION:
            if layer[3] == _ATTENTION[0]:
                yield f"{_TOWERS[layer[1]]}.resblocks.{layer[2]}.attn.in_proj_{layer[4]}", _joined(weights, name)
        elif not name.endswith(".position_ids"):  # a constant of old files
            yield _NAMES.get(name, name), tensor


def _joined(weights: Mapping[str, Tensor], queries: str) -> Tensor:
    parts = [weights.get(queries.replace(_ATTENTION[0], part)) for part in _ATTENTION]
    known = [part for part in parts if part is not None and part.shape == weights[queries].shape]
    if len(known) < len(parts):
        raise ValueError(f"{queries} lacks keys or values of the same shape")
    return torch.cat(known)


def read_config(file: Path) -> dict[str, Any]:
    """open_clip's configuration of the model, from a ``config.json``.

    Raises:
        ModelError: it is of another model, or of one that differs from what open_clip can make.
    """
    content = _read(file)
    if content.get("model_type") != "clip":
        raise ModelError(
            f"{file} has the model_type {content.get('model_type')!r}: of transformers' models only 'clip' can be used"
        )
    with blamed(file):
        config: Any = transformers.CLIPConfig.from_dict(content)
        text, vision = config.text_config, config.vision_config
        _check(file, text, vision)
        return {
            "embed_dim": config.projection_dim,
            "quick_gelu": text.hidden_act == "quick_gelu",
            "vision_cfg": {
                **_tower(vision),
                "head_width": vision.hidden_size // vision.num_attention_heads,
                "image_size": vision.image_size,
                "patch_size": vision.patch_size,
            },
            "text_cfg": {
                **_tower(text),
                "heads": text.num_attention_heads,
                "context_length": text.max_position_embeddings,
                "vocab_size": text.vocab_size,
            },
        }


def _tower(config: Any) -> dict[str, Any]:
    return {
        "width": config.hidden_size,
        "layers": config.num_hidden_layers,
        "mlp_ratio": (config.intermediate_size + 0.5) / config.hidden_size,  # open_clip multiplies and rounds down
        "norm_kwargs": {"eps": config.layer_norm_eps},
    }


def _check(file: Path, text: Any, vision: Any) -> None:
    if text.hidden_act != vision.hidden_act or text.hidden_act not in ("gelu", "quick_gelu"):
        raise ModelError(
            f"{file}: hidden_act is {text.hidden_act!r} for texts and {vision.hidden_act!r} for pictures; "
            "it can be gelu or quick_gelu, the same for both"
        )
    tokenizer = _clips_tokenizer()
    # A 2 of old files means the highest number in a text, which is the true end.
    if text.eos_token_id not in (2, tokenizer.eot_token_id) or text.vocab_size < tokenizer.vocab_size:
        raise ModelError(
            f"{file}: eos_token_id {text.eos_token_id} and vocab_size {text.vocab_size} are not of CLIP's tokeniser, "
            f"the only one that can be used: it has {tokenizer.vocab_size} tokens, and the last ends a text"
        )


def check_tokenizer(folder: Path) -> None:
    """Check that the tokeniser whose files lie in a folder, if there are any, is CLIP's own.

    Raises:
        ModelError: it has other tokens.
    """
    file = _first(folder, _TOKENIZER)
    if file is None:
        return
    content = _read(file)
    with blamed(file):
        given = content["model"]["vocab"] if file.name == _TOKENIZER[0] else content
        wrong = [
            token
            for token, number in _clips_tokenizer().encoder.items()
            if given.get(_MARKS.get(token, token)) != number
        ]
    if wrong:
        raise ModelError(f"{file} is not CLIP's own tokeniser, the only one that can be used: {wrong[0]!r} differs")


def preprocessing_file(folder: Path) -> Path | None:
    """The file in a folder that says how pictures are prepared, if there is one."""
    return _first(folder, _PREPROCESSING)


def read_preprocessing(file: Path, size: int) -> dict[str, Any]:
    """open_clip's configuration of the preprocessing.

    Args:
        file: see `preprocessing_file`.
        size: of the pictures that the model takes, in pixels.

    Raises:
        ModelError: it is not CLIP's way of resizing and cutting.
    """
    content = _read(file)
    with blamed(file):
        content = content.get("image_processor", content)
        interpolation = _INTERPOLATIONS.get(content.get("resample", 3))
        resized = content.get("size", size) in (size, {"shortest_edge": size})
        cut = content.get("crop_size", size) in (size, {"height": size, "width": size})
        if not (resized and cut and interpolation and all(content.get(step, True) for step in _STEPS)):
            raise ModelError(
                f"{file} is not how CLIP prepares a picture: the shorter side to {size} pixels (bicubic or bilinear), "
                "the centre cut out, mean and standard deviation"
            )
        return {"mean": content.get("image_mean"), "std": content.get("image_std"), "interpolation": interpolation}


def _first(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _read(file: Path) -> dict[str, Any]:
    with blamed(file):
        content = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ModelError(f"{file} is not what transformers writes: it holds no object")
    return content
