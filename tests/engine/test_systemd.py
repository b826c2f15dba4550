"""Under a real systemd: units as installed by the command, timer, early trigger, journal, watchdog."""

from __future__ import annotations

import itertools
import json
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from collector.machine.reserve import DEFAULT_SIZE, FOLDER, NAME
from tests.engine.engines import Engine
from tests.engine.host import Host
from tests.engine.machine import Machine
from tests.engine.registry import PushedImage, Registry, base_layer, random_layer
from tests.engine.runner import FakeRunner

pytestmark = pytest.mark.engine
MIB = 2**20
DOCKER_GID = 990
SIZE = 40 * MIB
ENGINE_HOST = "unix:///run/engine/engine.sock"
TRIES = 8


@pytest.fixture
def machine(docker20: Engine, programs: Path, state_root: Path) -> Iterator[Machine]:
    """A machine whose engine's socket is that of the group docker, as Debian's package makes it."""
    os.chown(docker20.socket, 0, DOCKER_GID)
    docker20.socket.chmod(0o660)
    made = Machine(docker20.folder / "machine", programs, docker20.folder, docker20.disk.path, state_root)
    made.run("groupadd", "--system", "--gid", str(DOCKER_GID), "docker")
    # As pip does: compiled once, by a user who may write there.
    made.run(
        "python",
        "-c",
        "import collector.cli, collector.daemon.loop, pruner.cli, pruner.removal.run, pruner.report.terminal",
    )
    yield made
    made.stop()


@pytest.fixture
def images(registry: Registry) -> list[PushedImage]:
    return [
        registry.push_image(f"ops/image{number}", "1", [base_layer(), random_layer(400 + number, SIZE)])
        for number in range(5)
    ]


def install(machine: Machine, engine: Engine, policy: str = "") -> None:
    machine.write("/etc/docker-hindsight/policy.toml", policy)
    output = machine.run(
        "pruner", "install-units", "--host", ENGINE_HOST, "--data-root", str(engine.disk.path), "--enable"
    )
    assert "enable --now collector.service pruner.timer pruner.path" in output
    assert machine.show("collector.service", "ActiveState") == "active"


def prunes(machine: Machine) -> list[tuple[str, str, int]]:
    return [
        (str(trigger), str(outcome), int(removed))
        for trigger, outcome, removed in machine.query(
            "SELECT trigger, outcome, removed FROM prunes WHERE finished IS NOT NULL ORDER BY started"
        )
    ]


def wait_for_prunes(machine: Machine, count: int) -> list[tuple[str, str, int]]:
    Host.wait_for(lambda: len(prunes(machine)) >= count, f"{count} prunes")
    return prunes(machine)


@pytest.mark.long
def test_timer_and_early_trigger_bring_the_disk_back(
    machine: Machine, docker20: Engine, images: list[PushedImage]
) -> None:
    disk = docker20.disk
    client = docker20.client()
    threshold = disk.free() - 60 * MIB
    often = "[Timer]\nOnCalendar=*:*:0/3\nRandomizedDelaySec=0\n"
    machine.write("/etc/systemd/system/pruner.timer.d/often.conf", often)
    install(machine, docker20, f'threshold = "{threshold}B"\nmin_age = "1s"\n')

    # Only the timer: two images are too many, the first pulled goes.
    switch_off(machine, "pruner.path", "pruner.timer")
    for image in images[:2]:
        client.images.pull(image.reference)
        time.sleep(1.1)
    machine.run("systemctl", "start", "pruner.timer")
    ((_, *ended),) = wait_for_prunes(machine, 1)
    assert ended == ["target reached", 1]
    assert disk.free() >= threshold
    assert [tag for image in client.images.list() for tag in image.tags] == [images[1].reference]

    # Only the early trigger; a busy machine may be late a few times.
    switch_off(machine, "pruner.timer")
    machine.run("systemctl", "start", "pruner.path")
    for number, image in zip(range(2, 2 + TRIES), itertools.cycle([*images[2:], *images[:2]]), strict=False):
        wait_for_recovery(machine, threshold)
        client.images.pull(image.reference)
        assert wait_for_prunes(machine, number)[-1] == ("early", "target reached", 1)
        assert disk.free() >= threshold
        late, promised = seconds_from_sample_to_prune(machine, threshold, number), promised_s(machine)
        if late < promised:
            break
    assert late < promised
    print(f"from sample to prune: {late:.2f} s")  # noqa: T201 - shown by pytest -rP
    client.close()
    switch_off(machine, "pruner.path")
    check_the_services_user(machine)
    check_the_reserve(machine, docker20)
    check_the_shipping(machine)
    check_the_journal(machine, docker20)


