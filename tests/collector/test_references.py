"""Image references: however they are written, every command means the same image."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.eventlog.log import EventLog
from collector.model.events import Event, Kind
from collector.model.references import aliases, familiar, meant, repository, similar, spellings

A, B, C = ("sha256:" + letter * 64 for letter in "abc")
D = "sha256:" + "d" * 64


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("debian", "debian:latest"),
        ("debian:latest", "debian:latest"),
        ("library/debian", "debian:latest"),
        ("docker.io/debian", "debian:latest"),
        ("docker.io/library/debian:12", "debian:12"),
        ("index.docker.io/library/debian:12", "debian:12"),
        ("Docker.IO/library/Debian:Bookworm", "debian:Bookworm"),
        ("docker.io/library/group/debian:12", "library/group/debian:12"),
        ("ghcr.io/library/debian:12", "ghcr.io/library/debian:12"),
        ("127.0.0.1:5000/a", "127.0.0.1:5000/a:latest"),
        ("registry:5000/a:1", "registry:5000/a:1"),
        ("localhost/a:1", "localhost/a:1"),
        (f"docker.io/library/debian@{A}", f"debian@{A}"),
        (f"debian:12@{A.upper().replace('SHA', 'sha')}", f"debian@{A}"),
        (f"registry:5000/a:1@{A}", f"registry:5000/a@{A}"),
    ],
)
def test_names_are_compared_as_docker_shows_them(name: str, short: str) -> None:
    assert familiar(name) == short
    assert short in aliases(name)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("debian:12", "debian"),
        ("docker.io/library/debian:12", "debian"),
        ("localhost:5000/debian", "localhost:5000/debian"),
        ("localhost:5000/debian:12", "localhost:5000/debian"),
        ("a/b@sha256:" + "0" * 64, "a/b"),
        ("a/b:1@sha256:" + "0" * 64, "a/b"),
    ],
)
def test_repository(name: str, expected: str) -> None:
    assert repository(name) == expected


def test_a_name_is_found_in_all_its_spellings() -> None:
    assert spellings("index.docker.io/debian:12")[:2] == ("debian", "debian:12")
    assert {"docker.io/library/debian:12", "library/debian:12", "index.docker.io/debian"} <= set(spellings("debian:12"))
    assert spellings("quay.io/a:1") == ("quay.io/a", "quay.io/a:1")
    assert {"a:1", "localhost/a:1"} <= set(spellings("localhost/a:1"))
    assert aliases(f"localhost/a:1@{A}") == {f"{name}{end}" for name in ("a", "localhost/a") for end in (":1", f"@{A}")}


IMAGES = {
    A: ["docker.io/library/debian:12", f"debian@{D}"],
    B: ["debian:latest", "localhost:5000/team/app:1"],
    C: ["localhost/tool:v1", "index.docker.io/group/abba:2"],
}


@pytest.mark.parametrize(
    ("text", "images"),
    [
        ("debian", [B]),
        ("docker.io/library/debian", [B]),
        ("index.docker.io/debian:latest", [B]),
        ("Debian", [B]),
        ("debian:12", [A]),
        ("library/debian:12", [A]),
        ("debian:Latest", []),
        (D, [A]),
        (f"debian@{D}", [A]),
        (f"debian:11@{D}", [A]),
        (f"debian@{A}", []),
        ("tool:v1", [C]),
        ("localhost/tool:v1", [C]),
        ("localhost:5000/team/app", [B]),
        ("team/app:1", []),
        ("group/abba", [C]),
        ("tool", [C]),
        ("aaaa", [A]),
        ("sha256:BBBBBB", [B]),
        (A, [A]),
        (A[7:], [A]),
        ("aaa", []),
        ("debian:*", [A, B]),
        ("docker.io/library/*", [A, B]),
        ("*/team/*", [B]),
        ("", []),
    ],
)
def test_which_image_is_meant(text: str, images: list[str]) -> None:
    assert meant(text, IMAGES) == images


def test_a_name_that_looks_like_an_id_is_a_name() -> None:
    assert meant("cafe", {A: ["cafe:latest"], "sha256:cafe" + "0" * 60: []}) == [A]


def test_what_is_like_a_name_that_no_image_has() -> None:
    assert similar("docker.io/library/debian:11", IMAGES) == ["debian:latest", "docker.io/library/debian:12"]
    assert similar("", IMAGES) == []
    # Letters that change places, one too few and one too many; an end of a name as well as the whole.
    for text in ("biuld", "registry.example.org/group/app/biuld:1", "app/buid", "buildd:9"):
        assert similar(text, {"sha256:1": ["registry.example.org/group/app/build:1"], **IMAGES}) == [
            "registry.example.org/group/app/build:1"
        ]
    assert similar("nothing-like-it", IMAGES) == []


PARTS = st.sampled_from(
    ["docker.io", "index.docker.io", "library", "localhost", "localhost:5000", "ghcr.io", "a", "B", "debian", ":1", ":"]
)


@given(st.lists(PARTS, min_size=1, max_size=4), st.sampled_from(["", ":1", ":T-1.2", f"@{A}", f":x@{A}"]))
def test_the_log_has_the_same_repositories(parts: list[str], end: str) -> None:
    name = "/".join(parts) + end
    found = CONNECTION.execute("SELECT repository_of(?)", [name]).fetchall()
    assert found == [(repository(name),)]


@pytest.fixture(scope="module", autouse=True)
def _log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    global CONNECTION
    log = EventLog(Path(tmp_path_factory.mktemp("log")) / "events.duckdb")
    log.append([Event(1, Kind.GAP)])
    with log.reading() as CONNECTION:
        yield


CONNECTION: duckdb.DuckDBPyConnection
