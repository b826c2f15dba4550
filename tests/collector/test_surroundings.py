"""Which engine is meant: as the docker command line reads its surroundings."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

import pytest

from collector.engine import surroundings
from collector.engine.surroundings import find_engine
from collector.model.errors import UsageError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder without anything, in an environment that names no engine."""
    names = ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_TLS", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setattr(surroundings, "DEFAULT_HOST", f"unix://{tmp_path}/docker.sock")
    return tmp_path


def context(home: Path, name: str, host: str, *, tls: bool = False) -> None:
    key = hashlib.sha256(name.encode()).hexdigest()
    folder = home / ".docker" / "contexts"
    (folder / "meta" / key).mkdir(parents=True)
    (folder / "meta" / key / "meta.json").write_text(
        json.dumps({"Name": name, "Endpoints": {"docker": {"Host": host}}})
    )
    if tls:
        place = folder / "tls" / key / "docker"
        place.mkdir(parents=True)
        for file in ("ca.pem", "cert.pem", "key.pem"):
            (place / file).touch()


def test_what_names_an_engine_comes_before_what_names_it_less_directly(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_engine().url == f"unix://{home}/docker.sock"
    for name in ("podman/podman.sock", "docker.sock"):
        path = home / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        assert (find_engine().url, find_engine().how) == (f"unix://{path}", "the socket of the user's own engine")
    (home / "docker.sock").touch()
    assert find_engine().how == "the usual socket"
    context(home, "rootless", "unix:///run/user/1000/docker.sock")
    context(home, "far", "tcp://engine.example.org", tls=True)
    (home / ".docker" / "config.json").write_text('{"currentContext": "rootless"}')
    assert find_engine().url == "unix:///run/user/1000/docker.sock"
    assert "context 'rootless' (currentContext in" in find_engine().how
    monkeypatch.setenv("DOCKER_CONTEXT", "far")
    far = find_engine()
    assert (far.url, far.verify, far.is_loopback) == ("tcp://engine.example.org:2376", True, False)
    assert far.certificates is not None
    monkeypatch.setenv("DOCKER_CONTEXT", "default")
    assert find_engine().how == "the usual socket"
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1")
    assert (find_engine().url, find_engine().how) == ("tcp://127.0.0.1:2375", "DOCKER_HOST")
    assert find_engine("unix:///one.sock").url == "unix:///one.sock"


def test_certificates_are_where_the_environment_says(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://engine.example.org:2376")
    assert find_engine().certificates is None
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    with pytest.raises(UsageError, match=r"no ca\.pem, cert\.pem, key\.pem to be read in .*/\.docker: set"):
        find_engine()
    monkeypatch.setenv("DOCKER_CERT_PATH", str(home / "certificates"))
    (home / "certificates").mkdir()
    for file in ("ca.pem", "cert.pem", "key.pem"):
        (home / "certificates" / file).touch()
    assert (find_engine().certificates, find_engine().verify) == (home / "certificates", True)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        (" unix:///var/run/docker.sock/ ", "unix:///var/run/docker.sock"),
        ("127.0.0.1:2375", "tcp://127.0.0.1:2375"),
        ("localhost:1", "tcp://localhost:1"),
        ("[::1]:2375", "tcp://[::1]:2375"),
        ("tcp://127.0.0.1:2375/", "tcp://127.0.0.1:2375/"),
    ],
)
def test_addresses_are_taken_as_the_docker_command_takes_them(host: str, url: str) -> None:
    assert find_engine(host).url == url


def test_what_is_closed_to_a_user_is_not_there(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Certificates and the system's socket: of the latter an engine of the user's own takes the place."""
    own = home / "run" / "docker.sock"
    own.parent.mkdir()
    for path in (own, home / "docker.sock", *(home / file for file in ("ca.pem", "cert.pem", "key.pem"))):
        path.touch()
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != home / "docker.sock")
    assert find_engine().url == f"unix://{own}"
    monkeypatch.setattr(os, "access", lambda path, _: Path(path).name == "ca.pem")
    monkeypatch.setenv("DOCKER_HOST", "tcp://engine.example.org:2376")
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(home))
    with pytest.raises(UsageError, match=r"no cert\.pem, key\.pem to be read in"):
        find_engine()


@pytest.mark.parametrize("host", ["unix:///a", "tcp://127.0.0.9:1", "tcp://[::1]:2375", "tcp://localhost:2375"])
def test_no_proxy_leads_to_this_host(host: str) -> None:
    assert find_engine(host).is_loopback


@pytest.mark.parametrize(
    ("host", "output"),
    [
        ("ssh://ci@runner", "run collector and pruner there"),
        ("npipe:////./pipe/docker", "not an engine's address: unix:///path or tcp://host:port"),
        ("tcp://host:port", "is not an engine's address"),
        ("tcp://[::1", "is not an engine's address"),
        ("unix://", "is not an engine's address"),
        ("docker.sock", "is not an engine's address"),
        ("fd://", "is not an engine's address"),
    ],
)
def test_an_address_that_cannot_be_used_is_reported_in_one_line(host: str, output: str) -> None:
    with pytest.raises(UsageError, match=re.escape(output)) as caught:
        find_engine(host)
    assert "\n" not in str(caught.value)


def test_a_context_that_is_not_there_names_what_to_set(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONTEXT", "gone")
    with pytest.raises(UsageError, match=r"DOCKER_CONTEXT names the context 'gone'.*docker context use default"):
        find_engine()
    for text in ("[]", "{", '{"Endpoints": {"docker": 5}}', '{"Endpoints": [1]}'):
        folder = home / ".docker/contexts/meta" / hashlib.sha256(b"gone").hexdigest()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "meta.json").write_text(text)
        with pytest.raises(UsageError, match="set DOCKER_HOST"):
            find_engine()
