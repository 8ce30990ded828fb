"""The answers do not depend on the number of shards."""

from __future__ import annotations

from pathlib import Path

from tests.support import data_uri, paint, run, served, stored

PICTURES = 120
QUERIES = ["red", "#336699", "white", "nonsense"]


def test_shards_give_the_identical_ranking(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    paint(pictures, PICTURES)
    answers = []
    for shards in ("1", "2", "3"):
        workspace = tmp_path / shards
        done = run(
            "app.py",
            "-t",
            "index",
            "-n",
            "999",
            "-d",
            str(pictures),
            "-m",
            "vse",
            workspace=workspace,
            JINA_SHARDS=shards,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(list((workspace / "text_indexer").glob("*/documents.sqlite"))) == int(shards)
        assert len(set(stored(workspace, "image_vector_indexer"))) == PICTURES
        with served(workspace) as server:  # without JINA_SHARDS: the number is stored with the index
            found = [server.matches(query, top_k=50) for query in [*QUERIES, data_uri(pictures / "0005.png")]]
        answers.append([[(match["id"], match["score"]["value"]) for match in matches] for matches in found])
    assert all(len(matches) == 50 for matches in answers[0])
    assert answers[0] == answers[1] == answers[2]
    refused = run("app.py", "-t", "dryrun", "-m", "vse", workspace=tmp_path / "3", JINA_SHARDS="2")
    assert refused.returncode == 1
    assert "lies in 3 shards, not 2" in refused.stderr
