"""The report over all models: its figures are those of independent computations, and it says what they mean."""

from __future__ import annotations

import json
import re
import shutil
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from dataset import DataError, open_test_split
from evaluation.page import thumbnail
from evaluation.report import read_card, read_vectors
from evaluation.retrieval import RESAMPLES, Retrieval, search, summary
from tests.conftest import Result, held, paint, paint_random, process, run, unit, wait_until
from tests.test_evaluate import ranks as independent_ranks

PICTURES, HELD_OUT, CUT = 70, 20, 50
HOSTILE = """<script>alert("1")</script><img src=x onerror='alert(2)'>"""


class Report(NamedTuple):
    """A data set of pictures with one caption and, in the test split, a second one; and what was reported of it."""

    folder: Path
    workspace: Path
    colours: list[tuple[np.ndarray, np.ndarray]]
    seconds: list[str]
    done: Result

    @property
    def place(self) -> Path:
        return self.workspace / "report" / self.folder.name

    @property
    def json(self) -> Any:
        return json.loads((self.place / "report.json").read_text())


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Made by a run that was killed while it was indexing, and the same command again."""
    folder, workspace = tmp_path_factory.mktemp("pairs"), tmp_path_factory.mktemp("reports")
    (folder / "images").mkdir()
    (folder / "splits").mkdir()
    colours = paint_random(folder / "images", PICTURES, noise=90)
    (folder / "images" / "captions.txt").rename(folder / "captions.txt")
    random = np.random.default_rng(1)
    second = ["#{:02x}{:02x}{:02x}".format(*random.integers(20, 236, 3)) for _ in range(HELD_OUT)]
    with (folder / "captions.txt").open("a") as captions:
        quoted = HOSTILE.replace('"', '""')
        captions.writelines(f'{place:04}.png,"{colour} {quoted}"\n' for place, colour in enumerate(second))
    names = [f"{place:04}.png\n" for place in range(HELD_OUT)]
    (folder / "splits" / "Flickr_8k.testImages.txt").write_text("".join(names))
    command = ("evaluate.py", "--report", "-d", folder, "-m", "vse", "-s", 4)
    pairs = workspace / "report" / folder.name / "vse" / "pairs"
    with process(*command, workspace=workspace):
        wait_until(lambda: held(pairs, "image_vector_indexer"), "something is indexed")
    return Report(folder, workspace, colours, second, run(*command, workspace=workspace))


def own_row(report: Report) -> Any:
    assert report.done.code == 0, report.done.err
    return report.json["models"][0]


def test_it_says_where_it_is_and_goes_on(report: Report) -> None:
    assert report.done.code == 0, report.done.err
    lines = report.done.out.splitlines()
    assert [Path(line) for line in lines[-3:]] == [report.place / f"report.{kind}" for kind in ("md", "html", "json")]
    there = re.fullmatch(r"\d+ documents indexed, (\d+) were there already, 0 skipped", lines[1])
    assert there
    assert int(there[1]) > 0
    for line in report.done.err.splitlines():
        assert line.startswith(("comparing: ", "indexing: ", "evaluating: "))


def all_pairs(report: Report) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors of all pictures and, in the order of the folder's pairs, of captions, with their owners."""
    pictures = np.stack([unit(shown) for shown, _ in report.colours])
    captions, owners = [], []
    for place, (_, said) in enumerate(report.colours):
        own = [unit(said), *([unit(report.seconds[place])] if place < HELD_OUT else [])]
        captions += own
        owners += [place] * len(own)
    return pictures, np.stack(captions), np.array(owners)


def test_the_flow_s_evaluator_agrees_with_numpy(report: Report) -> None:
    pictures, captions, owners = all_pairs(report)
    row = own_row(report)["original"]
    for mode, places in (
        ("text2image", independent_ranks(captions, pictures[owners])),
        ("image2text", independent_ranks(pictures[owners], captions)),
    ):
        if mode == "text2image":  # a picture that has two captions stands twice in what was ranked
            similarities = captions @ pictures.T
            own = similarities[np.arange(len(owners)), owners]
            places = (similarities > own[:, None]).sum(axis=1) + 1
        assert places.max() > CUT, "the data must have a right answer that is too far down"
        reciprocal = np.where(places <= CUT, 1 / places, 0)
        first, held_out = row[mode]["first"], row[mode]["held_out"]
        assert (first["queries"], held_out["queries"]) == (PICTURES + HELD_OUT, 2 * HELD_OUT)
        assert first["MRR@50"]["value"] == pytest.approx(reciprocal.mean(), abs=1e-9)
        assert held_out["MRR@50"]["value"] == pytest.approx(reciprocal[owners < HELD_OUT].mean(), abs=1e-9)
        assert row[mode]["numpy_difference"] < 1e-9


