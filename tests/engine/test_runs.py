"""How one run begins and ends: on demand, before a job, per free job slot, and after so many rounds."""

from __future__ import annotations

import resource
import subprocess
import time
from pathlib import Path

import pytest

from pruner.planning.plan import Plan
from pruner.policy.file import policy_from
from pruner.removal import run as running
from pruner.removal.client import DockerRemovingEngine as Border
from pruner.removal.executor import MAX_ROUNDS, Executor
from tests.engine.engines import Engine
from tests.engine.host import Host
from tests.engine.registry import Registry, base_layer, random_layer
from tests.engine.runner import PREFIX

pytestmark = pytest.mark.engine
MIB = 2**20


@pytest.fixture
def host(docker20: Engine, registry: Registry) -> Host:
    """A host with eight images of 8 MiB, none of them used lately."""
    client = docker20.client()
    for k in range(8):
        pushed = registry.push_image(f"runs/{k}", "1", [base_layer(), random_layer(900 + k, 8 * MIB)])
        client.images.pull(pushed.reference)
    client.close()
    time.sleep(1.1)
    return Host(docker20, docker20.folder / "log" / "events.duckdb")


def test_one_clean_up_on_demand_and_one_before_a_job(host: Host) -> None:
    disk = host.engine.disk
    every = host.references()
    host.run("pruner", "run", "--threshold", "1%")
    assert host.references() == every
    wanted = disk.free() + 12 * MIB
    dry = host.run("pruner", "run", "--dry-run", "--now", "--free", f"{wanted}B", "--min-age", "1s")
    shown = host.run("pruner", "run", "--threshold", "1%", "--now", "--free", f"{wanted}B", "--min-age", "1s")
    assert "removed 2 images" in shown
    assert len(host.references()) == 6
    assert all(name in dry for name in every - host.references())
    assert disk.free() >= wanted

    # Before a job: nothing to do is said at once; else space is made, and the log says for what.
    assert "nothing to do" in host.run("pruner", "run", "--until-free", f"{disk.free() - MIB}B")
    assert len(host.references()) == 6
    wanted = disk.free() + 4 * MIB
    host.run("pruner", "run", "--until-free", f"{wanted}B", "--min-age", "1s")
    assert disk.free() >= wanted
    assert host.log.query("SELECT trigger FROM prunes ORDER BY started") == [("manual",), ("pre-job",)]
    done = host.json("pruner", "run", "--until-free", "1MB")
    assert (done["reached"], done["rounds"]) == (True, 0)
    host.run("pruner", "run", "--until-free", "100%", "--min-age", "1s", status=3)
    for argv in (("--free", "1GB"), ("--now", "--until-free", "1GB"), ("--until-free", "never"), ("--until-free", "x")):
        assert len(host.run("pruner", "run", *argv, status=2).splitlines()) == 1


def test_the_answer_before_a_job_is_quick(host: Host) -> None:
    def seconds(*argv: str) -> float:
        """Of processor time: others may take turns."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(argv, env=host.environment, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    bare = host.command("pruner", "--version")[:2]
    quick = min(seconds(*host.command("pruner", "run", "--until-free", "1MB")) for _ in range(3))
    assert quick < 2 * min(seconds(*bare) for _ in range(3)) + 0.2


def test_what_must_be_free_is_what_may_start(host: Host, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("concurrent = 4\n")
    client = host.engine.client()
    free = host.engine.disk.free()
    options = (
        *("--threshold", f"{free // 3 + MIB}B/job", "--runner-config", str(config)),
        *("--emergency", "never", "--min-age", "1s"),
    )
    assert "nothing to do" not in host.run("pruner", "plan", *options)
    image = client.images.list()[0]
    for job in ("1001", "1002"):
        client.containers.run(
            image, ["sleep", "600"], network_mode="none", detach=True, labels={f"{PREFIX}job.id": job}
        )
    # Two of four slots are taken: twice the amount must be free, and is.
    assert "nothing to do" in host.run("pruner", "plan", *options)
    host.run("pruner", "plan", *options, "--job-slots", "6")
    assert "nothing to do" not in host.run("pruner", "plan", *options, "--job-slots", "6")
    config.unlink()
    output = host.run("pruner", "plan", *options, status=2)
    assert f"set job_slots, or make runner_config = {config} readable" in output
    client.close()


def test_what_others_take_meanwhile_is_made_up_for_but_not_forever(host: Host) -> None:
    disk = host.engine.disk
    border = Border(host.engine.host)
    # Whatever has begun goes on to the target, also once free space is above the threshold.
    levels = {"threshold": f"{disk.free() + MIB // 2}B", "target": f"{disk.free() + 12 * MIB}B"}
    policy = policy_from({**levels, "min_age": "1s"}, "test")
    eaten: list[Path] = []

    def plan_while_others_eat(_: object) -> Plan:
        made = running.make_plan(border, host.log, policy)
        eaten.append(disk.path / f"eaten-{len(eaten)}")
        eaten[-1].write_bytes(b"x" * 9 * MIB)
        return made

    outcome = Executor(border, host.log, "test").run(plan_while_others_eat)
    assert (outcome.reached, outcome.rounds, len(eaten)) == (False, MAX_ROUNDS, MAX_ROUNDS)
    with pytest.raises(running.TargetNotReachedError, match=f"after {MAX_ROUNDS} rounds"):
        running.check_reached(outcome)
    eaten[0].unlink()
    outcome = Executor(border, host.log, "test").run(lambda _: running.make_plan(border, host.log, policy))
    assert outcome.reached
    rounds = host.log.query("SELECT attributes ->> '$.round' FROM events WHERE kind = 'prune_started' ORDER BY seq")
    assert [row[0] for row in rounds[:MAX_ROUNDS]] == [str(number + 1) for number in range(MAX_ROUNDS)]
    border.close()
