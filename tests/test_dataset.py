"""Data sets as streams of pairs, with real photographs and with hostile files."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import tempfile
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import skimage
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dataset import DATA, DataError, DataSet, Pair, open_data_set

PHOTOGRAPHS = Path(skimage.__file__).parent / "data"
NOBODY = 65534


class Skipped(list[tuple[str, str]]):
    """Collects what was passed over."""

    def __call__(self, name: str, reason: str) -> None:
        self.append((name, reason))


def read(data_set: DataSet, *, limit: int | None = None) -> tuple[list[Pair], Skipped]:
    skipped = Skipped()
    return list(data_set.pairs(limit=limit, skip=skipped)), skipped


def sources_and_captions(pairs: list[Pair]) -> list[tuple[str, str | None]]:
    return [(pair.source, pair.caption) for pair in pairs]


def photograph(path: Path, *, name: str = "rocket.jpg") -> Path:
    """Put a real photograph at a path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(PHOTOGRAPHS / name, path))


def f8k(data: Path, captions: str | bytes, *, pictures: tuple[str, ...] = ("a.jpg", "b.jpg")) -> DataSet:
    """A small data set in Flickr8k's layout."""
    for name in pictures:
        photograph(data / "f8k" / "images" / name)
    content = captions.encode() if isinstance(captions, str) else captions
    (data / "f8k" / "captions.txt").write_bytes(content)
    return open_data_set("f8k", data=data)


def f30k(data: Path, tree: object) -> DataSet:
    """A small data set in Flickr30k's layout."""
    photograph(data / "f30k" / "images" / "1.jpg")
    (data / "f30k" / "dataset_flickr30k.json").write_text(json.dumps(tree))
    return open_data_set("f30k", data=data)


def one_line(error: pytest.ExceptionInfo[DataError]) -> str:
    message = str(error.value)
    assert message
    assert "\n" not in message
    return message


# Flickr8k


def test_f8k_takes_the_first_caption_of_each_picture_lower_cased_in_the_files_order(tmp_path: Path) -> None:
    captions = 'image,caption\nb.jpg,"A Dog , ""Rex"" , runs ."\na.jpg,A Cat .\nb.jpg,Another .\na.jpg,More .\n'
    data_set = f8k(tmp_path, captions)
    pairs, skipped = read(data_set)
    assert sources_and_captions(pairs) == [("b.jpg", 'a dog , "rex" , runs .'), ("a.jpg", "a cat .")]
    assert skipped == []
    assert len(data_set) == 2
    assert data_set.name == "f8k"
    assert data_set.root == (tmp_path / "f8k" / "images").resolve()
    assert [pair.path for pair in pairs] == [data_set.root / "b.jpg", data_set.root / "a.jpg"]


def test_the_real_flickr8k(flickr8k: Path, tmp_path: Path) -> None:
    (tmp_path / "f8k").symlink_to(flickr8k)
    data_set = open_data_set("f8k", data=tmp_path)
    pairs, skipped = read(data_set)
    assert len(pairs) == len(data_set) == 8091
    assert skipped == []
    assert len({pair.source for pair in pairs}) == 8091
    captions = [pair.caption or "" for pair in pairs]
    assert captions[0] == "a child in a pink dress is climbing up a set of stairs in an entry way ."
    assert all(caption == caption.lower() for caption in captions)
    assert not [caption for caption in captions if caption.startswith('"') and caption.endswith('"')]
    assert not [caption for caption in captions if '""' in caption]
    assert data_set.root == (flickr8k / "images").resolve()


def test_the_real_flickr8k_given_as_a_path_has_all_captions(flickr8k: Path) -> None:
    pairs, skipped = read(open_data_set(str(flickr8k)))
    assert skipped == []
    assert len(pairs) == 40455
    assert set(Counter(pair.source for pair in pairs).values()) == {5}
    assert pairs[0].source.startswith("images/")
    assert any(caption != caption.lower() for _, caption in sources_and_captions(pairs) if caption)


def test_the_images_folder_may_be_a_link_and_have_the_archives_name(tmp_path: Path) -> None:
    photograph(tmp_path / "disk" / "a.jpg")
    folder = tmp_path / "data" / "f8k"
    folder.mkdir(parents=True)
    (folder / "Images").symlink_to(tmp_path / "disk")
    (folder / "captions.txt").write_text("image,caption\na.jpg,A rocket .\n")
    data_set = open_data_set("f8k", data=tmp_path / "data")
    assert data_set.root == (tmp_path / "disk").resolve()
    assert read(data_set) == ([Pair(data_set.root / "a.jpg", "a.jpg", "a rocket .")], [])