def test_stored_vectors_are_the_flow_s(report: Report) -> None:
    workspace = report.place / "vse" / "pairs"
    vectors = read_vectors(workspace, "image_vector_indexer")
    assert sorted(vectors.places) == sorted(held(workspace, "image_vector_indexer"))
    by_row = dict(held(workspace, "image_vector_indexer", "id, vector"))
    for id_, place in vectors.places.items():
        np.testing.assert_array_equal(vectors.array[place], np.frombuffer(by_row[id_], "<f4"))


def test_standard_protocol(report: Report) -> None:
    """Both captions of each picture of the test split and nothing else, one query after the other."""
    pictures, captions, owners = all_pairs(report)
    pictures, captions = pictures[:HELD_OUT], captions[owners < HELD_OUT]
    owners = owners[owners < HELD_OUT]
    row = own_row(report)["standard"]
    assert (row["pictures"], row["captions"]) == (HELD_OUT, 2 * HELD_OUT)
    text_to_image = [
        1
        + sum(
            picture @ caption >= pictures[owner] @ caption for place, picture in enumerate(pictures) if place != owner
        )
        for caption, owner in zip(captions, owners, strict=True)
    ]
    image_to_text = []
    for place, picture in enumerate(pictures):
        best = max(caption @ picture for caption in captions[owners == place])
        image_to_text.append(1 + sum(caption @ picture >= best for caption in captions[owners != place]))
    for mode, ranks in (("text2image", np.array(text_to_image)), ("image2text", np.array(image_to_text))):
        figures = row[mode]
        for cut in (1, 5, 10):
            assert figures[f"R@{cut}"]["value"] == pytest.approx(100 * (ranks <= cut).mean(), abs=1e-9)
        assert figures["median rank"]["value"] == np.sort(ranks)[(len(ranks) - 1) // 2]
        assert figures["MRR"]["value"] == pytest.approx((1 / ranks).mean(), abs=1e-9)
        assert all(
            figure["low"] <= figure["value"] <= figure["high"] for name, figure in figures.items() if name != "curve"
        )
        assert figures["curve"][0] == [1, figures["R@1"]["value"]]
        assert figures["curve"][-1][1] == 100


def test_examples(report: Report) -> None:
    for sides in own_row(report)["examples"].values():
        best, worst = ([query["rank"] for query in sides[kind]] for kind in ("best", "worst"))
        assert max(best) < min(worst)
        assert all(any(found["right"] for found in query["found"]) == (query["rank"] <= 5) for query in sides["best"])


def test_what_could_not_be_run_and_what_was_published(report: Report) -> None:
    rows = {row["title"]: row for row in report.json["models"]}
    clip, authors = rows["CLIP ViT-B/32"], rows["VSE++ of its authors (f30k_vse++_vggfull)"]
    assert [clip["published"][mode] for mode in ("text2image", "image2text")] == [0.4018, 0.4088]
    assert [authors["published"][mode] for mode in ("text2image", "image2text")] == [0.3669, 0.3791]
    for kind in ("md", "html"):
        text = (report.place / f"report.{kind}").read_text()
        assert "not run here" in text
        for words in (*clip["settings"], *authors["settings"], "0.4018", "0.3791", "ImageNet", authors["trained_on"]):
            assert words in text.replace("&#39;", "'"), (kind, words)
        assert text.index("held-out queries") < text.index("first pairs ask")


def test_captions_cannot_command_the_page(report: Report) -> None:
    page = (report.place / "report.html").read_text()
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert "<img src=x" not in page
    assert all(source.startswith("data:image/jpeg;base64,") for source in re.findall(r"src=\"([^\"]*)", page))
    assert "script" not in (report.place / "report.md").read_text()


def test_folder_without_splits_and_a_model_that_is_not_to_be_had(tmp_path: Path) -> None:
    """A model that runs beside others that do not; then again without a picture, of which nothing may be left."""
    folder = paint(tmp_path / "pictures", {f"{colour}.png": colour for colour in ("red", "lime", "blue", "white")})
    paint(folder / "mute", {"black.png": "black"})  # a picture without a caption is there to be found
    (folder / "mute" / "captions.txt").unlink()
    place = tmp_path / "workspace" / "report" / "pictures"

    def rows() -> list[Any]:
        done = run("evaluate.py", "--report", "-d", folder, "-m", "vse", workspace=tmp_path / "workspace")
        assert done.code == 0, done.err
        return json.loads((place / "report.json").read_text())["models"]

    vse, *others = rows()
    assert others
    assert all(other["not_run"] for other in others)
    assert vse["trained_on"] == "not known here"  # another encoder stands in the model's box
    assert (vse["standard"]["pictures"], vse["standard"]["captions"]) == (5, 4)
    assert vse["standard"]["text2image"]["R@1"] == {"value": 100, "low": 100, "high": 100}
    assert "held_out" not in vse["original"]["text2image"]
    for kind in ("md", "html"):
        text = (place / f"report.{kind}").read_text()
        assert "no test split" in text
        assert "held-out" not in text
    (folder / "red.png").unlink()
    assert rows()[0]["standard"]["pictures"] == 4


@pytest.mark.parametrize("options", [("-n", "5"), ("-i", "0"), ("-e", "image2text")])
def test_options_that_do_not_apply(tmp_path: Path, options: tuple[str, str]) -> None:
    done = run("evaluate.py", "--report", "-d", "toy", *options, workspace=tmp_path / "workspace")
    assert (done.code, done.out, len(done.err.splitlines())) == (1, "", 1)
    assert "leave --" in done.err


def test_no_model_can_be_run(tmp_path: Path) -> None:
    done = run("evaluate.py", "--report", "-d", "toy", "-m", "clip", workspace=tmp_path, CLIP_PRETRAINED="nowhere")
    assert (done.code, done.out, len(done.err.splitlines())) == (1, "", 1)
    assert "'nowhere'" in done.err


@pytest.fixture
def divided(tmp_path: Path) -> Path:
    """A folder with a division into splits."""
    paint(tmp_path, {"red.png": "red", "blue.png": "blue"})
    (tmp_path / "splits").mkdir()
    return tmp_path / "splits" / "Flickr_8k.testImages.txt"


def test_split_that_names_what_is_not_there(divided: Path) -> None:
    divided.write_text("red.png\ngone.png\n")
    with pytest.raises(DataError, match=r"Flickr_8k\.testImages\.txt names gone\.png"):
        open_test_split(str(divided.parent.parent))
    divided.write_text("")
    with pytest.raises(DataError, match="names nothing"):
        open_test_split(str(divided.parent.parent))
    divided.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="cannot be read"):
        open_test_split(str(divided.parent.parent))
    shutil.rmtree(divided.parent)
    assert open_test_split(str(divided.parent.parent)) is None


