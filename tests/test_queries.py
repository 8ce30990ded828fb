"""Queries of several parts: texts and pictures, weighted, wanted and avoided, that ask as one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from docarray import DocList

from executors.document import IMAGE, TEXT, Document
from executors.query import combine
from tests.conftest import (
    COLOURS,
    UNKNOWN,
    Indexed,
    Server,
    assert_refused,
    paint_random,
    picture,
    run,
    server,
    stored_id,
    truncated_picture,
    unit,
)

Part = dict[str, Any]


def asked(*parts: tuple[str, float]) -> np.ndarray:
    """The vector of a query whose parts are colours with weights, computed here once more."""
    vector = sum(weight * unit(colour).astype(np.float64) for colour, weight in parts)
    return np.asarray(vector / np.linalg.norm(vector))


def assert_answers(matches: list[dict[str, Any]], vector: np.ndarray) -> None:
    """Of all ``COLOURS`` the scores are the cosine distances to a vector, and in their order."""
    scores = {match["text"]: match["score"]["value"] for match in matches}
    assert list(scores.values()) == sorted(scores.values())
    for colour in COLOURS:
        assert scores[f"{colour} square"] == pytest.approx(1 - vector @ unit(colour), abs=1e-5)


# ------------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize("target", ["image", "text"])
def test_weighted_sum(indexed: Indexed, searching: Server, target: str) -> None:
    """Texts, an uploaded picture and stored ones, by a path and by a full address; both indexers understand it."""
    address = f"/images/{stored_id(indexed, 'blue')}"
    query = [
        {"image": picture("red"), "weight": 0.5},
        {"text": "lime thing"},
        {"image": address, "weight": 2},
        {"image": searching.url + address, "weight": -0.25},
        {"text": "yellow thing", "weight": -0.7},
    ]
    expected = asked(("red", 0.5), ("lime", 1), ("blue", 2), ("blue", -0.25), ("yellow", -0.7))
    assert_answers(searching.search(query, top_k=1000, parameters={"target": target})[0], expected)


def test_many_queries_do_not_mix(searching: Server) -> None:
    mixed = [{"text": "red"}, {"image": picture("blue")}]
    pairs = [[{"text": colour}, {"text": "white", "weight": 0.5}] for colour in COLOURS]
    queries = ["lime", mixed, picture("yellow"), {"text": "magenta"}, *pairs]
    found = searching.search(*queries, top_k=1000)
    assert found[0][0]["text"] == "lime square"
    assert_answers(found[1], asked(("red", 1), ("blue", 1)))
    assert (found[2][0]["text"], found[2][0]["mime_type"]) == ("yellow square", "text/plain")
    assert found[3][0]["text"] == "magenta square"
    for colour, matches in zip(COLOURS, found[4:], strict=True):
        assert_answers(matches, asked((colour, 1), ("white", 0.5)))


def test_more_than_nine_parts(searching: Server) -> None:
    weights = [(-1) ** number * (number + 1) / 4 for number in range(16)]
    parts = [(COLOURS[number % len(COLOURS)], weight) for number, weight in enumerate(weights)]
    query = [{"text": colour, "weight": weight} for colour, weight in parts]
    assert_answers(searching.search(query, top_k=1000)[0], asked(*parts))


@pytest.mark.parametrize(
    ("query", "target"),
    [
        ({"text": "red"}, "image"),
        ({"image": picture("red")}, "text"),
        ([{"text": "red"}], "image"),
        ([{"image": picture("red")}], "text"),
        ([{"image": picture("red")}, {"image": picture("red", "JPEG")}], "text"),
        ([{"image": picture("red")}, {"text": "red"}], "image"),
        ([{"image": picture("red")}, {"text": "yellow", "weight": -0.1}], "image"),
    ],
)
def test_what_is_found_by_default(searching: Server, query: object, target: str) -> None:
    match = searching.search(query, top_k=1)[0][0]
    assert (match["text"], match["mime_type"].startswith("image/")) == ("red square", target == "image")
    other = {"image": "text", "text": "image"}[target]
    match = searching.search(query, top_k=1, parameters={"target": other})[0][0]
    assert (match["text"], match["mime_type"].startswith("image/")) == ("red square", other == "image")


def test_one_object_is_what_a_string_is(indexed: Indexed, searching: Server) -> None:
    address = f"/images/{stored_id(indexed, 'lime')}"
    strings = searching.search("red", picture("blue"), address)
    assert searching.search({"text": "red"}, {"image": picture("blue")}, {"image": address}) == strings
    assert searching.search({"text": "red", "weight": 3}) == strings[:1]
    text = searching.search({"text": address}, {"text": picture("blue")}, top_k=1000)
    assert text == searching.search(
        "black", "black", top_k=1000
    )  # what says that it is a text is taken for nothing else


def test_the_name_of_a_query(indexed: Indexed, searching: Server) -> None:
    address = f"/images/{stored_id(indexed, 'red')}"
    parts = [{"image": address}, {"text": "in the snow", "weight": 0.7}, {"text": "a dog", "weight": -0.5}]
    queries = [parts, [{"image": picture("red"), "weight": -2}, {"text": "x" * 500}], {"image": picture("red")}]
    docs = searching.post("/search", {"data": [*queries, {"text": "red"}]}).body["data"]["docs"]
    assert [doc["id"] for doc in docs] == ["0", "1", "2", "3"]
    assert docs[0]["uri"] == docs[0]["text"] == f'{address} + 0.7 "in the snow" - 0.5 "a dog"'
    assert docs[1]["uri"] == f'-2 picture + "{"x" * 99}…"'
    assert [doc["mime_type"] for doc in docs] == ["text/plain", "text/plain", "image/png", "text/plain"]
    assert [(doc["uri"], doc["text"]) for doc in docs[2:]] == [("picture", ""), ("red", "red")]


# ------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"text": "red", "image": picture("red")}, ["data.0: ", "either `text` or `image`"]),
        ({}, ["data.0: ", "either `text` or `image`"]),
        ({"weight": 1}, ["data.0: ", "either `text` or `image`"]),
        ({"text": "red", "wieght": 1}, ["data.0.wieght: "]),
        ({"text": 5}, ["data.0.text: "]),
        ({"image": []}, ["data.0.image: "]),
        ({"text": "red", "weight": 0}, ["data.0.weight: ", "weight of 0"]),
        ({"text": "red", "weight": 10.5}, ["data.0.weight: ", "10"]),
        ({"text": "red", "weight": -11}, ["data.0.weight: ", "-10"]),
        ({"text": "red", "weight": "1"}, ["data.0.weight: ", "number"]),
        ({"text": "red", "weight": True}, ["data.0.weight: ", "number"]),
        ({"text": "red", "weight": float("nan")}, ["data.0.weight: ", "finite"]),
        ({"text": "red", "weight": float("inf")}, ["data.0.weight: "]),
        ({"text": "red", "weight": -1}, ["data.0: ", "must be positive"]),
        ([{"text": "red", "weight": -1}, {"text": "blue", "weight": -2}], ["data.0: ", "must be positive"]),
        ([], ["data.0: "]),
        (["red"], ["data.0.0: ", "`text` or `image`"]),
        ([[{"text": "red"}]], ["data.0.0: ", "`text` or `image`"]),
        ([{"text": "red"}, None], ["data.0.1: ", "`text` or `image`"]),
        ([{"text": "red"}] * 17, ["data.0: ", "16"]),
        ({"text": "x" * 10_001}, ["data.0.text: ", "more than 10000 characters"]),
        ("x" * 10_001, ["data.0: ", "more than 10000 characters"]),
        ({"text": "\ud800"}, ["data.0.text: "]),
        (5, ["data.0: ", "a query is a text"]),
        (None, ["data.0: ", "a query is a text"]),
    ],
)
def test_malformed_queries(searching: Server, query: object, words: list[str]) -> None:
    """Said in one line, in which pydantic's attempts at the other shapes do not appear."""
    answer = searching.post("/search", {"data": [query]})
    assert_refused(answer, 422, *words)
    assert len(answer.body["status"]["description"]) < 120