def test_no_flickr8k(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as error:
        open_data_set("f8k", data=tmp_path / "data")
    assert one_line(error).startswith("no Flickr8k at data/f8k: run `bash get_data.sh`, or link ")


def test_f8k_without_pictures(tmp_path: Path) -> None:
    (tmp_path / "f8k" / "images").mkdir(parents=True)
    (tmp_path / "f8k" / "captions.txt").write_text("image,caption\na.jpg,A rocket .\n")
    with pytest.raises(DataError, match="no picture in"):
        open_data_set("f8k", data=tmp_path)


@pytest.mark.parametrize(("limit", "count"), [(0, 0), (1, 1), (2, 2), (9, 2), (None, 2)])
def test_limit_counts_pairs_that_are_yielded(tmp_path: Path, limit: int | None, count: int) -> None:
    data_set = f8k(tmp_path, "image,caption\ngone.jpg,Gone .\na.jpg,One .\nb.jpg,Two .\n")
    assert len(read(data_set, limit=limit)[0]) == count


def test_pairs_may_be_read_twice(tmp_path: Path) -> None:
    data_set = f8k(tmp_path, "image,caption\ngone.jpg,Gone .\na.jpg,One .\n")
    assert read(data_set) == read(data_set)


# Captions that are wrong

BAD_LINES = {
    "one column": (b"a.jpg", "1 columns"),
    "three columns": (b"a.jpg,A dog, running .", "3 columns"),
    "open quotation mark": (b'a.jpg,"A dog', "quotation mark is not closed"),
    "text after a quotation": (b'a.jpg,"A dog" runs', "quotation mark"),
    "Latin-1": (b"a.jpg,A caf\xe9 .", "not UTF-8"),
    "NUL": (b"a.jpg,A \0 dog .", "caption holds a NUL byte"),
    "NUL in the name": (b"a\0.jpg,A dog .", "name holds a NUL byte"),
    "empty caption": (b"a.jpg,", "caption is empty"),
    "blank caption": (b'a.jpg,"  "', "caption is empty"),
    "empty name": (b",A dog .", "name is empty"),
    "very long": (b"a.jpg," + b"x" * 1_000_000, "longer than 65536 bytes"),
    "parent": (b"../a.jpg,A dog .", "leads out"),
    "hidden parent": (b"x/../../a.jpg,A dog .", "leads out"),
    "absolute": (b"/etc/passwd,A dog .", "leads out"),
    "a missing picture": (b"gone.jpg,A dog .", "No such file"),
    "a very long name": (b"x" * 5000 + b".jpg,A dog .", "too long"),
    "a folder": (b"folder.jpg,A dog .", "not a regular file"),
    "no picture": (b"notes.txt,A dog .", "not a picture"),
}


@pytest.mark.parametrize(("line", "reason"), BAD_LINES.values(), ids=BAD_LINES)
@pytest.mark.parametrize("place", [2, 3, 4])
def test_a_bad_line_is_named_once_and_its_neighbours_are_read(
    tmp_path: Path, line: bytes, reason: str, place: int
) -> None:
    (tmp_path / "f8k" / "images" / "folder.jpg").mkdir(parents=True)
    (tmp_path / "f8k" / "images" / "notes.txt").write_text("notes")
    lines = [b"image,caption", b"b.jpg,First .", b'c.jpg,"Second , ""quoted"" ."']
    lines.insert(place - 1, line)
    pairs, skipped = read(f8k(tmp_path, b"\n".join(lines), pictures=("a.jpg", "b.jpg", "c.jpg")))
    assert sources_and_captions(pairs) == [("b.jpg", "first ."), ("c.jpg", 'second , "quoted" .')]
    assert len(skipped) == 1
    assert skipped[0][0].startswith(f"captions.txt, line {place}")
    assert reason in skipped[0][1]
    assert "\n" not in skipped[0][0] + skipped[0][1]


def test_the_first_good_caption_is_used_when_the_first_is_bad(tmp_path: Path) -> None:
    pairs, skipped = read(f8k(tmp_path, "image,caption\na.jpg,\na.jpg,Second .\n"))
    assert sources_and_captions(pairs) == [("a.jpg", "second .")]
    assert [name for name, _ in skipped] == ["captions.txt, line 2"]


def test_a_missing_header_is_named_and_the_line_kept(tmp_path: Path) -> None:
    pairs, skipped = read(f8k(tmp_path, "a.jpg,One .\nb.jpg,Two .\n"))
    assert sources_and_captions(pairs) == [("a.jpg", "one ."), ("b.jpg", "two .")]
    assert [name for name, _ in skipped] == ["captions.txt, line 1"]
    assert "header" in skipped[0][1]


def test_another_header_is_named_and_passed_over(tmp_path: Path) -> None:
    pairs, skipped = read(f8k(tmp_path, "file,text\na.jpg,One .\n"))
    assert sources_and_captions(pairs) == [("a.jpg", "one .")]
    assert len(skipped) == 1
    assert "header must be image,caption" in skipped[0][1]


@pytest.mark.parametrize("header", ["\ufeffimage,caption\r\n", "Image,Caption\n", '"image","caption"\n'])
def test_usual_forms_of_the_header(tmp_path: Path, header: str) -> None:
    pairs, skipped = read(f8k(tmp_path, f"{header}a.jpg,One .\r\n\r\n"))
    assert (sources_and_captions(pairs), skipped) == ([("a.jpg", "one .")], [])


def test_an_open_quotation_mark_does_not_swallow_records_up_to_a_later_one(tmp_path: Path) -> None:
    pairs, skipped = read(f8k(tmp_path, 'image,caption\na.jpg,"open\nb.jpg,Two .\na.jpg,closed"\n'))
    assert sources_and_captions(pairs) == [("b.jpg", "two ."), ("a.jpg", 'closed"')]
    assert len(skipped) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n\n",
        b"image,caption\n",
        b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40,
        "image,caption\na.jpg,x".encode("utf-16"),
        b"a.jpg|0|A dog\n" * 3,
        b"image,caption\na.jpg,\n",
        b"x" * 200_000,
    ],
    ids=["empty", "blank", "header only", "binary", "UTF-16", "other columns", "only bad lines", "one long line"],
)
def test_an_unusable_captions_file(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DataError) as error:
        f8k(tmp_path, content)
    assert "f8k/captions.txt cannot be used" in one_line(error)
    assert "image,caption" in one_line(error)


