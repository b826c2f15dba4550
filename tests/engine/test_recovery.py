"""Whatever happens to the collector or its log, nothing is lost without being said."""

from __future__ import annotations

import subprocess
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest

from collector.eventlog.database import files_aside
from collector.model.errors import LogError
from tests.engine.disk import LoopDisk
from tests.engine.engines import Engine
from tests.engine.host import Host, locked
from tests.engine.ports import free_port
from tests.engine.registry import Registry, base_layer

pytestmark = pytest.mark.engine


@pytest.fixture
def reference(docker20: Engine, registry: Registry) -> str:
    reference = registry.push_image("recovery/image", "1", [base_layer()]).reference
    client = docker20.client()
    client.images.pull(reference)
    client.close()
    return reference


def said(host: Host) -> list[str]:
    return (host.engine.folder / "collector.eventlog.log").read_text().splitlines()


def tag(host: Host, reference: str, name: str) -> None:
    client = host.engine.client()
    client.images.get(reference).tag("recovery/" + name, "1")
    client.close()


def tags(host: Host) -> list[str]:
    rows = host.query("SELECT reference FROM event WHERE kind = 'image_tagged' ORDER BY seq")
    return [str(row[0]) for row in rows]


def remount(disk: LoopDisk, how: str) -> None:
    """Remount it as soon as no file on it is open for writing."""
    command = ["mount", "-o", f"remount,{how}", str(disk.path)]
    Host.wait_for(lambda: subprocess.run(command, check=False).returncode == 0, f"the disk to be mounted {how}")


def test_a_log_damaged_or_deleted_or_read_only_meanwhile_loses_nothing(docker20: Engine, reference: str) -> None:
    disk = LoopDisk(docker20.folder / "log-disk", 64 * 2**20)
    host = Host(docker20, disk.path / "events.duckdb")
    with host.collecting():
        host.wait_for_events("image_observed", 1)

        # Cut short, as a file system that lost its last writes leaves it: set aside, and a new one begins.
        with locked(host.log_path) as file:
            file.truncate(14000)
        tag(host, reference, "damaged")
        host.wait_for(lambda: bool(files_aside(host.log_path)), "the damaged log to be set aside")
        host.wait_for(lambda: tags(host) == ["recovery/damaged:1"], "the events of the meantime")

        # Nobody may write to it.
        remount(disk, "ro")
        tag(host, reference, "read-only")
        host.wait_for(lambda: any("read-only" in line.lower() for line in said(host)), "the fault to be reported")
        remount(disk, "rw")
        host.wait_for(
            lambda: tags(host) == ["recovery/damaged:1", "recovery/read-only:1"], "the events of the meantime"
        )

        # Gone: a new one begins, and knows at once what is there.
        host.log_path.unlink()
        tag(host, reference, "deleted")
        host.wait_for(host.log_path.exists, "a new log")

        def begun() -> bool:
            with suppress(LogError):  # it is being made
                return host.count("image_observed") >= 1 and tags(host) == ["recovery/deleted:1"]
            return False

        host.wait_for(begun, "the new log")
        names = {"recovery/damaged:1", "recovery/read-only:1", "recovery/deleted:1", reference}
        host.wait_for(lambda: {*host.json("collector", "images")[0]["references"]} == names, "the image's names")
    assert sum("was damaged" in line for line in said(host)) == 1
    assert sum("removed or replaced" in line for line in said(host)) == 1
    assert not [line for line in said(host) if "Traceback" in line]
    assert host.count("gap") == 0


def test_a_damaged_log_at_the_start_is_set_aside_and_stops_nobody(docker20: Engine, reference: str) -> None:
    assert reference
    host = Host(docker20, docker20.folder / "log" / "events.duckdb")
    host.run("collector", "run", "--once")
    data = host.log_path.read_bytes()
    host.log_path.write_bytes(data[:14000])
    shown = host.run("collector", "status", status=1)
    assert len(shown.splitlines()) == 1, shown
    assert f"{host.log_path} is damaged: `collector run` sets it aside" in shown
    assert " is damaged" in host.run("pruner", "plan")
    assert " is damaged" in host.run("pruner", "explain", reference)
    assert host.log_path.stat().st_size == 14000
    host.run("collector", "run", "--once")
    (aside,) = files_aside(host.log_path)
    assert aside.read_bytes() == data[:14000]
    assert host.json("collector", "status")["damaged_logs"] == [str(aside)]
    assert host.count("gap") == 1
    assert host.count("image_observed") == 1
    # So little is what a full disk leaves of a log that never was one: it is replaced.
    host.log_path.write_bytes(data[:5000])
    host.run("collector", "run", "--once")
    assert host.run("collector", "check") == "nothing is wrong with the log\n"


def test_metrics_are_served_while_it_runs_also_without_an_engine(docker20: Engine, reference: str) -> None:
    host = Host(docker20, docker20.folder / "log" / "events.duckdb")
    file = docker20.folder / "docker_hindsight.prom"
    address = f"127.0.0.1:{free_port()}"
    with host.collecting("--metrics", address, "--metrics-file", str(file)):

        def metrics() -> str:
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=60) as answer:
                return str(answer.read().decode())

        tag(host, reference, "one")
        host.wait_for(lambda: 'events_total{kind="image_tagged"} 1.0' in metrics(), "the event in the metrics")
        assert "docker_hindsight_engine_connected 1.0" in metrics()
        idle = 'docker_hindsight_images{state="idle"} 1.0'
        host.wait_for(lambda: idle in file.read_text(), "the image in the file")
        free = f'docker_hindsight_disk_size_bytes{{file_system=""}} {float(docker20.disk.total()):.9g}'
        assert float(free.split()[1]) == pytest.approx(docker20.disk.total())
        docker20.stop()
        host.wait_for(lambda: "docker_hindsight_engine_connected 0.0" in metrics(), "the engine to be missed")
        docker20.start()
        host.wait_for(lambda: "docker_hindsight_engine_connected 1.0" in metrics(), "the engine to be back")
    assert Path(file).exists()
