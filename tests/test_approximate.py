"""An approximate index proposes, the store decides; its file is used only if it is whole and fits."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import faiss
import numpy as np
import pytest

from bench import material
from storage import index_file
from storage.approximate import FEWEST, check, open_approximate
from storage.store import APPROXIMATE, Record, StorageError, Store, erase
from storage.vectors import VectorIndex
from tests.conftest import run, server
from tests.stand_in.model import FINGERPRINT, vector

DIMENSION = 16
ALL = "IVF16,SQ8 nprobe=16"
"""It looks everywhere, so that nothing but an error makes it miss what is near."""
FEW = "IVF16,SQ8 nprobe=1"


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a store with as many vectors as are needed, and an approximate index beside them."""
    folder = tmp_path_factory.mktemp("full")
    with closing(Store(folder, shards=1)) as store:
        material.fill_store(store, FEWEST, DIMENSION)
        assert open_approximate(store, ALL)
    return folder


@pytest.fixture
def store(full: Path, tmp_path: Path) -> Iterator[Store]:
    """A copy of that store, and of the file beside it."""
    with closing(Store(Path(shutil.copytree(full, tmp_path / "store")), shards=1)) as copy:
        yield copy


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be made anew."""

    def train(*_: object) -> None:
        raise AssertionError("the index is made anew")

    monkeypatch.setattr(faiss.IndexIDMap, "train", train)


def queries(number: int = 30) -> np.ndarray:
    return material.Vectors(DIMENSION).queries(number)


def file(store: Store) -> Path:
    return store.path.with_name(APPROXIMATE)


@pytest.mark.usefixtures("untrained")
def test_it_is_loaded_and_finds_the_same_to_the_bit(store: Store) -> None:
    assert VectorIndex(store, ALL).search(queries(), 20) == VectorIndex(store).search(queries(), 20)


@pytest.mark.usefixtures("untrained")
def test_parameters_of_the_search_are_those_of_the_setting(store: Store) -> None:
    exact, few = VectorIndex(store).search(queries(), 20), VectorIndex(store, FEW).search(queries(), 20)
    recall = np.mean([len(dict(one).keys() & dict(other)) / 20 for one, other in zip(few, exact, strict=True)])
    assert 0.2 < recall < 0.99


@pytest.mark.usefixtures("untrained")
def test_new_documents_are_found_at_once_and_removed_ones_never_again(store: Store) -> None:
    index, [query] = VectorIndex(store, ALL), queries(1)
    [before] = index.search(query[None], 3)
    store.add([Record(id="new", vector=query)])
    [[(nearest, distance), _]] = index.search(query[None], 2)
    assert nearest == "new"
    assert distance == pytest.approx(0, abs=1e-6)
    _forget(store, ["new", before[0][0]])
    for found in (index, VectorIndex(store, ALL)):
        assert found.search(query[None], 2)[0] == before[1:]


@pytest.mark.usefixtures("untrained")
def test_the_next_ones_are_found_when_many_are_removed(store: Store) -> None:
    index, [query] = VectorIndex(store, ALL), queries(1)
    [found] = VectorIndex(store).search(query[None], 510)
    _forget(store, [id_ for id_, _ in found[:500]])
    assert index.search(query[None], 10) == [found[500:]]


def test_all_can_be_gone(store: Store) -> None:
    index = VectorIndex(store, ALL)
    _forget(store, [f"{place}" for place in range(FEWEST)])
    assert index.search(queries(2), 10) == [[], []]


def _truncated(content: bytes) -> bytes:
    return content[:-1]


def _flipped(place: float) -> Callable[[bytes], bytes]:
    def flip(content: bytes) -> bytes:
        at = int(place * (len(content) - 1))
        return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]

    return flip


@pytest.mark.parametrize(
    "damage",
    [_truncated, _flipped(0), _flipped(0.0005), _flipped(0.5), _flipped(1), lambda _: b"", lambda _: bytes(10_000)],
    ids=["truncated", "checksum", "start", "middle", "end", "empty", "zeros"],
)
def test_a_damaged_file_is_made_anew(store: Store, damage: Callable[[bytes], bytes]) -> None:
    file(store).write_bytes(damage(file(store).read_bytes()))
    before = file(store).stat().st_ino
    index = VectorIndex(store, ALL)
    assert index.search(queries(), 20) == VectorIndex(store).search(queries(), 20)
    assert file(store).stat().st_ino != before
    assert index_file.load(file(store), lambda _: True)


@pytest.mark.parametrize("why", ["another index", "another store", "another model", "many new", "many gone"])
def test_a_file_that_does_not_fit_is_made_anew(store: Store, full: Path, tmp_path: Path, why: str) -> None:
    setting = "IVF8,SQ8 nprobe=8" if why == "another index" else ALL
    if why == "another store":
        with closing(Store(tmp_path / "other", shards=1)) as other:
            material.fill_store(other, FEWEST, DIMENSION)
            assert open_approximate(other, ALL)
        shutil.copy(tmp_path / "other" / APPROXIMATE, file(store))
    elif why == "another model":
        store.require_model("another")
    elif why == "many new":
        store.add(Record(id=f"new{place}", vector=vector) for place, vector in enumerate(queries(FEWEST // 10 + 1)))
    elif why == "many gone":
        _forget(store, [f"{place}" for place in range(0, FEWEST // 10 + 1)])
        store.add([Record(id=f"new{place}", vector=vector) for place, vector in enumerate(queries(FEWEST // 5))])
    before = file(store).stat().st_ino
    index = VectorIndex(store, setting)
    assert file(store).stat().st_ino != before
    assert index.search(queries(), 20) == VectorIndex(store).search(queries(), 20)


@pytest.mark.usefixtures("untrained")
def test_a_file_fits_while_little_has_changed(store: Store) -> None:
    store.add(Record(id=f"new{place}", vector=vector) for place, vector in enumerate(queries(FEWEST // 20)))
    _forget(store, [f"{place}" for place in range(0, FEWEST, 21)])
    assert VectorIndex(store, ALL).search(queries(), 20) == VectorIndex(store).search(queries(), 20)


def test_few_vectors_are_searched_exactly(tmp_path: Path) -> None:
    with closing(Store(tmp_path, shards=1)) as store:
        assert VectorIndex(store, ALL).search(queries(1), 3) == [[]]
        material.fill_store(store, 100, DIMENSION)
        assert VectorIndex(store, ALL).search(queries(), 3) == VectorIndex(store).search(queries(), 3)
        assert not file(store).exists()


@pytest.mark.parametrize("why", ["too many clusters", "no room"])
def test_what_cannot_be_made_is_searched_exactly_and_said(
    store: Store, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file(store).unlink()
    if why == "no room":
        file(store).mkdir()
    index = VectorIndex(store, f"IVF{2 * FEWEST},Flat" if why == "too many clusters" else ALL)
    assert "is searched exactly: " in capsys.readouterr().err.splitlines()[-1]
    assert index.search(queries(), 20) == VectorIndex(store).search(queries(), 20)
    assert sorted(path.name for path in store.path.parent.glob(f"{APPROXIMATE}?*")) == []


def test_what_a_killed_process_left_is_removed(store: Store) -> None:
    left = file(store).with_name(f"{APPROXIMATE}.1")
    left.touch()
    VectorIndex(store, "IVF8,SQ8 nprobe=8")
    assert not left.exists()
    left.touch()
    store.close()
    erase(store.path.parent)
    assert not left.exists()
    assert not file(store).exists()


@pytest.mark.parametrize(
    "setting", ["nonsense", " ", "IVF8,SQ8 nprobe", "IVF8,SQ8 nprobe=-1", "IVF8,SQ8 efSearch=8", "PQ7", "IVF8,SQ8\n"]
)
def test_a_setting_that_faiss_does_not_know_is_refused(setting: str) -> None:
    with pytest.raises(StorageError, match=r"JINA_INDEX=.* cannot be used .*IVF1024,SQ8 nprobe=16"):
        check(setting, DIMENSION)


@pytest.mark.parametrize("setting", [ALL, "HNSW32 efSearch=64", "OPQ4_8,IVF8,PQ4 nprobe=4", "SQ8"])
def test_any_index_of_faiss_will_do(store: Store, setting: str) -> None:
    check(setting, DIMENSION)
    exact, found = VectorIndex(store).search(queries(), 10), VectorIndex(store, setting).search(queries(), 10)
    recall = np.mean([len(dict(one).keys() & dict(other)) / 10 for one, other in zip(found, exact, strict=True)])
    assert recall > 0.3
    for one, other in zip(found, VectorIndex(store).search(queries(), FEWEST), strict=True):
        assert dict(one).items() <= dict(other).items(), "scores are exact"


def test_the_flow_uses_it(tmp_path: Path) -> None:
    material.fill(tmp_path, FINGERPRINT, len(vector(np.zeros(3))), FEWEST)
    refused = run("app.py", "-t", "query", workspace=tmp_path, JINA_INDEX="nonsense")
    assert (refused.code, refused.out, refused.err.count("\n")) == (1, "", 1)
    assert "JINA_INDEX='nonsense'" in refused.err
    with closing(Store(tmp_path / "image_vector_indexer" / "0", shards=1)) as store:
        [true] = VectorIndex(store).search(vector(np.array([255, 0, 0]))[None], 10)
    with server(tmp_path, JINA_INDEX=ALL) as running:
        [found] = running.search("red")
    assert [(match["id"], match["score"]["value"]) for match in found] == true
    for indexer in ("image_vector_indexer", "text_indexer"):
        assert (tmp_path / indexer / "0" / APPROXIMATE).is_file()


def _forget(store: Store, ids: list[str]) -> None:
    assert sorted(store.delete(ids)) == sorted(ids)
