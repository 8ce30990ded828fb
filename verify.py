"""``app.py -t verify``: is all that is stored whole, and do the indexers agree? What can be rebuilt is rebuilt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import flow as flows
from encoders import Encoders, EncodingError
from executors.document import picture_id, text_id
from executors.picture import Head, PictureError, decode, inspect, read
from executors.thumbnails import MIME_TYPE, SIDE
from flow import INDEXERS, FlowError
from progress import Progress
from storage.repair import DAMAGED, Shard, Stored
from storage.store import DATABASE, NO_SOURCE, THUMBNAILS, Source, StorageError, shard_of

VECTORS, PICTURES, TEXTS = INDEXERS
REPAIRED, LOST, LEFT = "repaired", "lost", "left as it is"
SHOWN = 3
"""How many documents are named of those with the same fault."""
UNIT = 1e-3
"""By how much the length of a vector may differ from 1: it is normalised in float32."""
BATCH = 32
"""How many documents are encoded at once."""


@dataclass
class Findings:
    """What was wrong, and what became of it."""

    faults: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def add(self, outcome: str, fault: str, name: str) -> None:
        """Note a fault of one document or shard, and whether it was ``REPAIRED``, ``LOST`` or ``LEFT``."""
        self.faults.setdefault((outcome, fault), []).append(name)

    def count(self, outcome: str) -> int:
        """How many faults had this outcome."""
        return sum(len(names) for (found, _), names in self.faults.items() if found == outcome)

    def report(self) -> int:
        """Print the account; returns the exit code: 1 if something is lost or still wrong."""
        for (outcome, fault), names in sorted(self.faults.items()):
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            print(f"{outcome}: {fault}: {', '.join(names[:SHOWN])}{more}")
        if not self.faults:
            print("all is well")
            return 0
        print(", ".join(f"{self.count(outcome)} {outcome}" for outcome in (REPAIRED, LOST, LEFT)))
        return 1 if self.count(LOST) or self.count(LEFT) else 0


def verify() -> int:
    """Examine the index in the workspace, and repair it. Nobody else can use it meanwhile.

    Returns:
        The exit code: 0 if the index is whole, 1 if something is lost or could not be repaired.

    Raises:
        FlowError: there is no index.
        StorageError: it is in use, or its shards do not belong together.
    """
    findings = Findings()
    with ExitStack() as opened:
        index = Index(_open(opened), findings)
        index.examine()
        pictures, texts = len(index.held[PICTURES]), len(index.held[TEXTS])
        print(f"{pictures} pictures and {texts} captions in {index.number} shards, model {index.model or 'unknown'}")
    return findings.report()


def _open(opened: ExitStack) -> dict[str, list[Shard]]:
    """All shards of all indexers; one that is absent is made."""
    numbers = {
        int(folder.name) for folder in flows.shard_folders() if folder.name.isdecimal() and (folder / DATABASE).exists()
    }
    if not numbers:
        raise FlowError(f"nothing is indexed in {flows.workspace()}")
    shards: dict[str, list[Shard]] = {name: [] for name in INDEXERS}

    def open_all(number: int) -> None:
        for name, opens in shards.items():
            while len(opens) < number:
                opens.append(opened.enter_context(Shard(flows.workspace() / name / str(len(opens)))))

    open_all(max(numbers) + 1)
    said = {int(fact) for opens in shards.values() for shard in opens if (fact := shard.fact("shards"))}
    if len(said) > 1:
        raise StorageError(
            f"the shards in {flows.workspace()} are parts of {' and of '.join(map(str, sorted(said)))}: "
            "restore a backup, or index again with --overwrite"
        )
    open_all(max(said, default=0))
    return shards


class Index:
    """The shards of the three indexers, seen together.

    Args:
        shards: by the names of their indexers, in the order of their numbers.
        findings: where faults are noted.
    """

    def __init__(self, shards: dict[str, list[Shard]], findings: Findings) -> None:
        self.shards, self.findings = shards, findings
        said = {fact for opens in shards.values() for shard in opens if (fact := shard.fact("shards"))}
        self.number = int(said.pop()) if said else len(shards[PICTURES])
        self.model = self._model()
        self.held: dict[str, dict[str, Shard]] = {}
        """By indexers, the ids of their documents with the shards that hold them."""
        self._wanting: list[tuple[str, str, Stored]] = []
        """Documents that need a vector: the indexer, what is wrong, and what is known."""

    def examine(self) -> None:
        """Look at everything, and mend it."""
        for shard in self._all():
            self._facts(shard)
        self.held = {name: dict(self._placed(name)) for name in INDEXERS}
        self._pictures()
        self._pairs()
        self._texts()
        self._vectors()
        self._encode()
        self._agree()
        self._thumbnails()

    def _all(self, *names: str) -> Iterator[Shard]:
        return (shard for name in names or INDEXERS for shard in self.shards[name])

    def _owner(self, name: str, id_: str) -> Shard:
        return self.shards[name][shard_of(id_, self.number)]

    def _model(self) -> str:
        models = {model for shard in self._all(VECTORS, TEXTS) if (model := shard.fact("model"))}
        if len(models) > 1:
            raise StorageError(
                f"the vectors in {flows.workspace()} are of several models, {' and '.join(sorted(models))}: "
                "restore a backup, or index again with --overwrite"
            )
        return models.pop() if models else ""

    def _facts(self, shard: Shard) -> None:
        unread = shard.fact("shards") is None
        if shard.damage:
            what = (
                "nothing of a database could be read"
                if unread
                else "a database was damaged, what could be read is in a new one"
            )
            fault = f"{what}; the damaged one is kept as {DAMAGED}"
            self.findings.add(LOST if unread else REPAIRED, fault, f"{shard.name} ({shard.damage})")
        elif shard.absent and int(shard.folder.name) < self.number and any(other.ids() for other in self._all()):
            self.findings.add(LOST, "a database was not there, a new one is made", shard.name)
        shard.remember("shards", str(self.number))
        if self.model and shard in self._all(VECTORS, TEXTS) and shard.ids():
            shard.remember("model", self.model)
        if shard.sweep():
            self.findings.add(REPAIRED, "sources of documents that are not there, removed", shard.name)

    def _placed(self, name: str) -> Iterator[tuple[str, Shard]]:
        """The documents of an indexer, those that lay in another shard than their own after they were moved."""
        for shard in self._all(name):
            for id_ in shard.ids():
                owner = self._owner(name, id_)
                if owner is not shard:
                    if id_ not in owner.ids():
                        owner.put(shard.get(id_))
                    shard.drop(id_)
                    self.findings.add(REPAIRED, "lay in another shard than its own, moved", f"{shard.name} {id_}")
                yield id_, owner

    def _pictures(self) -> None:
        """Every picture's bytes are those that its id names, and its type and size are true."""
        known = {id_: self._sources(VECTORS, id_) for id_ in self.held[VECTORS]} | self._lost(PICTURES)
        with Progress("pictures", total=len(self.held[PICTURES]), unit="pictures") as progress:
            for id_, shard in list(self.held[PICTURES].items()):
                stored = shard.get(id_)
                true = picture_id(stored.picture or b"")
                if true == id_:
                    self._picture(shard, stored)
                elif true in known and true not in self.held[PICTURES]:
                    self._rename(PICTURES, stored._replace(sources=known[true]), true)
                    self._picture(self.held[PICTURES][true], self._known(PICTURES, true))
                else:
                    self._again_or_lost(id_, "the stored bytes of a picture were damaged", stored)
                progress.advance()

    def _picture(self, shard: Shard, stored: Stored) -> None:
        picture = stored.picture or b""
        try:
            head = inspect(picture)
            decode(picture)
        except PictureError as error:
            if stored.id in self.held[VECTORS]:
                fault = "a picture cannot be decoded, though its bytes are as they came; `-t delete` removes it"
                self.findings.add(LEFT, fault, f"{_name(stored)} ({error})")
            else:  # the encoder has refused it, and the client was killed before it took the picture out again
                self._remove(PICTURES, stored.id)
                self.findings.add(REPAIRED, "was no picture and was never acknowledged, removed", _name(stored))
            return
        if stored.mime_type != head.mime_type:
            shard.put(stored._replace(mime_type=head.mime_type))
            self.findings.add(REPAIRED, "the type of a picture was wrong", _name(stored))
        if stored.size != (head.width, head.height):
            shard.resize(stored.id, (head.width, head.height))
            self.findings.add(REPAIRED, "the size of a picture was wrong or unknown", _name(stored))

    def _rename(self, name: str, stored: Stored, true: str) -> None:
        """Store a document under its true id: it was not its content that was damaged."""
        self._owner(name, true).put(stored._replace(id=true))
        self.held[name][true] = self._owner(name, true)
        self._remove(name, stored.id)
        self.findings.add(REPAIRED, "the id of a document was damaged", _name(stored))

    def _again_or_lost(self, id_: str, fault: str, known: Stored) -> None:
        """Read a picture again from one of the files that it came from; without one it is gone, with its vector."""
        sources = known.sources | self._sources(VECTORS, id_)
        known = known._replace(sources=sources)
        found = _from_files(id_, sources)
        if found:
            picture, head = found
            size = (head.width, head.height)
            text = known.text or self._caption(id_)
            whole = known._replace(mime_type=head.mime_type, text=text, picture=picture, size=size)
            self._owner(PICTURES, id_).put(whole)
            self.held[PICTURES][id_] = self._owner(PICTURES, id_)
            self.findings.add(REPAIRED, f"{fault}, read again from its file", _name(known))
            return
        for name in (PICTURES, VECTORS):
            self._remove(name, id_)
        self.findings.add(LOST, f"{fault}, and its file is not where it was", _name(known))

    def _pairs(self) -> None:
        """A picture is held with its bytes and with its vector, or not at all."""
        lost = self._lost(PICTURES)
        for id_ in sorted((self.held[VECTORS].keys() | lost) - self.held[PICTURES].keys()):
            sources = lost.get(id_, frozenset()) | self._sources(VECTORS, id_)
            if id_ in lost or self._owner(PICTURES, id_).broken:
                self._again_or_lost(id_, "a picture was in a damaged part", Stored(id_, sources=sources))
            else:
                self._remove(VECTORS, id_)
                fault = "a vector was stored without its picture and was never acknowledged, removed"
                self.findings.add(REPAIRED, fault, _name(Stored(id_, sources=sources)))
        for id_ in self.held[PICTURES].keys() - self.held[VECTORS].keys():
            stored = self._known(PICTURES, id_)._replace(mime_type="", text="", picture=None, size=None)
            self._wanting.append((VECTORS, "a picture had no vector", stored))

    def _texts(self) -> None:
        """Every text is the one that its id names; of what is gone the pictures know what they are shown with."""
        shown = self._shown()
        gone = self._lost(TEXTS)
        for id_ in list(self.held[TEXTS]):
            stored = self._known(TEXTS, id_)
            true = text_id(stored.text)
            if true == id_:
                continue
            if true in gone.keys() | shown and true not in self.held[TEXTS]:
                sources = gone.get(true) or self._sources(PICTURES, shown[true][0])
                self._rename(TEXTS, stored._replace(sources=sources), true)
            elif id_ in shown:
                self.held[TEXTS][id_].put(stored._replace(text=shown[id_][1]))
                self.findings.add(REPAIRED, "a caption was damaged, taken from its picture", _name(stored))
            else:
                self._remove(TEXTS, id_)
                self.findings.add(LOST, "a caption was damaged", _name(stored))
        for shard in self._all(TEXTS):
            if shard.broken and not shard.ids():  # then nobody knows which they were
                gone |= {id_: gone.get(id_, frozenset()) for id_ in shown if self._owner(TEXTS, id_) is shard}
        for id_, sources in gone.items():
            if id_ in self.held[TEXTS]:
                continue
            if id_ in shown:
                picture, text = shown[id_]
                stored = Stored(id_, "text/plain", text, sources=sources or self._sources(PICTURES, picture))
                self._wanting.append((TEXTS, "a caption was in a damaged part, taken from its picture", stored))
            else:
                self.findings.add(LOST, "a caption was in a damaged part", _name(Stored(id_, sources=sources)))

    def _vectors(self) -> None:
        """Every vector is finite, of unit length, and of the dimension of all others."""
        sizes: Counter[int] = Counter()
        broken: list[tuple[str, Stored]] = []
        with Progress("vectors", total=len(self.held[VECTORS]) + len(self.held[TEXTS]), unit="vectors") as progress:
            kept: list[tuple[str, str, int]] = []
            for name in (VECTORS, TEXTS):
                for id_ in self.held[name]:
                    stored = self._known(name, id_)
                    if _is_unit(stored.vector):
                        sizes[len(stored.vector or b"")] += 1
                        kept.append((name, id_, len(stored.vector or b"")))
                    else:
                        broken.append((name, stored))
                    progress.advance()
        usual = sizes.most_common(1)[0][0] if sizes else 0
        broken += [(name, self._known(name, id_)) for name, id_, size in kept if size != usual]
        self._wanting += [(name, "a vector was wrong", stored) for name, stored in broken]

    def _encode(self) -> None:
        """Make the vectors that are missing or wrong."""
        if not self._wanting:
            return
        try:
            encoders = Encoders(self.model)
            with Progress("encoding", total=len(self._wanting), unit="documents") as progress:
                for start in range(0, len(self._wanting), BATCH):
                    batch = self._wanting[start : start + BATCH]
                    for name in (VECTORS, TEXTS):
                        self._encode_some(encoders, name, [one[1:] for one in batch if one[0] == name])
                    progress.advance(len(batch))
        except EncodingError as error:
            for name, fault, stored in self._wanting:
                if stored.id not in self.held[name] or not _is_unit(self._known(name, stored.id).vector):
                    self.findings.add(LEFT, f"{fault}, which cannot be made here ({error})", _name(stored))

    def _encode_some(self, encoders: Encoders, name: str, wanting: list[tuple[str, Stored]]) -> None:
        if not wanting:
            return
        if name == TEXTS:
            docs = encoders.texts([stored.text for _, stored in wanting])
        else:
            docs = encoders.pictures([self._known(PICTURES, stored.id).picture or b"" for _, stored in wanting])
        for (fault, stored), doc in zip(wanting, docs, strict=True):
            if doc.error:
                self.findings.add(LEFT, f"{fault}, and it cannot be encoded", f"{_name(stored)} ({doc.error})")
                continue
            owner = self._owner(name, stored.id)
            owner.remember("model", self.model)
            owner.put(stored._replace(vector=np.asarray(doc.embedding, "<f4").tobytes()))
            self.held[name][stored.id] = owner
            self.findings.add(REPAIRED, f"{fault}, encoded again", _name(stored))

    def _agree(self) -> None:
        """The two that hold a picture know the same of where it comes from, and everything comes from somewhere."""
        for left, right in zip(self.shards[VECTORS], self.shards[PICTURES], strict=True):
            known = {shard: shard.sources() for shard in (left, right)}
            for shard, others in ((left, known[right]), (right, known[left])):
                for id_, source in others - known[shard]:
                    if self.held[VECTORS].get(id_) is left and self.held[PICTURES].get(id_) is right:
                        shard.add_source(id_, source)
                        self.findings.add(REPAIRED, "one of two indexers did not know a file", source.path or id_)
        shown = self._shown()
        for name in INDEXERS:
            for shard in self._all(name):
                for id_ in {*shard.ids()} - {id_ for id_, _ in shard.sources()}:
                    picture = shown[id_][0] if id_ in shown else ""
                    origins = self._sources(PICTURES, picture) or {NO_SOURCE if name == TEXTS else Source(id_, "")}
                    for source in origins:
                        shard.add_source(id_, source)
                    self.findings.add(REPAIRED, "a document did not say where it comes from", _name(shard.get(id_)))

    def _thumbnails(self) -> None:
        """Every thumbnail is whole and belongs to a picture; others are removed, to be made when they are asked for."""
        for shard in self._all(PICTURES):
            held = {id_ for id_, holder in self.held[PICTURES].items() if holder is shard}
            for file in (shard.folder / THUMBNAILS).glob("*/*"):
                if file.suffix != ".jpg" or file.stem not in held or not _is_thumbnail(file):
                    file.unlink()
                    self.findings.add(REPAIRED, "a thumbnail was damaged or of no picture, removed", file.name)

    def _known(self, name: str, id_: str) -> Stored:
        return self.held[name][id_].get(id_)

    def _sources(self, name: str, id_: str) -> frozenset[Source]:
        return self._known(name, id_).sources if id_ in self.held[name] else frozenset()

    def _shown(self) -> dict[str, tuple[str, str]]:
        """The texts that pictures are shown with, each with the id of such a picture, by their own ids."""
        return {text_id(text): (id_, text) for shard in self._all(PICTURES) for id_, text in shard.texts()}

    def _caption(self, picture: str) -> str:
        """The oldest caption of a picture."""
        said = [shard.caption(picture) for shard in self._all(TEXTS)]
        return next(filter(None, said), "")

    def _lost(self, name: str) -> dict[str, frozenset[Source]]:
        return {id_: sources for shard in self._all(name) for id_, sources in shard.lost.items()}

    def _remove(self, name: str, id_: str) -> None:
        if id_ in self.held[name]:
            self.held[name].pop(id_).drop(id_)


def _name(stored: Stored) -> str:
    """What a person knows a document by: its text, its file, or else its id."""
    paths = sorted(source.path for source in stored.sources if source.path)
    return next(iter(paths), stored.text[:60] or stored.id)


def _from_files(id_: str, sources: Iterable[Source]) -> tuple[bytes, Head] | None:
    """A picture and its head from a file that it came from, if that still holds the same."""
    for path in (Path(source.path) for source in sources if source.path):
        try:
            if path.is_file() and picture_id(data := read(str(path), path.resolve().parent)) == id_:
                return data, inspect(data)
        except (OSError, PictureError):
            continue
    return None


def _is_unit(vector: bytes | None) -> bool:
    if not vector or len(vector) % 4:
        return False
    length = np.linalg.norm(np.frombuffer(vector, "<f4").astype(np.float64))
    return bool(abs(length - 1) < UNIT)  # of what is not finite neither


def _is_thumbnail(file: Path) -> bool:
    try:
        data = file.read_bytes()
        picture = decode(data)
    except (OSError, PictureError):
        return False
    return inspect(data).mime_type == MIME_TYPE and max(picture.size) <= SIDE
