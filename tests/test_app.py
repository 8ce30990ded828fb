"""The command lines and Flow files are those of the original."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import app
import evaluate
import yaml
from executors.limits import DEFAULTS as LIMITS
from tests.conftest import COLOURS, ROOT, Indexed, run

INDEX = {
    "loader": {"gateway"},
    "normalizer": {"loader"},
    "image_encoder": {"normalizer"},
    "image_vector_indexer": {"image_encoder"},
    "image_kv_indexer": {"gateway"},
    "text_encoder": {"gateway"},
    "text_indexer": {"text_encoder"},
    "join_all": {"image_vector_indexer", "image_kv_indexer", "text_indexer"},
}
QUERY = {
    "loader": {"gateway"},
    "normalizer": {"loader"},
    "image_encoder": {"normalizer"},
    "text_encoder": {"gateway"},
    "text_indexer": {"image_encoder"},
    "image_vector_indexer": {"text_encoder"},
    "image_kv_indexer": {"image_vector_indexer"},
    "join_all": {"text_indexer", "image_kv_indexer"},
}
ENVIRONMENT = [
    *("JINA_PORT", "JINA_WORKSPACE", "JINA_SHARDS", "JINA_INDEX", "JINA_PARALLEL", "JINA_MAX_DOCS"),
    *("JINA_DATA_FILE", "JINA_USE_REST_API", "JINA_IMAGE_ENCODER", "JINA_TEXT_ENCODER", "JINA_NORMALIZER"),
    *("CLIP_MODEL", "CLIP_PRETRAINED", "VSE_CHECKPOINT", "VSE_VOCAB"),
    *("JINA_HOST", "JINA_READ_TOKEN", "JINA_WRITE_TOKEN", "JINA_ALLOWED_HOSTS", "JINA_CORS_ORIGINS"),
    *LIMITS,
]
OPTIONS = {"--task", "--num_docs", "--request_size", "--data_set", "--model_name", "--overwrite", "--insecure"}
TASKS = {
    *("index", "index_restful", "query", "query_restful", "delete", "verify", "backup", "restore", "dryrun", "models")
}


def test_help_names_everything(tmp_path: Path) -> None:
    done = run("app.py", "--help", workspace=tmp_path)
    assert (done.code, done.err) == (0, "")
    words = set(re.findall(r"[\w-]+", done.out))
    assert words >= {*ENVIRONMENT, *OPTIONS, *TASKS, "clip", "vse", "clip-small", "f8k", "f30k", "toy", "45678"}


def test_every_variable_that_is_read_is_in_the_help() -> None:
    """What a user may set; the rest is set by flow.py for the Flow files, or belongs to a library."""
    read = {
        name
        for file in [*ROOT.glob("*.py"), *ROOT.glob("executors/*.py"), *ROOT.glob("models/*.py")]
        for name in re.findall(
            r"(?:environ(?:\.get\(|\[)|number\(|switched_on\(|_token\(|_limit\()\s*\"((?:JINA|CLIP|VSE)_\w+)\"",
            file.read_text(),
        )
    }
    internal = {"JINA_DATA_ROOT", "JINA_DEFAULT_HOST", "JINA_GATEWAY", "JINA_PARTS", "JINA_PROTOCOL"}
    assert read - internal <= set(ENVIRONMENT)


def test_help_of_the_evaluation(tmp_path: Path) -> None:
    done = run("evaluate.py", "--help", workspace=tmp_path)
    assert (done.code, done.err) == (0, "")
    options = {"--index_num_docs", "--evaluate_num_docs", "--request_size", "--data_set", "--model_name", "--report"}
    assert set(re.findall(r"[\w-]+", done.out)) >= {*options, "--evaluation_mode", "image2text", "text2image"}


def test_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JINA_MAX_DOCS", raising=False)
    options = app.parser().parse_args([])
    assert (options.task, options.num_docs, options.request_size, options.data_set) == ("query", 50, 16, "f8k")
    options = evaluate.parser().parse_args([])
    assert (options.index_num_docs, options.evaluate_num_docs, options.request_size) == (50, 20, 8)
    assert (options.data_set, options.evaluation_mode) == ("f8k", "text2image")


def test_the_environment_wins_over_the_default_and_the_option_over_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JINA_MAX_DOCS", "7")
    assert app.parser().parse_args([]).num_docs == 7
    assert app.parser().parse_args(["-n", "8"]).num_docs == 8


def test_command_lines_of_the_original() -> None:
    options = app.parser().parse_args(["-t", "index", "-n", "16000", "-d", "f8k", "-m", "clip"])
    assert (options.task, options.num_docs, options.data_set, options.model_name) == ("index", 16000, "f8k", "clip")
    for task in ("index_restful", "query_restful", "dryrun", "query"):
        assert app.parser().parse_args(["-t", task]).task == task
    options = evaluate.parser().parse_args(["-e", "text2image", "-i", "16000", "-n", "4000", "-m", "clip", "-s", "32"])
    assert (options.index_num_docs, options.evaluate_num_docs, options.request_size) == (16000, 4000, 32)
    assert evaluate.parser().parse_args(["-i", "0", "-e", "image2text"]).index_num_docs == 0


@pytest.mark.parametrize(("file", "boxes"), [("flow-index.yml", INDEX), ("flow-query.yml", QUERY)])
def test_flow_files_have_the_boxes_of_the_original(file: str, boxes: dict[str, set[str]]) -> None:
    executors = yaml.safe_load((ROOT / file).read_text())["executors"]
    assert [executor["name"] for executor in executors] == list(boxes)
    for executor in executors:
        assert needs(executor) >= boxes[executor["name"]]
    encoders = [executor for executor in executors if executor["name"].endswith("encoder")]
    assert [encoder["replicas"] for encoder in encoders] == ["$JINA_PARALLEL"] * 2
    indexers = [executor for executor in executors if executor["name"].endswith("indexer")]
    assert [indexer["shards"] for indexer in indexers] == ["$JINA_SHARDS"] * 3


def needs(executor: dict[str, Any]) -> set[str]:
    return {executor["needs"]} if isinstance(executor["needs"], str) else set(executor["needs"])


@pytest.mark.parametrize("model", ["clip", "vse", "clip-small"])
def test_each_box_has_a_file(model: str) -> None:
    for name in ("normalizer", "image_encoder", "text_encoder"):
        assert (ROOT / "yaml" / model / f"{name}.yml").is_file()
    for file in ("flow-index.yml", "flow-query.yml"):
        for executor in yaml.safe_load((ROOT / file).read_text())["executors"]:
            assert executor["uses"].startswith("$JINA_") or (ROOT / executor["uses"]).is_file()


def test_the_console_is_clean(indexed: Indexed) -> None:
    assert indexed.run.code == 0
    count = 2 * len(COLOURS)
    assert indexed.run.out == f"{count} documents indexed, 0 were there already, 0 skipped\n"
    assert re.fullmatch(rf"(indexing: [^\n]*\n)*indexing: 100% {count}/{count} [^\n]*\n", indexed.run.err)
