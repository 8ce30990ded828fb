"""CLIP (Radford et al. 2021) through open_clip: any of its models, with weights by name, from a file or a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.tokenizer import HFTokenizer
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from models import ModelError, published
from models.clip_source import HUGGING_FACE, QUICK_GELU, Source, find_source
from models.errors import blamed
from models.precision import FAST_TYPE, prepare

BATCH = 32
TEXT_BATCH = 16  # small, so that few texts are filled up to the length of a longer one


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
        source = find_source(architecture, pretrained)
        if any((needed := source.config["text_cfg"].get(key)) and not Path(needed).is_dir() for key in HUGGING_FACE):
            published.prefer_disk()
        quick_gelu = bool(source.config.get("quick_gelu")) or source.checkpoint.quick_gelu
        self.dimension = int(source.config["embed_dim"])
        self.preprocessing = source.preprocessing
        architecture = source.architecture.removesuffix(QUICK_GELU) + (QUICK_GELU if quick_gelu else "")
        self.fingerprint = f"{name} {architecture} {self.dimension}-d {self.preprocessing} {source.hash}"
        model = _build(source, quick_gelu=quick_gelu, check=not (image or text))
        self._image: Any = prepare(_shorten(model.visual)) if image else None
        self._text: Any = model.text.eval().to(FAST_TYPE) if text else None
        self._tokenizer = _tokenizer(source) if text or not image else None

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
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        parts = [order[start : start + TEXT_BATCH] for start in range(0, len(order), TEXT_BATCH)]
        batches = (self._tokenizer([texts[place] for place in part]) for part in parts)
        vectors = _unit([_encode(self._text, tokens) for tokens in batches], self.dimension)
        return vectors[np.argsort(order)]


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


class _FirstToken(nn.Module):
    """The last block of a vision transformer, for the only token that the vector is made of."""

    def __init__(self, block: ResidualAttentionBlock) -> None:
        super().__init__()
        self.block = block

    def forward(self, tokens: Tensor, attn_mask: None = None) -> Tensor:
        """From ``[n, tokens, width]`` to ``[n, 1, width]``."""
        block, seen = self.block, self.block.ln_1(tokens)
        first = tokens[:, :1] + block.ls_1(block.attention(seen[:, :1], seen, seen))
        return first + block.ls_2(block.mlp(block.ln_2(first)))


def _shorten(tower: Any) -> Any:
    """Leave out what a vision transformer's last block computes for tokens that nobody reads, in place."""
    if isinstance(tower, VisionTransformer) and tower.pool_type == "tok" and tower.attn_pool is None:
        blocks = tower.transformer.resblocks
        if type(blocks[-1]) is ResidualAttentionBlock and tower.transformer.batch_first:
            blocks[-1] = _FirstToken(blocks[-1])
    return tower


class _NoRandomNumbers(TorchFunctionMode):
    """Making the numbers that the weights replace would take longer than reading the weights."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (nn.init.normal_, nn.init.kaiming_uniform_):
            return kwargs["tensor"]
        return args[0] if func in (Tensor.uniform_, Tensor.normal_) else func(*args, **kwargs or {})


def make(config: dict[str, Any], *, quick_gelu: bool) -> Any:
    """The model of open_clip's configuration, whose parameters are not set.

    Always the class whose towers can be used alone and whose text tower reads less than its whole context.
    """
    config = {key: value for key, value in config.items() if key not in ("custom_text", "multimodal_cfg")}
    config["vision_cfg"] = config["vision_cfg"] | {"timm_model_pretrained": False}
    config["text_cfg"] = config["text_cfg"] | {"hf_model_pretrained": False}
    with _NoRandomNumbers():
        return open_clip.CustomTextCLIP(**config | {"quick_gelu": quick_gelu})


def _build(source: Source, *, quick_gelu: bool, check: bool) -> Any:
    """The model with its weights; for a mere check one without memory, which costs no time."""
    with blamed(source.file, "its model cannot be made"), torch.device("meta" if check else "cpu"):
        model = make(source.config, quick_gelu=quick_gelu)
    with blamed(source.file):
        weights = _weights(model, source.checkpoint.weights)
    _check_fit(source, model, weights)
    if not check:
        model.load_state_dict(weights, strict=False)
    return model


def _weights(model: Any, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """By the names of a model with a tower for texts of its own, and without what vectors do not need."""
    weights = open_clip.factory.convert_state_dict(model, given)
    if "positional_embedding" in weights:
        weights = open_clip.factory.convert_to_custom_text_state_dict(weights)
    scales_and_decoder = ("logit_scale", "logit_bias", "text_decoder.")
    constants_of_old_files = ("attn_mask", "text.transformer.embeddings.position_ids")
    return {
        name: tensor
        for name, tensor in weights.items()
        if not name.startswith(scales_and_decoder) and not name.endswith(constants_of_old_files)
    }


def _check_fit(source: Source, model: nn.Module, weights: dict[str, Tensor]) -> None:
    needed = {name: list(tensor.shape) for name, tensor in model.state_dict().items() if not name.startswith("logit_")}
    given = {name: list(tensor.shape) for name, tensor in weights.items()}
    for name in sorted(needed.keys() | given.keys()):
        if needed.get(name) != given.get(name):
            shapes = (
                f"{name} is {given.get(name) or 'absent'} in the file and {needed.get(name) or 'absent'} in the model"
            )
            if source.described_by:
                raise ModelError(f"{source.file} does not fit its {source.described_by.name}: {shapes}")
            raise ModelError(
                f"{source.file} does not fit CLIP_MODEL={source.architecture}: {shapes}; "
                "set CLIP_MODEL to the architecture that the file was made with"
            )


def _tokenizer(source: Source) -> Any:
    text = source.config["text_cfg"]
    with blamed(source.file, "its tokeniser cannot be loaded"):
        if source.described_by is None:
            return open_clip.get_tokenizer(source.architecture)
        length, options = text.get("context_length", 77), text.get("tokenizer_kwargs", {})
        if not text.get("hf_tokenizer_name"):
            return open_clip.SimpleTokenizer(context_length=length, **options)
        options = options | {"trust_remote_code": False}  # a folder may ask to run its own code
        mode = text.get("tokenizer_mode")
        return HFTokenizer(text["hf_tokenizer_name"], length, tokenizer_mode=mode, **options)
