"""``python -m bench.random_weights FOLDER``: ViT-B/32 with random weights, whose speed is that of any others.

The same weights for two libraries: a folder ``transformers`` for its ``CLIPModel``, and ``open_clip.safetensors``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import open_clip
import torch
import transformers
from safetensors.torch import save_file

from models.transformers_clip import convert

MARKS = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}  # open_clip's and transformers' names


def main() -> None:
    """Write the weights, float32, and the processor of a CLIP beside those for transformers."""
    folder = Path(sys.argv[1])
    unfinished = folder.with_name(f"{folder.name}.{os.getpid()}")
    unfinished.mkdir()
    torch.manual_seed(0)
    tower = {"hidden_act": "gelu"}  # that of open_clip's model of this name
    config: Any = transformers.CLIPConfig(text_config=tower, vision_config=tower)
    model: Any = transformers.CLIPModel(config)
    model.save_pretrained(unfinished / "transformers")
    processor(config.vision_config.image_size).save_pretrained(unfinished / "transformers")
    weights = {name: tensor.contiguous() for name, tensor in convert(model.state_dict()).items()}
    save_file(weights, unfinished / "open_clip.safetensors")
    unfinished.rename(folder)


def processor(size: int) -> Any:
    """transformers' own, with the tokens of CLIP."""
    clips = open_clip.SimpleTokenizer()
    vocabulary = {MARKS.get(token, token): number for token, number in clips.encoder.items()}
    library: Any = transformers
    pictures = library.CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    tokenizer = library.CLIPTokenizer(vocab=vocabulary, merges=list(clips.bpe_ranks))
    return library.CLIPProcessor(image_processor=pictures, tokenizer=tokenizer)


if __name__ == "__main__":
    main()
