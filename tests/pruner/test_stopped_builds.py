"""Containers of builds that were killed, and logs of containers that stopped."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from collector.model.errors import EngineRefusedError
from collector.model.observation import ExternalContainer
from tests.fake_holdings import MIB
from tests.needs import first_fast
from tests.pruner.test_executor import OLD, Bench, bench, old_image  # noqa: F401 - a fixture


def external(bench: Bench, name: str, image: str, *, age: float = OLD, **more: bool) -> str:  # noqa: F811
    """A container that the engine does not manage."""
    made = ExternalContainer(name, image, name, time.time() - age, 5 * MIB, **more)
    bench.engine.external_table[name] = made
    return name


def test_containers_of_killed_builds_go_by_age_and_with_them_their_images(bench: Bench) -> None:  # noqa: F811
    killed, other, mine = (old_image(bench, f"{name}:1") for name in ("killed", "other", "mine"))
    gone = external(bench, "killed-build", killed)
    external(bench, "young-build", other, age=60)
    external(bench, "mounted-build", other, mounted=True)
    external(bench, "cri-o", mine, is_build=False)
    outcome = bench.prune()
    assert [removal.key for removal, _ in outcome.removed] == [gone, killed]
    assert outcome.failed == ()
    assert outcome.plan is not None
    details = {item.name: item.detail for item in outcome.plan.items}
    assert "mounted by a build" in details["mounted-build"]
    assert "within its grace of 1 d" in details["young-build"]
    assert "no build" in details["cri-o"]


def test_a_build_that_goes_on_keeps_its_container(bench: Bench) -> None:  # noqa: F811
    image = old_image(bench, "a:1")
    container = external(bench, "working", image)
    bench.engine.before("external_containers", lambda: external(bench, "working", image, age=0), skip=1)
    outcome = bench.prune()
    assert bench.failed(outcome)[container] == "it ran since the plan was made"
    assert image in bench.engine.image_table


def test_an_engine_that_hides_its_builds_is_pruned_all_the_same(bench: Bench) -> None:  # noqa: F811
    image = old_image(bench, "a:1")
    bench.engine.fail(
        "external_containers", error=EngineRefusedError(bench.engine.host, "no such version", 400), times=9
    )
    outcome = bench.prune()
    assert [removal.key for removal, _ in outcome.removed] == [image]


@pytest.mark.parametrize("case", first_fast("stopped", "started again", "ran again", "a link", "another name"))
def test_the_log_of_a_container_is_emptied_only_while_it_is_stopped(bench: Bench, tmp_path: Path, case: str) -> None:  # noqa: F811
    engine, image = bench.engine, old_image(bench, "a:1")
    container = engine.add_container(image, state="exited", age=60)
    path = tmp_path / container / f"{container}-json.log"
    path.parent.mkdir()
    path.write_text("x" * 100_000)
    other = tmp_path / "other"
    if case == "a link":
        path.rename(other)
        path.symlink_to(other)
    elif case == "another name":
        other.hardlink_to(path)
    engine.log_paths[container] = str(path)
    engine.other_bytes = engine.total
    row = engine.container_table[container]
    if case == "started again":
        engine.before("container_detail", lambda: setattr(row, "state", "running"), container, skip=1)
    elif case == "ran again":
        ended = time.time()
        engine.before("container_detail", lambda: setattr(row, "finished", ended), container, skip=1)
    outcome = bench.prune(**{"containers.empty_logs": True})
    assert (path.stat().st_size == 0) is (case == "stopped")
    assert container in engine.container_table
    assert bench.recorded("item_removed") == ({container} if case == "stopped" else set())
    words = {
        "started again": "it is running now",
        "a link": "cannot be emptied",
        "ran again": "it ran since",
        "another name": "not a file of its own",
    }
    assert words.get(case, "") in bench.failed(outcome).get(container, "")
