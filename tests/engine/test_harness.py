"""The test engines are real, private and leave nothing behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import MakeEngine
from tests.engine import leftovers
from tests.engine.engines import Engine
from tests.engine.registry import Registry, base_layer, random_layer
from tests.engine.runner import FakeRunner, PullError

pytestmark = pytest.mark.engine
MIB = 2**20


def test_an_engine_pulls_runs_a_job_and_shares_layers(any_engine: Engine, registry: Registry) -> None:
    shared = [base_layer(), random_layer(1, 20 * MIB)]
    first = registry.push_image("mesa/a", "1", [*shared, random_layer(2, MIB)])
    second = registry.push_image("mesa/b", "1", [*shared, random_layer(3, MIB)])
    runner = FakeRunner(any_engine, helper=second.reference)
    runner.run_job(second.reference)
    before = any_engine.disk.free()
    runner.run_job(first.reference)
    assert before - any_engine.disk.free() < 10 * MIB
    client = any_engine.client()
    assert client.containers.list(all=True) == []
    assert {tag for image in client.images.list() for tag in image.tags} == {first.reference, second.reference}
    client.close()


def test_a_full_disk_is_an_error_in_the_progress_stream(make_engine: MakeEngine, registry: Registry) -> None:
    engine = make_engine("docker20", disk_bytes=100 * MIB)
    image = registry.push_image("mesa/large", "1", [base_layer(), random_layer(4, 90 * MIB)])
    engine.disk.fill_to(20 * MIB)
    with pytest.raises(PullError, match="no space left on device"):
        FakeRunner(engine, helper=image.reference).run_job(image.reference)


def test_a_full_disk_is_completely_full(make_engine: MakeEngine) -> None:
    disk = make_engine("docker20", disk_bytes=100 * MIB).disk
    disk.fill_to(0)
    assert disk.free() == 0
    with pytest.raises(OSError, match="No space left"):
        (disk.path / "more").write_bytes(b"x" * 4096)
    disk.unfill()
    assert disk.free() > 50 * MIB


def test_what_a_killed_run_leaves_is_removed_by_the_next(registry: Registry) -> None:
    image = registry.push_image("mesa/long", "1", [base_layer()])
    script = (
        "import sys\nfrom tests.engine.leftovers import make_state_root\nfrom tests.engine.engines import Engine\n"
        "root = make_state_root()\nengine = Engine('docker20', root / 'e', sys.argv[1], 200 * 2**20).start()\n"
        "client = engine.client()\nclient.images.pull(sys.argv[2])\n"
        "client.containers.run(sys.argv[2], ['sleep', '1000'], detach=True, network_mode='none')\n"
        "print(root, flush=True)\nsys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, registry.host, image.reference],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as child:
        assert child.stdout is not None
        root = Path(child.stdout.readline().strip())
        assert root.parent == leftovers.BASE
        assert len(leftovers.processes_of(root)) >= 3
        child.send_signal(signal.SIGKILL)
    leftovers.sweep()  # or that of another test run, which comes before
    assert leftovers.processes_of(root) == []
    assert leftovers.mounts_under(root) == []
    assert leftovers.loop_devices_of(root) == []
    assert not root.exists()
