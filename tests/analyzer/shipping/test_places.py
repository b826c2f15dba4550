"""Where logs are shipped to: folders and object stores that are full, killed or misnamed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from obstore.exceptions import BaseError

from analyzer.trace.load import load_trace
from analyzer.trace.shipped import shipped_hosts
from analyzer.trace.sources import find
from analyzer.trace.trace import Trace
from collector.eventlog.log import EventLog
from collector.model.errors import UsageError
from collector.shipping import merge
from collector.shipping.bucket import Bucket
from collector.shipping.ship import ship
from collector.shipping.store import Folder, StoreError, open_store
from tests.analyzer.command import analyzer
from tests.analyzer.shipping.shipped import COLLECTOR, days, rows, shipped
from tests.analyzer.test_fleet import assert_same
from tests.needs import cannot_run
from tests.object_store import KEY, SECRET, ObjectStore

NO_KEYS = "needs credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"


@pytest.mark.slow
def test_through_a_real_object_store_that_is_killed_in_between(
    log: EventLog, s3: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    url = "s3://fleet/killed"
    store = open_store(url)
    monkeypatch.setattr("collector.shipping.bucket._RETRIES", {"max_retries": 0})
    write, count = open_store(url), 0

    class Killing:
        name = url

        def __getattr__(self, called: str) -> Any:
            return getattr(write, called)

        def write(self, name: str, data: bytes) -> None:
            nonlocal count
            count += 1
            if count == 12:
                s3.kill()
            write.write(name, data)

    with pytest.raises(StoreError, match="the server of s3://fleet/killed does not answer"):
        ship(log, Killing())
    s3.start()
    assert len(rows(shipped(store))) == 4
    ship(log, store)
    assert ship(log, store)[0].events == 0
    assert rows(shipped(store)) == rows(log)
    assert shipped_hosts(store) == ["runner"]
    there = analyzer("simulate", "--log", url, "--baseline", "none", "--threshold", "10%", "--format", "json")
    here = analyzer("simulate", "--log", str(log.path), "--baseline", "none", "--threshold", "10%", "--format", "json")
    assert there.stderr == here.stderr == ""
    assert there.stdout == here.stdout
    monkeypatch.setattr(merge, "LEAST", 4)
    for _ in range(2):
        ship(log, store, remove_merged_after_s=0)
    assert [name for name in store.names("") if name.startswith(("event", "job"))] == []
    assert rows(shipped(store)) == rows(log)
    store.remove("not/there")
    verified = analyzer("verify", "--log", url)
    assert verified.stderr == f"analyzer: event log {url} holds no prune of host runner\n"


@pytest.mark.slow
def test_a_full_object_store_is_reported_in_one_line_and_gone_on_from(
    log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        cannot_run("only root can mount a small file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", disk], check=True)
    monkeypatch.setattr("collector.shipping.bucket._RETRIES", {"max_retries": 0})
    try:
        s3 = ObjectStore(disk)
        try:
            for name, value in s3.environment.items():
                monkeypatch.setenv(name, value)
            store = open_store("s3://fleet")
            with pytest.raises(StoreError, match="for example because its disk is full"):
                ship(log, store)
            subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
            ship(log, store)
            assert rows(shipped(store)) == rows(log)
        finally:
            s3.kill()
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_full_folder_is_reported_in_one_line_and_gone_on_from(log: EventLog, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        cannot_run("only root can mount a small file system")
    store = Folder(tmp_path / "disk")
    store.path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", store.path], check=True)
    try:
        with pytest.raises(StoreError, match=r"no space left in .*: free some; the next run continues from here"):
            ship(log, store)
        subprocess.run(["mount", "-o", "remount,size=4m", store.path], check=True)
        ship(log, store)
        assert rows(shipped(store)) == rows(log)
        assert list((store.path / ".incoming").iterdir()) == []
    finally:
        subprocess.run(["umount", store.path], check=True)


@pytest.mark.slow
def test_credentials_come_from_a_file_and_are_never_reported(
    log: EventLog, s3: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in s3.environment:
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "ship.env"
    file.write_text("# the store\n" + "".join(f'{name}="{value}"\n' for name, value in s3.environment.items()))
    argv = [str(COLLECTOR), "ship", "s3://fleet/file", "--log", str(log.path), "--credentials", str(file)]

    def said(status: int) -> str:
        done = subprocess.run(
            argv, capture_output=True, text=True, check=False, env={**os.environ, "RUST_LOG": "debug"}
        )
        assert done.returncode == status, done
        assert SECRET not in done.stdout + done.stderr
        assert "wrong-secret" not in done.stdout + done.stderr
        return done.stdout + done.stderr

    # This process poses as another machine; a new one is itself.
    assert "is that of host 'runner' on another machine: ship it from there" in said(1)
    argv[4] = str(tmp_path / "own.duckdb")
    EventLog(Path(argv[4]), host="own").append(days(0, 1))
    assert "own: 4 new events in 1 part (" in said(0)
    file.write_text(file.read_text().replace(SECRET, "wrong-secret"))
    assert "refuses access (SignatureDoesNotMatch): check AWS_ACCESS_KEY_ID" in said(1)
    file.write_text(file.read_text().replace(KEY, "unknown-key-0001"))
    assert "refuses access (InvalidAccessKeyId)" in said(1)
    file.write_text("AWS_SECRET_ACCESS_KEY: wrong-secret\n")
    assert said(2) == f"collector: --credentials: line 1 of {file} is not AWS_NAME=VALUE\n"
    for address in ("nonsense", "http://", "ftp://127.0.0.1", "http://127.0.0.1:99999", "http://a b/"):
        file.write_text(f"AWS_ENDPOINT_URL={address}\n")
        assert said(2) == "collector: AWS_ENDPOINT_URL is not a URL such as https://s3.example.org\n"
    argv[4] = str(tmp_path / "missing.duckdb")
    file.write_text("".join(f"{name}={value}\n" for name, value in s3.environment.items()))
    assert "no event log at" in said(1)
    assert not list(tmp_path.glob("missing*"))


@pytest.mark.parametrize(
    ("error", "line"),
    [
        ("Error performing PUT http://169.254.169.254/latest/api/token in 1ms - 403 Forbidden", NO_KEYS),
        ("Error performing PUT http://169.254.169.254/latest/api/token - error sending request", NO_KEYS),
        ("after 6 retries - Server returned non-2xx status code: 503 Unavailable: <html>", "503: try again later$"),
        ("Server returned non-2xx status code: 418 I'm a teapot: <html>", "418: is it an S3-compatible store"),
        ("status code: 403 Forbidden: <Code>SignatureDoesNotMatch</Code>", r"refuses access \(SignatureDoesNotMatch\)"),
        ("Received redirect without LOCATION, this normally indicates", "in another region: set AWS_REGION$"),
        ("status code: 400 Bad Request: <Code>AuthorizationHeaderMalformed</Code>", "region: set AWS_REGION$"),
    ],
)
def test_what_a_server_answers_is_one_line_with_advice(monkeypatch: pytest.MonkeyPatch, error: str, line: str) -> None:
    store = Bucket("s3://fleet", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"})

    def fail(*_: object, **__: object) -> None:
        raise BaseError(error)

    monkeypatch.setattr("obstore.get", fail)
    with pytest.raises(StoreError, match=line):
        store.read("a")


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "aws_secret_access_key", "AWS_SESSION_TOKEN", "AWS_REGION"])
def test_what_cannot_be_sent_is_named_without_its_value(name: str) -> None:
    with pytest.raises(UsageError, match=f"^{name.upper()} holds a line break or another control character"):
        Bucket("s3://fleet", {name: "sec\nret"})
    with pytest.raises(UsageError, match=r'^s3://fleet: .*"\.\.\."') as failed:
        Bucket("s3://fleet", {"aws_skip_signature": SECRET})
    assert SECRET not in str(failed.value)
    with pytest.raises(UsageError, match=r"^AWS_ENDPOINT_URL is not a URL such as"):
        Bucket("s3://fleet", {"AWS_ENDPOINT_URL": ""})


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("", "where to ship to is empty: name a folder"),
        ("gs://bucket/a", r"gs:// is not supported: name a folder or s3://"),
        ("s3://", "'s3://' is not s3://BUCKET/PREFIX"),
        (f"s3://{KEY}:{SECRET}@fleet/a", r"^s3:// with credentials in it: set AWS_ACCESS_KEY_ID and [A-Z_]+ instead$"),
        ("s3://UPPER/a", "'s3://UPPER/a' is not s3://BUCKET/PREFIX"),
        ("s3:/bucket/a", "neither a folder of this machine nor s3://BUCKET/PREFIX"),
        ("store:/srv/fleet", r"neither a folder of this machine .*: './store:/srv/fleet'"),
    ],
)
def test_bad_places_are_reported(place: str, line: str) -> None:
    with pytest.raises(UsageError, match=line):
        open_store(place)


@pytest.mark.slow
def test_any_name_of_a_host_survives(tmp_path: Path, store: Folder, s3: ObjectStore, monkeypatch: Any) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    odd = "ci/runner=1 'ü'%41.example"
    monkeypatch.setattr(merge, "LEAST", 1)
    log = EventLog(tmp_path / "odd.duckdb", host=odd)
    log.append(days(0, 1))
    traces: list[Trace] = []
    for place in (str(store.path), "s3://fleet/odd"):
        for _ in range(3):
            ship(log, open_store(place), remove_merged_after_s=0)
        assert len(open_store(place).names("")) == 4
        (source,) = find([place])
        assert source.host == odd
        traces.append(source.load())
    assert_same(*traces)
    assert_same(traces[0], load_trace(log))
