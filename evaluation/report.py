"""``evaluate.py --report``: what every model finds in a data set, as Markdown, JSON and a page with pictures.

Vectors are made by the application's own way: each data set is indexed through the Flow, into a workspace of the
report, and read from the databases that the Flow has written. The original's protocol is asked through the query Flow;
the standard measures need ranks that are not cut, and are computed from the vectors.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import flow as flows
from dataset import DataSet, open_data_set, open_test_split
from evaluation.page import DIRECTIONS, thumbnail, write_files
from evaluation.protocol import TOP_K, Pair, index, make_query, read_pairs, reciprocal_ranks
from evaluation.retrieval import recall_curve, search, summary
from flow import FlowError
from storage.store import Record, Store, read_fact

QUERIES = 4000  # as in the original
EXAMPLES, FOUND = 4, 5  # best and worst queries that are shown, and how much of what each found
CARDS = flows.ROOT / "models" / "weights"
ELSEWHERE = Path(__file__).with_name("elsewhere.json")

Json = dict[str, Any]


class Vectors(NamedTuple):
    """What one indexer holds: the places of ids, and unit vectors float32 ``[documents, dimension]``."""

    places: dict[str, int]
    array: np.ndarray

    def labels(self, ids: Iterable[str]) -> np.ndarray:
        """The places of ``ids``, int ``[ids]``."""
        return np.array([self.places[id_] for id_ in ids], int)


def write_report(name: str, models: list[str], *, request_size: int) -> list[Path]:
    """Measure models on a data set; returns the files that were written. Killed and started again, it goes on.

    Raises:
        DataError: the data set cannot be used.
        FlowError: it has no captions, or no model can be run; the message says why of the first.
    """
    data_set, split = open_data_set(name), open_test_split(name)
    folder = flows.workspace() / "report" / Path(name).resolve().name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FlowError(f"cannot write to {folder} ({error.strerror}): set JINA_WORKSPACE to another folder") from error
    rows: list[Json] = []
    pictures: dict[str, str] = {}
    for model in models:
        fingerprint, problem = _load(model)
        row = read_card(model)
        if problem:
            rows.append(row | {"not_run": problem})
        else:
            print(f"{row['title']} (-m {model})", flush=True)
            measured = _Run(model, fingerprint, folder / model, request_size).measure(data_set, split, pictures)
            rows.append(row | measured)
    if all("not_run" in row for row in rows):
        raise FlowError(rows[0]["not_run"])
    cards = json.loads(ELSEWHERE.read_text(encoding="utf-8"))
    here = {row["title"] for row in rows}
    rows += [card | {"not_run": "its weights are not here"} for card in cards if card["title"] not in here]
    for row in rows:
        row["command"] = " ".join([*row.get("settings", ()), "python evaluate.py --report -d", shlex.quote(name)])
    report = {"data_set": name, "date": date.today().isoformat(), "split": split is not None, "models": rows}
    return write_files(folder, report, pictures)


def read_card(model: str) -> Json:
    """What is known of a model's weights, from the ``card.json`` beside embedded ones or from ``elsewhere.json``.

    ``title`` and ``trained_on`` are words for a table, ``discloses`` sentences for below it. For weights that are
    elsewhere ``settings`` make the report run them, ``variable`` is what names them where a model has embedded ones
    too, ``published`` are the original's figures with them, ``differs`` how these came about, and ``held_out`` is false
    if they may have been trained on the test split.
    """
    others = [name for name in ("JINA_IMAGE_ENCODER", "JINA_TEXT_ENCODER") if os.environ.get(name)]
    if model == "clip" and not os.environ.get("CLIP_MODEL", "ViT-B-32").startswith("ViT-B-32"):
        others.append("CLIP_MODEL")
    if others:
        named = ", ".join(f"{name}={os.environ[name]}" for name in others)
        return {"title": f"{model} with {named}", "trained_on": "not known here", "discloses": []}
    cards = {card["name"]: card for card in json.loads(ELSEWHERE.read_text(encoding="utf-8"))}
    embedded = CARDS / model / "card.json"
    if embedded.exists() and not (model in cards and os.environ.get(cards[model].get("variable", ""))):
        return json.loads(embedded.read_text(encoding="utf-8"))
    return cards.get(model, {"title": model, "trained_on": "not known here", "discloses": []})


class _Indexed(NamedTuple):
    """A data set in the index, those of its pairs that are, and what the indexers hold."""

    workspace: Path
    pairs: list[Pair]
    images: Vectors
    texts: Vectors


class _Run(NamedTuple):
    """One model's turn."""

    model: str
    fingerprint: str
    folder: Path
    request_size: int

    def measure(self, data_set: DataSet, split: DataSet | None, pictures: dict[str, str]) -> Json:
        """All figures; the examples' pictures are added to ``pictures`` as ``data:`` URIs by their ids."""
        held_out = {pair.path for pair in split.pairs(skip=_ignore)} if split else set()
        with self._indexed("pairs", data_set) as indexed:
            figures = {"model": self.fingerprint, "original": self._original(data_set, held_out, indexed)}
            if not split:
                return figures | _standard(indexed, pictures)
        with self._indexed("split", split) as indexed:
            return figures | _standard(indexed, pictures)

    @contextmanager
    def _indexed(self, part: str, data_set: DataSet) -> Iterator[_Indexed]:
        """Index into a workspace that is this run's own while inside, and is made anew if anything has changed."""
        workspace = self.folder / part
        listed = [[pair.source, pair.caption, pair.path.stat().st_size] for pair in data_set.pairs(skip=_ignore)]
        content = hashlib.sha1(json.dumps([self.fingerprint, listed]).encode()).hexdigest()
        note = workspace / "content"
        if not note.exists() or note.read_text() != content:
            shutil.rmtree(workspace, ignore_errors=True)
            workspace.mkdir(parents=True)
            note.write_text(content)
        before = dict(os.environ)
        os.environ["JINA_WORKSPACE"] = str(workspace)
        try:
            index(data_set, self.model, limit=len(data_set), request_size=self.request_size)
            images, texts = (read_vectors(workspace, name) for name in ("image_vector_indexer", "text_indexer"))
            pairs = [
                (picture, caption)
                for picture, caption in read_pairs(data_set, len(data_set))
                if picture.id in images.places and caption.id in texts.places
            ]
            if not pairs:
                raise FlowError(f"{data_set.name} has no captions to evaluate with")
            yield _Indexed(workspace, pairs, images, texts)
        finally:
            os.environ.clear()  # what a Flow sets for its model must not reach the next one's
            os.environ.update(before)

    def _original(self, data_set: DataSet, held_out: set[Path], indexed: _Indexed) -> Json:
        """MRR@50 of the Flow's evaluator, and how far it is from the same figure computed from the vectors."""
        pairs, images, texts = indexed.pairs, indexed.images, indexed.texts
        is_held_out = np.array([Path(picture.tags["path"]) in held_out for picture, _ in pairs])
        is_first = np.arange(len(pairs)) < QUERIES
        asking = np.flatnonzero(is_first | is_held_out)
        queries = [make_query(mode, pairs[place], f"{mode} {place}") for mode in DIRECTIONS for place in asking]
        found = reciprocal_ranks(data_set, self.model, queries, request_size=self.request_size)
        asking = np.array([place for place in asking if all(f"{mode} {place}" in found for mode in DIRECTIONS)], int)
        pictures = images.labels(pairs[place][0].id for place in asking)
        captions = texts.labels(pairs[place][1].id for place in asking)
        result: Json = {"pictures": len(images.array), "captions": len(texts.array)}
        for mode, asked, asks, given, right in (
            ("text2image", texts, captions, images, pictures),
            ("image2text", images, pictures, texts, captions),
        ):
            reciprocal = np.array([found[f"{mode} {place}"] for place in asking])
            places, _ = search(asked.array[asks], given.array, asked=right, given=np.arange(len(given.array)))
            difference = np.where(places <= TOP_K, 1 / places, 0).mean() - reciprocal.mean()
            result[mode] = {"numpy_difference": abs(float(difference))}
            with np.errstate(divide="ignore"):
                ranks = 1 / reciprocal
            for who, chosen in (("held_out", is_held_out[asking]), ("first", is_first[asking])):
                if chosen.any():
                    figure = summary(ranks[chosen], pictures[chosen])["MRR"]
                    result[mode][who] = {"queries": int(chosen.sum()), "MRR@50": figure}
        return result


