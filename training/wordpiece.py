"""MiniLM's WordPiece vocabulary (Wu et al., 2016) with fewer tokens: rarer words fall into more pieces."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import BertProcessing

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def choose_tokens(vocabulary: dict[str, int], needed: Iterable[str], *, size: int) -> list[str]:
    """The special tokens, then in the order of the vocabulary, which is that of frequency, those that are kept.

    These are all characters of ASCII, so that English has no unknown words, the needed tokens, and the first English
    ones up to ``size`` in all.
    """
    ordered = sorted(vocabulary, key=vocabulary.__getitem__)
    kept = {*SPECIAL, *needed, *(token for token in ordered if re.fullmatch(r"(##)?[!-~]", token))}
    english = [token for token in ordered if token not in kept and re.fullmatch("(##)?[a-z]+", token)]
    kept.update(english[: max(0, size - len(kept))])
    return [*SPECIAL, *(token for token in ordered if token in kept and token not in SPECIAL)]


def make_tokenizer(tokens: list[str]) -> Any:
    """The tokeniser of a BERT that reads lower-cased English, with these tokens, as transformers' class for it."""
    numbers = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(WordPiece(numbers, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = BertProcessing(("[SEP]", numbers["[SEP]"]), ("[CLS]", numbers["[CLS]"]))
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    wrap: Any = transformers.PreTrainedTokenizerFast
    return wrap(tokenizer_object=tokenizer, **dict(zip(names, SPECIAL, strict=True)))


def read_tokenizer(folder: Path) -> Any:
    """The tokeniser of a folder, by transformers."""
    read: Any = transformers.AutoTokenizer.from_pretrained
    return read(folder, local_files_only=True)
