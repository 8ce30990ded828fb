"""The words that VSE++ knows, from this project's JSON or from the pickle of the paper's authors."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from nltk.tokenize.treebank import TreebankWordTokenizer

from models import ModelError
from models.errors import one_line

PAD, START, END, UNKNOWN = SPECIAL = ("<pad>", "<start>", "<end>", "<unk>")
LONGEST_TEXT = 2_000  # characters; Flickr8k's longest caption has under 200

_tokenizer = TreebankWordTokenizer()


def tokenize(text: str) -> list[str]:
    """Split lower-cased text by the Penn Treebank's rules; what follows its first 2,000 characters is cut off."""
    words: list[str] = _tokenizer.tokenize(text[:LONGEST_TEXT].lower())
    return words


class Vocabulary:
    """Numbers for words.

    Args:
        words: every word at the place that is its number, the four special ones among them.

    Raises:
        ValueError: a special word is absent, or a word is there twice.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self._numbers = {word: number for number, word in enumerate(self.words)}
        if len(self._numbers) < len(self.words):
            raise ValueError("a word is there twice")
        if missing := [word for word in SPECIAL if word not in self._numbers]:
            raise ValueError(f"there is no {missing[0]}")
        self.unknown = self._numbers[UNKNOWN]

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, text: str) -> list[int]:
        """The numbers of a text's words, between those of ``<start>`` and ``<end>``; never empty."""
        numbers = (self._numbers.get(word, self.unknown) for word in tokenize(text))
        return [self._numbers[START], *numbers, self._numbers[END]]

    def save(self, path: Path) -> None:
        """Write the words as one JSON list."""
        path.write_text(json.dumps(self.words, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Vocabulary:
        """Read what `save` wrote, or the authors' pickle if the name ends in ``.pkl``.

        Raises:
            ModelError: the file is absent or holds something else; nothing in it is run.
        """
        try:
            with path.open("rb") as stream:
                return cls(_read_pickle(stream) if path.suffix == ".pkl" else json.load(stream))
        except FileNotFoundError as error:
            raise ModelError(f"no vocabulary of VSE++ at {path}: correct VSE_VOCAB, or restore the file") from error
        except Exception as error:  # a pickle can fail in any way
            reason = f"{type(error).__name__}: {one_line(error)}"
            raise ModelError(f"{path} cannot be used as VSE++'s vocabulary ({reason})") from error


class _AuthorsVocabulary:
    """Stands in for the class of that name in the authors' ``vocab.py``; it has data but no behaviour."""

    word2idx: dict[str, int]


class _Unpickler(pickle.Unpickler):
    """Admits the authors' class only, which is ``__main__``'s if their script was run to make the file."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in {("vocab", "Vocabulary"), ("__main__", "Vocabulary")}:
            return _AuthorsVocabulary
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not admitted")


def _read_pickle(stream: BinaryIO) -> list[str]:
    """The words of the authors' pickle in the order of their numbers."""
    numbers = _Unpickler(stream, encoding="utf-8").load().word2idx
    words = sorted(numbers, key=numbers.__getitem__)
    if [numbers[word] for word in words] != list(range(len(words))):
        raise ValueError("the numbers of its words have gaps")
    return words