@pytest.mark.parametrize("data", [["red"] * 257, [[{"text": "red"}] * 16] * 17])
def test_too_many_queries(searching: Server, data: list[object]) -> None:
    assert_refused(searching.post("/search", {"data": data}), 422, "256")


def test_a_wrong_part_is_the_querys_error(searching: Server) -> None:
    queries = [
        [{"text": "red"}, {"image": truncated_picture()}, {"image": "data:,"}],
        "red",
        [{"text": "red"}, {"image": f"/images/{UNKNOWN}"}],
        [{"text": "red"}, {"text": "red", "weight": -1}],
    ]
    answer = searching.post("/search", {"data": queries, "top_k": 1})
    assert answer.status == 200
    docs = answer.body["data"]["docs"]
    assert [bool(doc["matches"]) for doc in docs] == [False, True, False, False]
    assert docs[0]["error"].startswith("part 2: a damaged JPEG")
    assert docs[2]["error"] == f"part 2: there is no picture '{UNKNOWN}' here"
    assert "cancel each other out" in docs[3]["error"]
    for number in (1, 3, 4):
        assert f"query {number}: {docs[number - 1]['error']}" in answer.body["status"]["description"]


@pytest.mark.parametrize("image", ["file:///etc/passwd", "/etc/passwd", "../../etc/passwd", "/images/../x", "", "red"])
def test_an_image_is_no_path(searching: Server, image: str) -> None:
    for query in ({"image": image}, [{"image": image}, {"image": image}]):
        answer = searching.post("/search", {"data": [query]})
        assert answer.status == 422
        assert "only data: URIs and pictures of this server" in answer.body["status"]["description"]


