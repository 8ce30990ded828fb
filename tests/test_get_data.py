"""get_data.sh, run as a copy in a temporary folder with a stand-in for the kaggle command."""

from __future__ import annotations

import io
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import skimage

from dataset import open_data_set

REPOSITORY = Path(__file__).resolve().parent.parent
TOOLS = (
    *("bash", "dirname", "find", "du", "awk", "tr", "grep", "tail", "cut", "sleep", "sed", "sort", "uniq"),
    *("mv", "rm", "rmdir", "mkdir", "mktemp", "cp"),
)
CAPTIONS = 'image,caption\n1_a.jpg,A dog runs .\n2_b.jpg,"A cat , asleep ."\n'
SECONDS = 60.0


def archive(names: dict[str, bytes]) -> bytes:
    """A zip file in memory."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in names.items():
            file.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture
def jpeg(tmp_path: Path) -> bytes:
    """A real photograph."""
    return (Path(skimage.__file__).parent / "data" / "rocket.jpg").read_bytes()


@pytest.fixture
def flickr8k_archive(jpeg: bytes) -> bytes:
    """A small archive of the real shape."""
    return archive({"Images/1_a.jpg": jpeg, "Images/2_b.jpg": jpeg, "captions.txt": CAPTIONS.encode()})


class Sandbox:
    """A copy of the script with tools of its own and no network."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.tools, self.home = folder / "repository", folder / "tools", folder / "home"
        for path in (self.folder, self.tools, self.home / ".kaggle"):
            path.mkdir(parents=True)
        shutil.copy(REPOSITORY / "get_data.sh", self.folder)
        for tool in TOOLS:
            (self.tools / tool).symlink_to(shutil.which(tool) or pytest.skip(f"no {tool} on this machine"))
        (self.tools / "python3").symlink_to(sys.executable)
        self.environment = {"PATH": str(self.tools), "HOME": str(self.home), "LC_ALL": "C"}
        (self.home / ".kaggle" / "kaggle.json").write_text('{"username": "u", "key": "k"}')
        self.data = self.folder / "data"

    def kaggle(self, body: str, *, place: Path | None = None) -> None:
        """Put a stand-in for the kaggle command in place."""
        file = (place or self.tools) / "kaggle"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f'#!{self.tools / "bash"}\necho "$@" >>"{self.home}/calls"\n{body}\n')
        file.chmod(0o755)

    def hands_out(self, content: bytes) -> None:
        """Let the stand-in write an archive as the real command does: into the folder after -p."""
        (self.home / "archive").write_bytes(content)
        self.kaggle(f'[ "$4" = -p ] && cp "{self.home}/archive" "$5/${{3#*/}}.zip"')

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the script from another folder."""
        return subprocess.run(
            [str(self.tools / "bash"), str(self.folder / "get_data.sh"), *arguments],
            env={**self.environment, **environment},
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            stdin=subprocess.DEVNULL,
        )

    def calls(self) -> list[str]:
        """The arguments of every call of the stand-in."""
        file = self.home / "calls"
        return file.read_text().splitlines() if file.exists() else []

    def left(self) -> list[str]:
        """What is in data/, hidden names included."""
        return sorted(os.listdir(self.data)) if self.data.exists() else []


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return Sandbox(tmp_path)


def refuse(name: str, reason: str) -> None:
    """Nothing may be passed over."""
    pytest.fail(f"{name}: {reason}")


def assert_failed(result: subprocess.CompletedProcess[str], *words: str, code: int = 1) -> None:
    """The script failed with one line that holds the words."""
    assert result.returncode == code
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    for word in words:
        assert word in result.stderr


@pytest.mark.parametrize("arguments", [[], ["f8k"]])
def test_fetches_flickr8k_in_the_layout_that_the_data_set_reads(
    sandbox: Sandbox, flickr8k_archive: bytes, arguments: list[str]
) -> None:
    sandbox.hands_out(flickr8k_archive)
    result = sandbox.run(*arguments)
    assert (result.returncode, result.stderr, result.stdout) == (0, "", "data/f8k is ready\n")
    assert sandbox.left() == ["f8k"]
    assert sorted(os.listdir(sandbox.data / "f8k")) == ["captions.txt", "images"]
    assert sandbox.calls() == ["datasets download adityajn105/flickr8k -p ."]
    pairs = list(open_data_set("f8k", data=sandbox.data).pairs(skip=refuse))
    assert [(pair.source, pair.caption) for pair in pairs] == [
        ("1_a.jpg", "a dog runs ."),
        ("2_b.jpg", "a cat , asleep ."),
    ]


def test_data_that_is_there_is_not_fetched_again(sandbox: Sandbox, flickr8k_archive: bytes) -> None:
    sandbox.hands_out(flickr8k_archive)
    sandbox.run()
    result = sandbox.run()
    assert (result.returncode, result.stdout, result.stderr) == (0, "data/f8k is there already\n", "")
    assert len(sandbox.calls()) == 1


def test_a_linked_folder_counts_as_there(sandbox: Sandbox, jpeg: bytes, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    (mine / "Images").mkdir(parents=True)
    (mine / "Images" / "a.jpg").write_bytes(jpeg)
    (mine / "captions.txt").write_text(CAPTIONS)
    sandbox.data.mkdir()
    (sandbox.data / "f8k").symlink_to(mine)
    assert sandbox.run().returncode == 0
    assert sandbox.calls() == []


def test_fetches_flickr30k_and_says_where_the_json_goes(sandbox: Sandbox, jpeg: bytes) -> None:
    names = ["flickr30k_images/1.jpg", "flickr30k_images/2.jpg", "flickr30k_images/flickr30k_images/1.jpg"]
    content = {f"flickr30k_images/{name}": jpeg for name in names}
    sandbox.hands_out(archive({"flickr30k_images/results.csv": b"image_name| comment", **content}))
    result = sandbox.run("f30k")
    assert (result.returncode, result.stderr) == (0, "")
    assert "data/f30k/dataset_flickr30k.json" in result.stdout
    assert sorted(path.name for path in (sandbox.data / "f30k" / "images").glob("*.jpg")) == ["1.jpg", "2.jpg"]
    assert sandbox.calls() == ["datasets download hsankesara/flickr-image-dataset -p ."]


def test_flickr30k_joins_a_json_that_is_there_already(sandbox: Sandbox, jpeg: bytes) -> None:
    sentences = [{"raw": "A rocket ."}, {"raw": "Dusk ."}]
    (sandbox.data / "f30k").mkdir(parents=True)
    captions = {"images": [{"filename": "1.jpg", "split": "test", "sentences": sentences}]}
    (sandbox.data / "f30k" / "dataset_flickr30k.json").write_text(json.dumps(captions))
    sandbox.hands_out(archive({"flickr30k_images/flickr30k_images/1.jpg": jpeg}))
    result = sandbox.run("f30k")
    assert (result.returncode, result.stdout) == (0, "data/f30k is ready\n")
    assert len(list(open_data_set("f30k", data=sandbox.data).pairs(skip=refuse))) == 2


def test_the_environments_own_kaggle_wins(sandbox: Sandbox, flickr8k_archive: bytes) -> None:
    sandbox.hands_out(flickr8k_archive)
    sandbox.kaggle("echo the right one; exit 3", place=sandbox.folder / ".venv" / "bin")
    assert_failed(sandbox.run(), "the right one")


def test_a_missing_token_is_explained(sandbox: Sandbox, flickr8k_archive: bytes) -> None:
    sandbox.hands_out(flickr8k_archive)
    (sandbox.home / ".kaggle" / "kaggle.json").unlink()
    assert_failed(sandbox.run(), "no Kaggle token", "~/.kaggle/kaggle.json", "KAGGLE_USERNAME", "KAGGLE_KEY")
    assert_failed(sandbox.run(KAGGLE_USERNAME="only a name"), "no Kaggle token")
    assert sandbox.calls() == []
    assert sandbox.left() == []


@pytest.mark.parametrize(
    "give",
    [
        lambda home: {"KAGGLE_USERNAME": "u", "KAGGLE_KEY": "k"},
        lambda home: {"KAGGLE_API_TOKEN": "t"},
        lambda home: (home / ".kaggle" / "access_token").write_text("t") and {},
        lambda home: (home / "kaggle.json").write_text("{}") and {"KAGGLE_CONFIG_DIR": str(home)},
    ],
    ids=["name and key", "API token", "access_token", "configuration folder"],
)
def test_every_kind_of_token_is_accepted(
    sandbox: Sandbox, flickr8k_archive: bytes, give: Callable[[Path], dict[str, str]]
) -> None:
    sandbox.hands_out(flickr8k_archive)
    (sandbox.home / ".kaggle" / "kaggle.json").unlink()
    assert sandbox.run(**give(sandbox.home)).returncode == 0


def test_no_kaggle_command(sandbox: Sandbox) -> None:
    assert_failed(sandbox.run(), "no kaggle command")
    assert sandbox.left() == []


def test_a_failing_kaggle_is_quoted_in_one_line(sandbox: Sandbox) -> None:
    sandbox.kaggle(
        'echo half >"$5/flickr8k.zip"; printf "Traceback\\n  File x\\n\\033[31mno route to host\\n\\n" >&2; exit 1'
    )
    result = sandbox.run()
    assert_failed(result, "kaggle could not fetch adityajn105/flickr8k", "no route to host")
    assert "\033" not in result.stderr
    assert sandbox.left() == []


def test_a_kaggle_that_leaves_nothing(sandbox: Sandbox) -> None:
    sandbox.kaggle("exit 0")
    assert_failed(sandbox.run(), "no archive")
    assert sandbox.left() == []


@pytest.mark.parametrize("spoil", [lambda zipped: zipped[:-200], lambda zipped: b"<html>", lambda zipped: b""])
def test_a_broken_archive(sandbox: Sandbox, flickr8k_archive: bytes, spoil: Callable[[bytes], bytes]) -> None:
    sandbox.hands_out(spoil(flickr8k_archive))
    assert_failed(sandbox.run(), "cannot be unpacked")
    assert sandbox.left() == []


def test_a_damaged_picture_in_the_archive(sandbox: Sandbox, flickr8k_archive: bytes) -> None:
    middle = len(flickr8k_archive) // 4
    sandbox.hands_out(flickr8k_archive[:middle] + b"damage" + flickr8k_archive[middle + 6 :])
    assert_failed(sandbox.run(), "cannot be unpacked", "CRC")
    assert sandbox.left() == []


@pytest.mark.parametrize(("kept", "word"), [("captions.txt", "no pictures"), ("Images/1.jpg", "no captions.txt")])
def test_an_archive_of_another_layout(sandbox: Sandbox, kept: str, word: str) -> None:
    sandbox.hands_out(archive({kept: b"x"}))
    assert_failed(sandbox.run(), word)
    assert sandbox.left() == []


def test_an_archive_cannot_write_outside(sandbox: Sandbox, jpeg: bytes) -> None:
    names = {"../../../outside.txt": b"x", "Images/1_a.jpg": jpeg, "captions.txt": CAPTIONS.encode()}
    sandbox.hands_out(archive(names))
    assert sandbox.run().returncode == 0
    assert not list(sandbox.folder.parent.rglob("outside.txt"))


class Sleeper:
    """A stand-in that never ends, and a pipe that every process of it holds open."""

    def __init__(self, sandbox: Sandbox) -> None:
        pipe = sandbox.home / "pipe"
        os.mkfifo(pipe)
        self._pipe = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        sandbox.kaggle(f'exec 9>"{pipe}"; echo half >half.zip; echo started >&9; sleep 1000')

    def read(self) -> bytes:
        """What it says next; nothing once no process of it is left."""
        assert select.select([self._pipe], [], [], SECONDS)[0], "it is still running"
        return os.read(self._pipe, 100)


def test_a_download_that_stands_still_is_ended(sandbox: Sandbox) -> None:
    sleeper = Sleeper(sandbox)
    assert_failed(sandbox.run(GET_DATA_TIMEOUT="1"), "stood still for 1 s")
    assert sandbox.left() == []
    assert [sleeper.read(), sleeper.read()] == [b"started\n", b""]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_download_leaves_nothing(sandbox: Sandbox, number: int) -> None:
    sleeper = Sleeper(sandbox)
    script = [str(sandbox.tools / "bash"), str(sandbox.folder / "get_data.sh")]
    with subprocess.Popen(script, env=sandbox.environment, stderr=subprocess.PIPE) as process:
        assert sleeper.read() == b"started\n"
        process.send_signal(number)
        assert process.wait(timeout=SECONDS) == 130
    assert sleeper.read() == b""
    assert sandbox.left() == []


@pytest.mark.parametrize("there", ["captions.txt", "images/notes.txt"])
def test_an_incomplete_folder_is_left_alone(sandbox: Sandbox, flickr8k_archive: bytes, there: str) -> None:
    file = sandbox.data / "f8k" / there
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    sandbox.hands_out(flickr8k_archive)
    assert_failed(sandbox.run(), "data/f8k is there but not complete", "move it away")
    assert file.read_text() == "mine"
    assert sandbox.calls() == []


def test_an_empty_folder_is_filled(sandbox: Sandbox, flickr8k_archive: bytes) -> None:
    (sandbox.data / "f8k").mkdir(parents=True)
    sandbox.hands_out(flickr8k_archive)
    assert sandbox.run().returncode == 0
    assert (sandbox.data / "f8k" / "images" / "2_b.jpg").exists()


def test_a_dangling_link_is_named(sandbox: Sandbox, flickr8k_archive: bytes) -> None:
    sandbox.data.mkdir()
    (sandbox.data / "f8k").symlink_to("gone")
    sandbox.hands_out(flickr8k_archive)
    assert_failed(sandbox.run(), "data/f8k is there but not complete")


@pytest.mark.parametrize(
    ("arguments", "limit", "word"),
    [
        (["coco"], "9", "coco"),
        (["f8k", "f30k"], "9", "one data set"),
        ([], "0", "GET_DATA_TIMEOUT"),
        ([], "x", "number"),
    ],
)
def test_bad_arguments(sandbox: Sandbox, arguments: list[str], limit: str, word: str) -> None:
    assert_failed(sandbox.run(*arguments, GET_DATA_TIMEOUT=limit), word, code=2)
    assert sandbox.left() == []