def wait_for_recovery(machine: Machine, threshold: int) -> None:
    """Wait until the collector has seen what the latest prune did: only then will it wake the pruner again at once."""
    seen = f"""
        SELECT count(*) > 0 FROM event WHERE kind = 'disk_sampled' AND bytes >= {threshold}
        AND time > (SELECT max(started) FROM prunes)
        """
    Host.wait_for(lambda: machine.query(seen) == [(True,)], "a sample after the prune")


def promised_s(machine: Machine) -> float:
    """Two seconds on an idle machine; as much more as a start of the pruner takes longer than its processor time."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    machine.run("pruner", "--version")
    after, ended = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    worked = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return 2.0 * max(1.0, (ended - began) / worked)


def switch_off(machine: Machine, *triggers: str) -> None:
    """Stop triggers, and let the run end that they may have started."""
    machine.run("systemctl", "stop", *triggers)
    Host.wait_for(lambda: machine.show("pruner.service", "ActiveState") == "inactive", "the pruner to end")


def seconds_from_sample_to_prune(machine: Machine, threshold: int, number: int) -> float:
    """From the first sample under the threshold to the start of the prune of that number, once both are logged."""

    def woken_at() -> list[tuple[object, ...]]:
        return machine.query(
            f"""
            WITH prune AS (SELECT started AS start FROM prunes ORDER BY started LIMIT 1 OFFSET {number - 1}),
            plenty AS (SELECT max(time) AS until FROM event, prune
                WHERE kind = 'disk_sampled' AND bytes >= {threshold} AND time < start)
            SELECT epoch_ns(any_value(start)) / 1e9 - epoch_ns(min(time)) / 1e9 FROM event, prune, plenty
            WHERE kind = 'disk_sampled' AND bytes < {threshold} AND time > until AND time < start
            HAVING count(*) > 0
            """
        )

    # The collector appends in batches: the sample may come into the log after the prune that it caused.
    Host.wait_for(lambda: bool(woken_at()), "the sample that woke the pruner")
    return float(str(woken_at()[0][0]))


def check_the_services_user(machine: Machine) -> None:
    """An unprivileged user, also after root has used the same log."""
    pid = machine.show("collector.service", "MainPID")
    status = machine.run("cat", f"/proc/{pid}/status")
    uid = machine.run("id", "-u", "docker-hindsight").strip()
    assert f"Uid:\t{uid}\t{uid}" in status
    assert "CapEff:\t0000000000000000" in status
    assert str(DOCKER_GID) in status.partition("Groups:")[2].partition("\n")[0].split()
    folder = machine.run("stat", "-c", "%a %U %G", "/var/lib/docker-hindsight").strip()
    assert folder == "750 docker-hindsight docker-hindsight"

    log = "/var/lib/docker-hindsight/events.duckdb"
    machine.run("rm", f"{log}.pruner-lock")
    machine.run("env", f"DOCKER_HOST={ENGINE_HOST}", "pruner", "run")
    assert machine.run("stat", "-c", "%U", f"{log}.pruner-lock").strip() == "root"
    machine.run("systemctl", "start", "pruner.service")
    assert machine.run("stat", "-c", "%U", f"{log}.pruner-lock").strip() == "docker-hindsight"


def check_the_reserve(machine: Machine, engine: Engine) -> None:
    """Space on the engine's own disk, laid by root at the installation, is the service's to give and to take back."""
    laid = engine.disk.path / FOLDER / NAME
    user = int(machine.run("id", "-u", "docker-hindsight"))
    assert (laid.stat().st_uid, laid.stat().st_size) == (user, DEFAULT_SIZE)
    laid.unlink()
    machine.run("systemctl", "restart", "collector.service")
    Host.wait_for(laid.exists, "the service to take the space back")
    assert laid.stat().st_uid == user


def check_the_shipping(machine: Machine) -> None:
    """The timer waits; the service ships as the unprivileged user, and again only what is new."""
    outbox = "/var/lib/docker-hindsight/outbox"
    machine.run("sh", "-c", f"echo SHIP_TO={outbox} >>/etc/default/docker-hindsight")
    machine.run("systemctl", "enable", "--now", "collector-ship.timer")
    assert machine.show("collector-ship.timer", "ActiveState") == "active"
    for _ in range(2):
        machine.run("systemctl", "start", "collector-ship.service")
    assert machine.show("collector-ship.service", "Result") == "success"
    owner = machine.run("sh", "-c", f"stat -c %U {outbox}/manifest/host=*/owner.json").strip()
    assert owner == "docker-hindsight"
    assert machine.run("sh", "-c", f"ls {outbox}/event/host=*/day=*/*.parquet").strip()
    # Where it may not write, it says so in one line, and the next run goes on.
    machine.run("sh", "-c", "echo SHIP_TO=/srv/outbox >>/etc/default/docker-hindsight")
    machine.run("systemctl", "start", "collector-ship.service", status=1)
    assert any("/srv/outbox" in text for priority, text in machine.journal("collector-ship.service") if priority <= 6)


def check_the_journal(machine: Machine, engine: Engine) -> None:
    """Removals are informational lines; a lost engine is a warning; nothing bears its prefix."""
    output = machine.journal("pruner.service")
    assert [line for line in output if line[0] == 6 and line[1].startswith("removed ") and "freed" in line[1]]
    assert not [text for _, text in output if text.startswith("<")]
    engine.stop()
    Host.wait_for(
        lambda: any(
            priority == 4 and "trying again" in text for priority, text in machine.journal("collector.service")
        ),
        "a warning in the journal",
    )


@pytest.mark.long
def test_watchdog_and_restart_bring_the_collector_back_without_a_lost_event(
    machine: Machine, docker20: Engine, images: list[PushedImage]
) -> None:
    machine.write("/etc/systemd/system/collector.service.d/soon.conf", "[Service]\nWatchdogSec=8s\nRestartSec=100ms\n")
    # A disk that cannot be measured, here one hidden by PrivateTmp, is reported at once: nobody waits for it in vain.
    machine.run("pruner", "install-units", "--host", ENGINE_HOST, "--enable", status=1, patience_s=80)
    lines = [text for _, text in machine.journal("collector.service")]
    place, why = f"data root {docker20.data_root}", "cannot be measured: No such file or directory"
    assert all(place in line and why in line for line in lines), lines
    assert lines
    machine.run("systemctl", "stop", "collector.service")

    install(machine, docker20)
    runner = FakeRunner(docker20, images[0].reference)

    def created() -> int:
        return int(machine.query("SELECT count(*) FROM event WHERE kind = 'container_created'")[0][0])

    def restarts() -> int:
        return int(machine.show("collector.service", "NRestarts"))

    # A service that is stopped while it waits for its restart keeps the count of the failed starts above.
    before = restarts()

    # It lives on while it makes progress.
    runner.run_job(images[1].reference)
    Host.wait_for(lambda: created() == 2, "the first job")
    time.sleep(9)
    assert restarts() == before

    # What stands still is ended by the watchdog; what happened meanwhile is recorded all the same.
    machine.run("systemctl", "kill", "--signal=STOP", "collector.service")
    runner.run_job(images[1].reference)
    Host.wait_for(lambda: restarts() == before + 1, "the watchdog")
    runner.run_job(images[1].reference)
    Host.wait_for(lambda: created() == 6, "the jobs while the collector stood still")
    output = machine.run("journalctl", "--unit", "collector.service", "--no-pager")
    assert "Watchdog timeout" in output
    # Which threads' stacks follow depends on the thread that the signal meets.
    assert "Fatal Python error" in output

    machine.run("systemctl", "kill", "--signal=KILL", "collector.service")
    runner.run_job(images[1].reference)
    Host.wait_for(lambda: created() == 8, "the job while the collector was dead")
    assert machine.query("SELECT count(*), count(DISTINCT container) FROM uses WHERE evidence = 'container'") == [
        (8, 8)
    ]
    assert machine.query("SELECT count(*) FROM gaps") == [(0,)]

    output = machine.run("pruner", "uninstall-units")
    assert "disable --now collector.service pruner.timer pruner.path" in output
    assert machine.show("collector.service", "LoadState") == "not-found"
    assert machine.query("SELECT count(*) > 0 FROM event") == [(True,)]


RUNNER = "[Service]\nExecStart=/bin/sh -c 'cat /etc/runner-says; exec sleep 1d'\n"


def test_the_services_learn_of_the_runner_its_jobs_and_slots_and_no_token(machine: Machine, docker20: Engine) -> None:
    machine.write("/etc/systemd/system/gitlab-runner.service", RUNNER)
    machine.write("/etc/runner-says", json.dumps({"msg": "Checking for jobs... received", "job": 41}) + "\n")
    machine.run("systemctl", "start", "gitlab-runner.service")
    install(machine, docker20, 'threshold = "1MiB/job"\n')
    switch_off(machine, "pruner.path", "pruner.timer")
    check_the_runner_s_log(machine)
    config, slots_file = "/etc/gitlab-runner/config.toml", "/run/docker-hindsight.slots"

    def threshold(slots: str) -> int:
        """The threshold that a run leaves beside the log, bytes."""
        machine.write(config, f'{slots}check_interval = 0\n[[runners]]\n  token = "secret"\n  concurrent = 99\n')
        machine.path(config).parent.chmod(0o700)
        machine.path(config).chmod(0o600)
        machine.run("systemctl", "start", "pruner.service")
        left = json.loads(machine.run("cat", "/var/lib/docker-hindsight/events.duckdb.levels"))
        return int(left["free_bytes"])

    assert threshold("concurrent = 3\n") == 3 * MIB
    assert machine.path(slots_file).read_text() == f"DOCKER_HINDSIGHT_JOB_SLOTS=3:{config}\n"
    # It follows the file, to whose end nobody looks.
    assert threshold(" concurrent=12 # was 3\n") == 12 * MIB
    assert threshold("") == MIB
    assert machine.path(slots_file).read_text() == f"DOCKER_HINDSIGHT_JOB_SLOTS=1:{config}\n"
    # Without the file nothing is known, and that is said.
    machine.path(config).unlink()
    machine.run("systemctl", "start", "pruner.service", status=1)
    assert any("set job_slots, or make runner_config" in text for _, text in machine.journal("pruner.service"))
    assert not machine.path(slots_file).exists()


def check_the_runner_s_log(machine: Machine) -> None:
    """The collector follows the journal of the runner as a user of the group that may read it, and says so."""

    def begun() -> list[tuple[object, ...]]:
        return machine.query("SELECT job_id FROM event JOIN job USING (host, job) WHERE kind = 'job_started'")

    Host.wait_for(lambda: begun() == [("41",)], "the runner's job")
    machine.run("systemctl", "restart", "collector.service")
    machine.run("systemctl", "restart", "gitlab-runner.service")
    ask = ("env", f"DOCKER_HOST={ENGINE_HOST}", "collector", "doctor", "--format", "json")
    wanted = "the journal of gitlab-runner.service; latest fact on a job: "
    Host.wait_for(lambda: wanted in machine.run(*ask), "the doctor's word")
    assert begun() == [("41",)]
    assert "SupplementaryGroups=" in machine.run("systemctl", "cat", "collector.service")