def test_all_captions_of_the_split(flickr8k: Path) -> None:
    """Of the real data set: five of each picture, as they stand."""
    split = open_test_split(str(flickr8k))
    assert split
    assert len(split) == 5000
    first = next(split.pairs(skip=lambda *_: None))
    assert first.caption != (first.caption or "").lower()


def test_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JINA_IMAGE_ENCODER", "JINA_TEXT_ENCODER", "CLIP_MODEL", "VSE_CHECKPOINT"):
        monkeypatch.delenv(name, raising=False)
    assert "published" in read_card("clip")
    assert "published" not in read_card("vse")
    monkeypatch.setenv("VSE_CHECKPOINT", "model_best.pth.tar")
    assert "Flickr30k" in read_card("vse")["trained_on"]
    monkeypatch.setenv("CLIP_MODEL", "ViT-L-14")
    assert "ViT-L-14" in read_card("clip")["title"]
    assert "published" not in read_card("clip")


def test_weights_are_repetitions() -> None:
    ranks = np.array([1, 7, 3, 40, 2])
    weights = np.array([2, 0, 1, 3, 1])
    repeated = Retrieval.of_ranks(ranks.repeat(weights)).figures()
    assert Retrieval.of_ranks(ranks, weights).figures() == pytest.approx(repeated)
    assert Retrieval.of_ranks(ranks).median == np.median(ranks)


def test_bootstrap_of_a_known_distribution() -> None:
    """Half of 400 queries succeed: the interval of R@1 is that of the binomial distribution, 50 ± 1.96 * 2.5."""
    ranks = np.tile([1, 100], 200)
    figure = summary(ranks, np.arange(400))["R@1"]
    assert figure["value"] == 50
    assert figure["low"] == pytest.approx(50 - 4.9, abs=0.6)
    assert figure["high"] == pytest.approx(50 + 4.9, abs=0.6)
    assert RESAMPLES >= 1000


def test_bootstrap_of_clusters() -> None:
    """Four queries that always agree are worth one."""
    figure = summary(np.tile([1, 100], 200).repeat(4), np.arange(400).repeat(4))["R@1"]
    assert figure["high"] - figure["low"] == pytest.approx(9.8, abs=1.2)


def test_search_in_blocks_is_search(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(4)
    queries, answers = random.normal(size=(2, 23, 8))
    asked, given = random.integers(0, 5, (2, 23))
    whole = search(queries, answers, asked=asked, given=given)
    monkeypatch.setattr("evaluation.retrieval.QUERIES_AT_ONCE", 4)
    for expected, got in zip(whole, search(queries, answers, asked=asked, given=given), strict=True):
        np.testing.assert_allclose(expected, got, atol=1e-12)
    assert ((whole[1] > 0) == (whole[0] == 1)).all()


def test_thumbnail_is_small(tmp_path: Path) -> None:
    Image.effect_noise((2000, 1000), 80).save(tmp_path / "large.png")
    assert len(thumbnail((tmp_path / "large.png").read_bytes())) < 20_000


@pytest.mark.parametrize("mode", ["RGBA", "P", "LA", "I;16"])
def test_thumbnail_of_a_picture_that_is_not_rgb(mode: str) -> None:
    file = BytesIO()
    Image.new(mode, (300, 200)).save(file, "PNG")
    assert thumbnail(file.getvalue()).startswith("data:image/jpeg;base64,")
