"""Reading the files that weights of CLIP come in, told apart by their content; nothing in a file is ever run.

Read are safetensors, PyTorch's ``.pt`` and ``.bin`` (a state dict, or one under ``state_dict`` as open_clip's training
saves it), and TorchScript archives, the format of OpenAI's own files. The names in them are open_clip's, OpenAI's, or
those of transformers.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from models import ModelError
from models.errors import one_line
from models.transformers_clip import convert, is_of_transformers

_OPENAI_MARKS = ("input_resolution", "context_length", "vocab_size")
_ELEMENTS = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
}


@dataclass(frozen=True)
class Checkpoint:
    """The weights of a file by open_clip's names, without ``module.`` before them.

    ``quick_gelu`` is whether the file shows that OpenAI's code has made it, whose models all have QuickGELU; a file
    that does not show it may still need QuickGELU. ``of_transformers`` is whether transformers has saved it, in whose
    files the activation and the number of heads cannot be seen.
    """

    weights: dict[str, Tensor]
    quick_gelu: bool
    of_transformers: bool


def read_checkpoint(file: Path) -> Checkpoint:
    """Read a file of weights.

    Raises:
        ModelError: it cannot be read, is of no known format, or holds something else than weights.
    """
    try:
        with file.open("rb") as stream:
            head = stream.read(9)
        if head[8:] == b"{":  # safetensors: the length of a header in 8 bytes, then the header, which is JSON
            return _checkpoint(load_file(file), ordered=False)
        if _is_script(file):
            weights, classes = _read_script(file)
            checkpoint = _checkpoint(weights, ordered=True)
            return replace(checkpoint, quick_gelu=checkpoint.quick_gelu or "QuickGELU" in classes)
        return _checkpoint(torch.load(file, map_location="cpu", weights_only=True), ordered=True)
    except pickle.UnpicklingError as error:
        raise ModelError(f"{file} is refused: it holds code or objects beside weights, which are never run") from error
    except Exception as error:  # each library has its own for a file that is damaged or of another kind
        raise ModelError(f"{file} cannot be read as weights of CLIP: {one_line(error)}") from error


def _checkpoint(content: Any, *, ordered: bool) -> Checkpoint:
    wrapped = isinstance(content, Mapping) and "state_dict" in content
    weights = content["state_dict"] if wrapped else content
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise TypeError("it holds something else than a state dict")
    names = list(weights)
    if all(name.startswith("module.") for name in names):  # left by training on several processors
        weights = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    quick_gelu = all(mark in weights for mark in _OPENAI_MARKS)
    quick_gelu = quick_gelu or (ordered and not wrapped and _in_openais_order(names))
    weights = {name: weights[name] for name in weights if name not in _OPENAI_MARKS}
    of_transformers = is_of_transformers(weights)
    return Checkpoint(convert(weights) if of_transformers else weights, quick_gelu, of_transformers)


def _in_openais_order(names: Sequence[str]) -> bool:
    """OpenAI's code makes a block's attention before its first layer norm, open_clip's makes it after that."""
    block = [name for name in names if name.startswith("transformer.resblocks.0.")]
    return bool(block) and ".attn." in block[0] and block != sorted(block)


class _ScriptModule:
    """Stands for every class of a TorchScript archive: it takes the attributes and has no code."""


class _ScriptUnpickler(pickle.Unpickler):
    """Admits what the ``data.pkl`` of a TorchScript archive needs: modules without their code, tensors, and dicts."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(archive.open(f"{root}data.pkl"))
        self.classes: set[str] = set()
        self._archive, self._root = archive, root
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "__torch__":
            self.classes.add(name)
            return _ScriptModule
        if module == "torch" and name in _ELEMENTS:
            return _ELEMENTS[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise pickle.UnpicklingError(f"{module}.{name} is not admitted")

    def persistent_load(self, reference: Any) -> Tensor:
        _, dtype, key, _, _ = reference
        if key not in self._storages:
            content = bytearray(self._archive.read(f"{self._root}data/{key}"))
            self._storages[key] = torch.frombuffer(content, dtype=dtype)
        return self._storages[key]


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> Tensor:
    return torch.as_strided(storage, size, stride, offset)  # raises for what lies outside the storage


def _is_script(file: Path) -> bool:
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _read_script(file: Path) -> tuple[dict[str, Tensor], set[str]]:
    """The tensors of a TorchScript archive and the names of its classes."""
    with zipfile.ZipFile(file) as archive:
        root = next(name for name in archive.namelist() if name.endswith("/data.pkl")).removesuffix("data.pkl")
        unpickler = _ScriptUnpickler(archive, root)
        return dict(_tensors(unpickler.load(), "")), unpickler.classes


def _tensors(module: _ScriptModule, prefix: str) -> Iterator[tuple[str, Tensor]]:
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif isinstance(value, _ScriptModule):
            yield from _tensors(value, f"{prefix}{name}.")
