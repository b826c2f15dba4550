"""What a service ran before its last change stays for a while."""

from __future__ import annotations

from pathlib import Path

from collector.eventlog.log import EventLog
from collector.model.events import Event, Kind
from collector.model.jobs import orchestrator_of
from pruner.state.services import read_rollbacks

HOUR = 3600.0
NOW = 1000 * HOUR


def ran(number: int, image: str, hours: float, **labels: str) -> Event:
    names = {"swarm": "com.docker.swarm.service.name", "project": "com.docker.compose.project"}
    names |= {"service": "com.docker.compose.service"}
    output = {names[key]: value for key, value in labels.items()}
    time_ns = int((NOW - hours * HOUR) * 1e9)
    return Event(time_ns, Kind.CONTAINER_CREATED, image, container=f"c{number}", attributes={"labels": output})


def test_the_image_before_a_services_last_change_stays_for_its_grace(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.duckdb", host="h")
    log.append(
        [
            ran(1, "web-1", 90, swarm="web"),
            ran(2, "web-2", 50, swarm="web"),
            ran(3, "web-3", 5, swarm="web"),
            ran(4, "web-3", 1, swarm="web"),
            ran(5, "db-1", 90, project="shop", service="db"),
            ran(6, "db-2", 60, project="shop", service="db"),
            ran(7, "back", 9, project="shop", service="api"),
            ran(8, "forth", 8, project="shop", service="api"),
            ran(9, "back", 7, project="shop", service="api"),
            ran(10, "only", 1, project="shop", service="new"),
            ran(11, "other", 1),
        ]
    )
    assert read_rollbacks(log, NOW, 24 * HOUR) == {
        "web-2": "service web ran it before its last change 5 h ago (rollback)",
        "forth": "compose service shop/api ran it before its last change 8 h ago (rollback)",
    }
    assert set(read_rollbacks(log, NOW, 100 * HOUR)) == {"web-2", "db-1", "forth"}
    assert read_rollbacks(log, NOW, 0) == {}


def test_orchestrators_are_known_by_their_labels() -> None:
    assert orchestrator_of({"com.docker.swarm.task.id": "x"}) == "Docker swarm"
    assert orchestrator_of({"com.hashicorp.nomad.alloc_id": "x"}) == "Nomad"
    assert orchestrator_of({"com.amazonaws.ecs.task-arn": "x"}) == "Amazon ECS"
    assert orchestrator_of({"PODMAN_SYSTEMD_UNIT": "web.service"}) == "systemd"
    assert orchestrator_of({}, "k8s_app_pod_default_0123-4567_0") == "Kubernetes"
    assert orchestrator_of({"com.docker.compose.project": "shop"}, "shop-db-1") is None