# ------------------------------------------------------------------------------------------------------- the sum


def part(vector: np.ndarray, place: int, weight: float = 1.0, **fields: Any) -> Document:
    return Document(id=f"part {place}", query="q", part=place, weight=weight, embedding=vector, target=IMAGE, **fields)


def test_the_sum_has_unit_length() -> None:
    vectors = np.random.default_rng(1).normal(size=(9, 64)).astype(np.float32)
    embedding = combine(DocList[Document](part(vector, place) for place, vector in enumerate(vectors, 1)))[0].embedding
    assert embedding.dtype == np.float32
    np.testing.assert_allclose(embedding, vectors.sum(0) / np.linalg.norm(vectors.sum(0)), rtol=1e-5)


def test_the_first_wrong_part_is_named_whichever_arrives_first() -> None:
    parts = [part(unit("red"), 1), *(part(unit("red"), place, error=f"bad {place}") for place in (2, 3))]
    for order in (parts, parts[::-1]):
        assert combine(DocList[Document](order))[0].error == "part 2: bad 2"


def test_what_is_no_part_is_left_alone() -> None:
    one, two = Document(id="a", modality=TEXT, embedding=unit("red")), part(unit("blue"), 1)
    docs = combine(DocList[Document]([two, one]))
    assert [doc.id for doc in docs] == ["a", "q"]
    assert docs[0] is one
    assert len(combine(DocList[Document]())) == 0


@pytest.mark.parametrize("weights", [(1, -1), (1, -0.9999), (float("nan"), 1), (0, 0)])
def test_a_sum_that_points_nowhere(weights: tuple[float, float]) -> None:
    """Over gRPC nobody has checked the weights."""
    parts = [part(unit("red"), place, weight) for place, weight in enumerate(weights)]
    query = combine(DocList[Document](parts))[0]
    assert (query.id, query.embedding) == ("q", None)
    assert "cancel each other out" in query.error


def test_shards_give_the_same_answer(tmp_path_factory: pytest.TempPathFactory) -> None:
    rankings = []
    for shards in (1, 2):
        folder = tmp_path_factory.mktemp("shards")
        paint_random(folder, 40)
        done = run("app.py", "-t", "index", "-d", folder, "-m", "vse", workspace=folder / "w", JINA_SHARDS=shards)
        assert done.code == 0, done.err
        query = [{"text": "red"}, {"image": picture("navy"), "weight": 0.3}, {"text": "lime", "weight": -0.2}]
        with server(folder / "w") as running:
            found = [running.search(query, parameters={"target": target, "top_k": 40}) for target in (IMAGE, TEXT)]
        rankings.append([[(match["id"], match["score"]["value"]) for match in matches] for [matches] in found])
        assert [len(ranking) for ranking in rankings[-1]] == [40, 40]
    assert rankings[0] == rankings[1]
