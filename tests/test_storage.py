"""The store is the truth, and the vector index is always what is in it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from storage.store import DATABASE, THUMBNAILS, Record, Source, StorageError, Store, erase, read_fact
from storage.vectors import VectorIndex

DIMENSION = 16


@pytest.fixture
def open_store(tmp_path: Path) -> Iterator[Callable[[], Store]]:
    """Opens the same store again and again, as several processes would."""
    stores: list[Store] = []

    def open_one() -> Store:
        stores.append(Store(tmp_path, shards=1))
        return stores[-1]

    yield open_one
    for store in stores:
        store.close()


def vectors(number: int, seed: int = 1) -> np.ndarray:
    raw = np.random.default_rng(seed).normal(size=(number, DIMENSION)).astype(np.float32)
    return raw / np.linalg.norm(raw, axis=1, keepdims=True)


def records(array: np.ndarray, start: int = 0) -> list[Record]:
    return [Record(id=f"id{number}", vector=vector) for number, vector in enumerate(array, start)]


def test_adding_twice_is_adding_once(open_store: Callable[[], Store]) -> None:
    store = open_store()
    for _ in range(2):
        store.add(records(vectors(5)))
    store.add([*records(vectors(5)), *records(vectors(5))])
    assert len(store) == 5
    found = VectorIndex(store).search(vectors(5), 10)
    assert [sorted(id_ for id_, _ in matches) for matches in found] == [[f"id{number}" for number in range(5)]] * 5


def test_adding_again_keeps_the_content_and_completes_the_rest(open_store: Callable[[], Store]) -> None:
    store = open_store()
    store.add([Record(id="a", picture=b"bytes", mime_type="image/png", source=Source("p", "/one"))])
    store.add([Record(id="a", picture=b"other", text="a caption", source=Source("p", "/two"))])
    stored = store.records(["a"], picture=True)["a"]
    assert (stored.picture, stored.mime_type, stored.text) == (b"bytes", "image/png", "a caption")
    assert store.delete(["/one"]) == []
    assert store.delete(["/two"]) == ["a"]


def test_update_knows_what_is_held_and_completes_it(open_store: Callable[[], Store]) -> None:
    store = open_store()
    store.add([Record(id="a"), Record(id="b")])
    assert store.update([Record(id="a", text="said", source=Source("p", "/f")), Record(id="c", text="new")]) == {"a"}
    assert store.records(["a", "b", "c"])["a"].text == "said"
    assert store.held(["a", "b", "c"]) == {"a", "b"}


def test_another_model_is_refused_with_both_names(open_store: Callable[[], Store]) -> None:
    open_store().require_model("vse one")
    other = open_store()
    other.require_model("vse one")
    with pytest.raises(StorageError, match=r"vse one.*clip two"):
        other.require_model("clip two")
    assert other.fact("model") == "vse one"


def test_another_number_of_shards_is_refused_with_both(tmp_path: Path) -> None:
    Store(tmp_path, shards=2).close()
    assert read_fact(tmp_path, "shards") == "2"
    with pytest.raises(StorageError, match=r"shards 2.*shards 3"):
        Store(tmp_path, shards=3)
    Store(tmp_path, shards=2).close()


@pytest.mark.parametrize(
    ("name", "gone"),
    [
        ("caption", ["caption"]),
        ("p1", ["caption", "p1"]),
        ("/one.jpg", ["caption", "p1"]),
        ("p2", ["p2"]),
        ("/two.jpg", ["p2"]),
        ("/nothing", []),
        ("", []),
    ],
)
def test_deleting_by_id_picture_and_path(open_store: Callable[[], Store], name: str, gone: list[str]) -> None:
    """The caption "shared" describes both pictures: it stays until the last of them is gone."""
    store = open_store()
    one, two = Source("p1", "/one.jpg"), Source("p2", "/two.jpg")
    ids = [("p1", one), ("p2", two), ("caption", one), ("shared", one), ("shared", two)]
    store.add([Record(id=id_, source=source) for id_, source in ids])
    assert store.delete([name]) == gone
    assert store.held(["p1", "p2", "caption", "shared"]) == {"p1", "p2", "caption", "shared"} - set(gone)


def test_the_last_source_takes_the_document_along(open_store: Callable[[], Store]) -> None:
    store = open_store()
    store.add([Record(id="shared", source=Source(picture, "")) for picture in ("p1", "p2")])
    assert store.delete(["p1"]) == []
    assert store.delete(["p2"]) == ["shared"]
    assert len(store) == 0


def test_commits_and_removals_of_another_process_are_found(open_store: Callable[[], Store]) -> None:
    writer, index = open_store(), VectorIndex(open_store())
    array = vectors(6)
    assert index.search(array[:1], 3) == [[]]
    writer.add(records(array[:4]))
    assert index.search(array[:1], 1)[0][0][0] == "id0"
    writer.add(records(array[4:], start=4))
    assert index.search(array[5:], 1)[0][0][0] == "id5"
    writer.delete(["id5", "id0"])
    assert {id_ for id_, _ in index.search(array[5:], 6)[0]} == {"id1", "id2", "id3", "id4"}
    writer.add(records(array[5:], start=5))
    assert index.search(array[5:], 1)[0][0][0] == "id5"


def test_a_transaction_that_fails_leaves_nothing(open_store: Callable[[], Store]) -> None:
    store = open_store()

    def broken() -> Iterator[Record]:
        yield Record(id="a")
        raise KeyError("on the way")

    with pytest.raises(KeyError):
        store.add(broken())
    assert len(store) == len(open_store()) == 0
    store.add([Record(id="b")])
    assert len(store) == 1


def test_a_rebuilt_index_answers_alike(open_store: Callable[[], Store]) -> None:
    store = open_store()
    used = VectorIndex(store)
    array = vectors(300)
    for start in range(0, 300, 60):
        store.add(records(array[start : start + 60], start))
        store.delete([f"id{number}" for number in range(start, start + 60, 7)])
        used.refresh()
    assert used.search(vectors(20, seed=2), 300) == VectorIndex(open_store()).search(vectors(20, seed=2), 300)


def test_the_nearest_are_exact(open_store: Callable[[], Store]) -> None:
    store = open_store()
    array, queries = vectors(1000), vectors(50, seed=2)
    store.add(records(array))
    distances = 1 - queries.astype(np.float64) @ array.T.astype(np.float64)
    for matches, true in zip(VectorIndex(store).search(queries, 20), distances, strict=True):
        nearest = np.argsort(true)[:20]
        assert [id_ for id_, _ in matches] == [f"id{number}" for number in nearest]
        np.testing.assert_allclose([distance for _, distance in matches], true[nearest], atol=1e-6)


def test_a_score_does_not_depend_on_how_many_there_are(open_store: Callable[[], Store], tmp_path: Path) -> None:
    array, queries = vectors(400), vectors(50, seed=2)
    whole, part = open_store(), Store(tmp_path / "part", shards=1)
    whole.add(records(array))
    part.add(records(array[:37]))
    found = [dict(matches) for matches in VectorIndex(whole).search(queries, 400)]
    for all_, one in zip(found, VectorIndex(part).search(queries[:1], 37), strict=False):
        assert {id_: all_[id_] for id_, _ in one} == dict(one)
    part.close()


def test_of_equally_near_ones_the_smaller_ids_are_found(open_store: Callable[[], Store]) -> None:
    store = open_store()
    [vector] = vectors(1)
    store.add(Record(id=f"id{number}", vector=vector) for number in (7, 3, 9, 1, 8))
    assert [id_ for id_, _ in VectorIndex(store).search(vector[None], 3)[0]] == ["id1", "id3", "id7"]


def test_a_store_is_empty_until_something_is_in_it_and_has_its_own_identity(tmp_path: Path) -> None:
    one, other = Store(tmp_path / "one", shards=1), Store(tmp_path / "other", shards=1)
    assert not one
    one.add([Record(id="a")])
    assert one
    assert one.identity() == one.identity() != other.identity()
    one.delete(["a"])
    assert not one
    for store in (one, other):
        store.close()


def test_another_format_is_refused(tmp_path: Path) -> None:
    Store(tmp_path, shards=1).close()
    with closing(sqlite3.connect(tmp_path / DATABASE)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(StorageError, match=r"format 99.*--overwrite"):
        Store(tmp_path, shards=1)


def test_the_first_format_is_brought_up_to_date(tmp_path: Path) -> None:
    store = Store(tmp_path, shards=1)
    store.add([Record(id="a", picture=b"bytes"), Record(id="b", picture=b"others", width=3, height=4)])
    store.close()
    with closing(sqlite3.connect(tmp_path / DATABASE)) as connection, connection:
        connection.execute("DROP TABLE sizes")
        connection.execute("PRAGMA user_version = 1")
    store = Store(tmp_path, shards=1)
    assert store.unmeasured() == ["a", "b"]
    store.measure([("a", 5, 6)])
    assert store.unmeasured() == ["b"]
    record = store.records(["a", "b"], picture=True)["a"]
    assert (record.picture, record.width, record.height) == (b"bytes", 5, 6)
    store.close()


def test_sizes_are_kept_and_go_with_their_documents(open_store: Callable[[], Store]) -> None:
    store = open_store()
    for width in (30, 40):
        store.add([Record(id="a", picture=b"bytes", width=width, height=20, source=Source("a", ""))])
    assert store.unmeasured() == []
    stored = store.records(["a"])["a"]
    assert (stored.width, stored.height) == (30, 20)
    store.delete(["a"])
    store.add([Record(id="a", picture=b"bytes")])
    assert store.unmeasured() == ["a"]


def test_samples(open_store: Callable[[], Store]) -> None:
    """Each document comes up, none twice, and as many as asked for as long as there are so many."""
    store = open_store()
    assert store.sample(3) == []
    store.add([Record(id=f"id{number}", source=Source(f"id{number}", "")) for number in range(40)])
    store.delete([f"id{number}" for number in range(40) if number not in (7, 8, 30, 39)])
    left = {"id7", "id8", "id30", "id39"}
    seen = [store.sample(2) for _ in range(300)]
    assert {len(set(ids)) for ids in seen} == {2}
    assert {id_ for ids in seen for id_ in ids} == left
    assert set(store.sample(4)) == set(store.sample(9)) == left
    assert len(store.sample(9)) == 4


def test_a_sample_of_many_is_quick(open_store: Callable[[], Store]) -> None:
    """It takes as many steps among a thousand times as many documents, but for the depth of the tree."""
    store = open_store()

    def steps() -> int:
        count = 0

        def step() -> None:
            nonlocal count
            count += 1

        store._connection.set_progress_handler(step, 1)
        store.sample(8)
        store._connection.set_progress_handler(None, 0)
        return count

    store.add([Record(id=f"few{number}") for number in range(20)])
    few = steps()
    store.add([Record(id=f"many{number}") for number in range(20_000)])
    assert steps() <= 2 * few


def test_captions_of_a_picture(open_store: Callable[[], Store]) -> None:
    store = open_store()
    one, two = Source("p1", "/one.jpg"), Source("p2", "/two.jpg")
    said = [("c", "first", one), ("a", "second", one), ("b", "other", two), ("a", "second", two)]
    store.add([Record(id=id_, text=text, source=source) for id_, text, source in said])
    store.update([Record(id="c", source=Source("p1", "/copy.jpg"))])
    assert store.captions("p1") == ["first", "second"]
    assert store.captions("p2") == ["second", "other"]
    assert store.captions("p3") == []


def test_what_is_in_use_is_not_erased(tmp_path: Path) -> None:
    store = Store(tmp_path, shards=1)
    store.add([Record(id="a")])
    with pytest.raises(StorageError, match="in use"):
        erase(tmp_path)
    assert len(store) == 1
    (tmp_path / THUMBNAILS / "ab").mkdir(parents=True)
    store.close()
    erase(tmp_path)
    assert not (tmp_path / THUMBNAILS).exists()
    again = Store(tmp_path, shards=2)
    assert len(again) == 0
    again.close()


def test_a_refused_store_is_not_in_use(tmp_path: Path) -> None:
    Store(tmp_path, shards=1).close()
    with pytest.raises(StorageError):
        Store(tmp_path, shards=2)
    erase(tmp_path)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot open the index"):
        Store(tmp_path / "file" / "store", shards=1)


def test_a_damaged_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / DATABASE).write_bytes(b"this is no database" * 500)
    with pytest.raises(StorageError, match=r"cannot open the index .*documents\.sqlite"):
        Store(tmp_path, shards=1)
    with pytest.raises(StorageError, match=r"cannot read the index .*documents\.sqlite"):
        read_fact(tmp_path, "model")


def test_facts_of_a_store_that_is_absent_are_unknown(tmp_path: Path) -> None:
    assert read_fact(tmp_path, "model") is None
    erase(tmp_path / "absent")
    assert not (tmp_path / DATABASE).exists()