def test_a_captions_file_that_is_a_folder(tmp_path: Path) -> None:
    photograph(tmp_path / "f8k" / "images" / "a.jpg")
    (tmp_path / "f8k" / "captions.txt").mkdir()
    with pytest.raises(DataError, match=r"captions\.txt is not a file"):
        open_data_set("f8k", data=tmp_path)


CAPTIONS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=60).filter(
    lambda text: bool(text.strip()) and text.count("\n") < 20
)


@given(captions=st.lists(CAPTIONS, min_size=1, max_size=8))
@settings(deadline=None, max_examples=200)
def test_what_the_csv_module_writes_is_read_back(captions: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        photograph(Path(folder, "a.jpg"))
        text = io.StringIO()
        csv.writer(text).writerows([["image", "caption"], *(["a.jpg", caption] for caption in captions)])
        Path(folder, "captions.csv").write_bytes(text.getvalue().encode())
        pairs, skipped = read(open_data_set(folder))
        assert [pair.caption for pair in pairs] == [caption.strip() for caption in captions]
        assert skipped == []


@given(content=st.binary(max_size=300))
@settings(deadline=None, max_examples=200)
def test_no_captions_file_breaks_the_reader(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        photograph(Path(folder, "a.jpg"))
        Path(folder, "captions.txt").write_bytes(b"image,caption\na.jpg,Good .\n" + content)
        pairs, skipped = read(open_data_set(folder))
        assert pairs[0][1:] == ("a.jpg", "Good .")
        assert all(line.isprintable() for line in sum(skipped, ()))


# Flickr30k


def image(name: object, *sentences: object, split: str = "test") -> dict[str, object]:
    return {
        "filename": name,
        "split": split,
        "imgid": 1,
        "sentences": [{"raw": raw, "tokens": []} for raw in sentences],
    }


def test_f30k_takes_every_sentence_of_the_test_split(tmp_path: Path) -> None:
    data_set = f30k(
        tmp_path, {"images": [image("2.jpg", "No .", split="train"), image("1.jpg", "A Dog .", "It runs .")]}
    )
    pairs, skipped = read(data_set)
    assert sources_and_captions(pairs) == [("1.jpg", "A Dog ."), ("1.jpg", "It runs .")]
    assert skipped == []
    assert (len(data_set), data_set.name, data_set.root) == (2, "f30k", (tmp_path / "f30k" / "images").resolve())


def test_bad_entries_of_f30k_are_named(tmp_path: Path) -> None:
    wrong = [
        17,
        image(None, "x"),
        image("../x.jpg", "x"),
        image("1.jpg", 5),
        image("1.jpg", "\ud800"),
        image("gone.jpg", "x"),
    ]
    pairs, skipped = read(f30k(tmp_path, {"images": [*wrong, image("1.jpg", "A Dog .")]}))
    assert sources_and_captions(pairs) == [("1.jpg", "A Dog .")]
    assert [name.partition(":")[0] for name, _ in skipped] == [
        f"dataset_flickr30k.json, image {n}" for n in range(1, 7)
    ]


@pytest.mark.parametrize(
    "tree", [{}, [], 1, {"images": 3}, {"images": []}, {"images": [image("1.jpg", "x", split="val")]}]
)
def test_f30k_without_a_test_split(tmp_path: Path, tree: object) -> None:
    with pytest.raises(DataError) as error:
        f30k(tmp_path, tree)
    assert "no sentences of the split `test`" in one_line(error)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[" * 100_000, b"\xff\xfe\xfa"], ids=["empty", "cut", "deep", "binary"]
)
def test_f30k_with_broken_json(tmp_path: Path, content: bytes) -> None:
    photograph(tmp_path / "f30k" / "images" / "1.jpg")
    (tmp_path / "f30k" / "dataset_flickr30k.json").write_bytes(content)
    with pytest.raises(DataError) as error:
        open_data_set("f30k", data=tmp_path)
    assert "dataset_flickr30k.json cannot be read as JSON" in one_line(error)


def test_no_flickr30k(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"run `bash get_data\.sh f30k`"):
        open_data_set("f30k", data=tmp_path)
    photograph(tmp_path / "f30k" / "images" / "1.jpg")
    with pytest.raises(DataError, match=r"no .*dataset_flickr30k\.json: put"):
        open_data_set("f30k", data=tmp_path)


# The toy set


def test_every_toy_picture_is_a_photograph_with_two_captions() -> None:
    data_set = open_data_set("toy")
    pairs, skipped = read(data_set)
    assert skipped == []
    counts = Counter(pair.source for pair in pairs)
    assert set(counts.values()) == {2}
    assert 15 <= len(counts) <= 20
    assert len({pair.caption for pair in pairs}) == len(pairs) == len(data_set)
    assert data_set.root == PHOTOGRAPHS.resolve()
    for pair in pairs:
        with Image.open(pair.path) as picture:
            assert min(picture.size) >= 150


def test_the_toy_set_knows_a_cat_and_a_cup_of_coffee() -> None:
    captions = sources_and_captions(read(open_data_set("toy"))[0])
    for phrase, source in [("a cat ", "chelsea.png"), ("a cup of coffee", "coffee.png")]:
        assert [name for name, caption in captions if caption and phrase in caption.lower()] == [source]


def test_the_toy_captions_are_in_the_repository_given(tmp_path: Path) -> None:
    assert (DATA / "toy" / "captions.txt").is_file()
    with pytest.raises(DataError, match="restore it"):
        open_data_set("toy", data=tmp_path)


# Any folder


def test_every_picture_below_a_folder_sorted_and_without_captions(tmp_path: Path) -> None:
    for name in ["z.jpg", "sub/deep/B.PNG", "sub/a.webp", ".hidden.jpg", ".git/c.jpg"]:
        photograph(tmp_path / name)
    for name in ["notes.txt", ".DS_Store", "sub/readme.md"]:
        (tmp_path / name).write_text("no picture")
    data_set = open_data_set(str(tmp_path))
    pairs, skipped = read(data_set)
    assert sources_and_captions(pairs) == [("sub/a.webp", None), ("sub/deep/B.PNG", None), ("z.jpg", None)]
    assert [pair.path for pair in pairs] == [tmp_path.resolve() / pair.source for pair in pairs]
    assert (skipped, len(data_set), data_set.root) == ([], 3, tmp_path.resolve())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF"])
def test_pictures_are_recognised_by_content_too(tmp_path: Path, kind: str) -> None:
    with Image.open(PHOTOGRAPHS / "coffee.png") as picture:
        picture.convert("RGB").save(tmp_path / "picture", format=kind)
    assert [pair.source for pair in read(open_data_set(str(tmp_path)))[0]] == ["picture"]


def test_a_broken_picture_is_left_to_the_loader(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"not a JPEG")
    (tmp_path / "empty.png").write_bytes(b"")
    assert [pair.source for pair in read(open_data_set(str(tmp_path)))[0]] == ["broken.jpg", "empty.png"]


@pytest.mark.parametrize("folder", [".", "images", "Images"])
@pytest.mark.parametrize("file", ["captions.txt", "captions.csv"])
def test_captions_of_a_folder(tmp_path: Path, folder: str, file: str) -> None:
    photograph(tmp_path / folder / "a.jpg")
    photograph(tmp_path / folder / "b.jpg")
    (tmp_path / file).write_text('image,caption\nb.jpg,"One , Two ."\nb.jpg,Three .\n')
    pairs, skipped = read(open_data_set(str(tmp_path)))
    assert [(pair.path.name, pair.caption) for pair in pairs] == [
        ("a.jpg", None),
        ("b.jpg", "One , Two ."),
        ("b.jpg", "Three ."),
    ]
    assert skipped == []


def test_captions_may_name_pictures_from_the_folder_itself(tmp_path: Path) -> None:
    photograph(tmp_path / "images" / "a.jpg")
    (tmp_path / "captions.txt").write_text("image,caption\nimages/a.jpg,One .\n./images/a.jpg,Two .\na.jpg,Three .\n")
    pairs, skipped = read(open_data_set(str(tmp_path)))
    assert [pair.caption for pair in pairs] == ["One .", "Two .", "Three ."]
    assert skipped == []


def test_captions_whose_picture_is_missing_are_named_once_a_picture(tmp_path: Path) -> None:
    photograph(tmp_path / "a.jpg")
    (tmp_path / "captions.txt").write_text("image,caption\ngone.jpg,One .\ngone.jpg,Two .\na.jpg,Three .\n")
    pairs, skipped = read(open_data_set(str(tmp_path)))
    assert sources_and_captions(pairs) == [("a.jpg", "Three .")]
    assert skipped == [("captions.txt, line 2: gone.jpg", "there is no such picture")]


def test_an_unusable_captions_file_of_a_folder(tmp_path: Path) -> None:
    photograph(tmp_path / "a.jpg")
    (tmp_path / "captions.txt").write_bytes(b"\0\1\2")
    with pytest.raises(DataError, match=r"captions\.txt cannot be used"):
        open_data_set(str(tmp_path))


@pytest.mark.parametrize("name", ["", "nowhere", "a\0b", "x" * 5000, "new\nline"])
def test_a_folder_that_does_not_exist(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as error:
        open_data_set(name)
    assert "f8k, f30k, toy or the path of a folder" in one_line(error)


def test_a_file_in_place_of_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a file: give the folder"):
        open_data_set(str(photograph(tmp_path / "a.jpg")))


def test_a_folder_without_pictures(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(DataError) as error:
        open_data_set(str(tmp_path))
    assert one_line(error).startswith(f"no picture below {tmp_path}")


def test_a_folder_that_is_a_link(tmp_path: Path) -> None:
    photograph(tmp_path / "real" / "a.jpg")
    (tmp_path / "link").symlink_to("real")
    data_set = open_data_set(str(tmp_path / "link"))
    assert data_set.root == (tmp_path / "real").resolve()
    assert len(read(data_set)[0]) == 1


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A folder with every kind of symbolic link in it, and its own picture a.jpg."""
    outside, folder = photograph(tmp_path / "outside" / "secret.jpg"), tmp_path / "folder"
    photograph(folder / "sub" / "a.jpg")
    targets: dict[str, str | Path] = {
        "inside.jpg": "sub/a.jpg",
        "out.jpg": outside,
        "out": outside.parent,
        "circle.jpg": "circle.jpg",
        "parent": ".",
        "broken.jpg": "nowhere.jpg",
    }
    for name, target in targets.items():
        (folder / name).symlink_to(target)
    return folder


LINKS = {
    "broken.jpg": "No such file",
    "circle.jpg": "run in a circle",
    "out": "leads out",
    "out.jpg": "leads out",
    "parent": "at its own place",
}


def test_links_that_lead_out_or_in_a_circle_are_named(linked: Path) -> None:
    pairs, skipped = read(open_data_set(str(linked)))
    assert [pair.source for pair in pairs] == ["inside.jpg", "sub/a.jpg"]
    assert [name for name, _ in skipped] == sorted(LINKS)
    assert all(LINKS[name] in reason for name, reason in skipped)


def test_captions_of_a_link_that_leads_out_are_not_named_again(linked: Path) -> None:
    (linked / "captions.txt").write_text("image,caption\nout.jpg,Secret .\nsub/a.jpg,One .\n")
    pairs, skipped = read(open_data_set(str(linked)))
    assert sources_and_captions(pairs) == [("inside.jpg", None), ("sub/a.jpg", "One .")]
    assert [name for name, _ in skipped] == sorted(LINKS)


def test_a_link_that_leads_out_of_flickr8k(tmp_path: Path) -> None:
    photograph(tmp_path / "secret.jpg")
    images = photograph(tmp_path / "f8k" / "images" / "b.jpg").parent
    (images / "out.jpg").symlink_to(tmp_path / "secret.jpg")
    pairs, skipped = read(f8k(tmp_path, "image,caption\nout.jpg,Secret .\nb.jpg,One .\n"))
    assert sources_and_captions(pairs) == [("b.jpg", "one .")]
    assert skipped == [("captions.txt, line 2: out.jpg", "its symbolic link leads out of the data set's folder")]


def test_captions_that_lead_out_of_the_folder_are_not_read(tmp_path: Path) -> None:
    photograph(tmp_path / "folder" / "a.jpg")
    (tmp_path / "captions.txt").write_text("image,caption\na.jpg,From elsewhere .\n")
    (tmp_path / "folder" / "captions.txt").symlink_to(tmp_path / "captions.txt")
    pairs, skipped = read(open_data_set(str(tmp_path / "folder")))
    assert sources_and_captions(pairs) == [("a.jpg", None)]
    assert [name for name, _ in skipped] == ["captions.txt"]


def test_a_pipe_with_a_pictures_name_does_not_hang(tmp_path: Path) -> None:
    photograph(tmp_path / "a.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    os.mkfifo(tmp_path / "pipe")
    pairs, skipped = read(open_data_set(str(tmp_path)))
    assert [pair.source for pair in pairs] == ["a.jpg"]
    assert skipped == [("pipe.jpg", "is not a regular file")]


@pytest.mark.parametrize("raw", [b"\xff.jpg", b"new\nline.jpg", b"\x1b[31m.jpg"])
def test_names_that_could_spoil_a_message(tmp_path: Path, raw: bytes) -> None:
    photograph(tmp_path / "a.jpg")
    try:
        photograph(tmp_path / os.fsdecode(raw)).chmod(0)
    except OSError:
        pytest.skip("this file system refuses the name")
    pairs, skipped = read(open_data_set(str(tmp_path)))
    for pair in pairs:
        pair.source.encode()
    assert all(text.isprintable() for text in sum(skipped, ()))
    assert (len(pairs), len(skipped)) in {(1, 1), (2, 0)}


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder that everybody may enter, and a process that is not root while the test runs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        photograph(folder / "good.jpg").chmod(0o644)
        photograph(folder / "secret.jpg").chmod(0)
        photograph(folder / "closed" / "a.jpg").parent.chmod(0)
        root = os.geteuid() == 0
        try:
            if root:
                os.seteuid(NOBODY)
            yield folder
        except PermissionError:
            pytest.skip("root, and may not become somebody else")
        finally:
            if root:
                os.seteuid(0)
            (folder / "closed").chmod(0o755)


def test_unreadable_files_and_folders_are_named(unprivileged: Path) -> None:
    pairs, skipped = read(open_data_set(str(unprivileged)))
    assert [pair.source for pair in pairs] == ["good.jpg"]
    assert skipped == [
        ("closed", "cannot be read: Permission denied"),
        ("secret.jpg", "cannot be read: Permission denied"),
    ]


def test_an_unreadable_folder(unprivileged: Path) -> None:
    with pytest.raises(DataError) as error:
        open_data_set(str(unprivileged / "closed"))
    assert "Permission denied" in one_line(error)


def test_a_large_folder_needs_little_memory(tmp_path: Path) -> None:
    for number in range(5000):
        (tmp_path / f"{number}.jpg").touch()
    tracemalloc.start()
    count = sum(1 for _ in open_data_set(str(tmp_path)).pairs(skip=Skipped()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 5000
    assert peak < 6_000_000