def _standard(indexed: _Indexed, thumbnails: dict[str, str]) -> Json:
    """Recall, median rank and MRR over all that is indexed, with examples; any of a picture's captions is right."""
    pairs, images, texts = indexed.pairs, indexed.images, indexed.texts
    owners = images.labels(picture.id for picture, _ in pairs)
    asking = np.unique(owners)
    captions = texts.array[texts.labels(caption.id for _, caption in pairs)]
    said = [{"text": caption.text} for _, caption in pairs]
    shown = [{"picture": id_} for id_ in images.places]
    result: Json = {"pictures": len(shown), "captions": len(said)}
    examples: Json = {}
    for mode, queries, asked, asks, answers, given, answer in (
        ("text2image", captions, owners, said, images.array, np.arange(len(shown)), shown),
        ("image2text", images.array[asking], asking, [shown[place] for place in asking], captions, owners, said),
    ):
        ranks, margins = search(queries, answers, asked=asked, given=given)
        result[mode] = summary(ranks, asked) | {"curve": recall_curve(ranks, len(answers))}
        order = np.lexsort((-margins, ranks))
        count = min(EXAMPLES, len(order) // 2)
        examples[mode] = {
            kind: [
                {
                    **asks[place],
                    "rank": int(ranks[place]),
                    "found": [
                        {**answer[number], "right": bool(given[number] == asked[place])}
                        for number in np.argsort(-(answers @ queries[place]), kind="stable")[:FOUND]
                    ],
                    "wanted": [dict(answer[number]) for number in np.flatnonzero(given == asked[place])],
                }
                for place in chosen
            ]
            for kind, chosen in (("best", order[:count]), ("worst", order[::-1][:count]))
        }
    items = [item for sides in examples.values() for kind in sides.values() for item in kind]
    items += [item for query in items for item in query["found"] + query["wanted"]]
    with_picture = [item for item in items if "picture" in item]
    records = _read_pictures(indexed.workspace, {item["picture"] for item in with_picture})
    for item in with_picture:
        record = records[item["picture"]]
        item.update(file=Path(record.source.path).name, text=record.text)
        thumbnails[record.id] = thumbnails.get(record.id) or thumbnail(record.picture or b"")
    return {"standard": result, "examples": examples}


def read_vectors(workspace: Path, indexer: str) -> Vectors:
    """The vectors that the Flow has stored in all shards of an indexer, by their ids in order."""
    found: dict[str, np.ndarray] = {}
    for store in _stores(workspace, indexer):
        for rows, vectors in store.vectors_after(0):
            ids_of_rows = store.ids_of_rows(rows.tolist())
            found.update((ids_of_rows[row], vector) for row, vector in zip(rows.tolist(), vectors, strict=True))
    ids = sorted(found)
    array = np.stack([found[id_] for id_ in ids]) if ids else np.empty((0, 0))
    return Vectors({id_: place for place, id_ in enumerate(ids)}, array)


def _read_pictures(workspace: Path, ids: set[str]) -> dict[str, Record]:
    return {
        id_: record
        for store in _stores(workspace, "image_kv_indexer")
        for id_, record in store.records(ids, picture=True).items()
    }


def _stores(workspace: Path, indexer: str) -> Iterator[Store]:
    for folder in sorted(workspace.glob(f"{indexer}/*")):
        shards = read_fact(folder, "shards")
        if shards:
            with closing(Store(folder, shards=int(shards))) as store:
                yield store


def _load(model: str) -> tuple[str, str]:
    """The fingerprint of a model, or why it cannot be run here; torch must not be loaded in this process."""
    command = [sys.executable, "-m", "models", model]
    done = subprocess.run(command, cwd=flows.ROOT, stdout=subprocess.PIPE, text=True, check=False)
    said = done.stdout.strip() or f"the model {model} cannot be loaded"
    return ("", said) if done.returncode else (said, "")


def _ignore(name: str, reason: str) -> None:
    """What is skipped is named when it is indexed."""
