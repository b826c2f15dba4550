"""A real Prometheus scrapes a real collector: every query of the dashboard and every alert rule is asked of it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.collector.test_dashboards import shipped
from tests.engine.engines import Engine
from tests.engine.host import Host
from tests.engine.ports import free_port
from tests.engine.registry import Registry, base_layer, random_layer
from tests.engine.runner import FakeRunner
from tests.needs import cannot_run

pytestmark = pytest.mark.engine
MIB = 2**20
# Long enough for all that happens in the test, also on a busy machine. Prometheus evaluates and scrapes every second.
RATE_INTERVAL = "30m"


class Prometheus:
    """Debian's server on a free loopback port, with the shipped rules and one target.

    Args:
        folder: for its configuration and its data.
        target: ``host:port`` of a collector's metrics.
        rules: the rule file.
    """

    def __init__(self, folder: Path, target: str, rules: str) -> None:
        program = shutil.which("prometheus")
        if program is None:
            cannot_run("prometheus is not installed: run .ci/install-packages")
        folder.mkdir(parents=True)
        (folder / "rules.yml").write_text(rules)
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yml"],
            "scrape_configs": [{"job_name": "docker-hindsight", "static_configs": [{"targets": [target]}]}],
        }
        (folder / "prometheus.yml").write_text(json.dumps(config))
        self.url = f"http://127.0.0.1:{free_port()}"
        listen = f"--web.listen-address={self.url.removeprefix('http://')}"
        argv = [str(program), f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data", listen]
        self._said = folder / "said"
        with self._said.open("wb") as log:
            self._process = subprocess.Popen(argv, stdout=log, stderr=log)
        Host.wait_for(self._ready, "Prometheus to be ready")

    def ask(self, path: str, **parameters: str) -> Any:
        """The data that its HTTP API answers with."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310
                output = json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path} {parameters}: {error.read().decode()}") from None
        assert output["status"] == "success", output
        assert not output.get("warnings"), output
        return output["data"]

    def values(self, query: str) -> list[float]:
        """What a query gives now, one value a series."""
        return [float(series["value"][1]) for series in self.ask("query", query=query)["result"]]

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(timeout=60)

    def _ready(self) -> bool:
        assert self._process.poll() is None, self._said.read_text()
        try:
            urllib.request.urlopen(f"{self.url}/-/ready", timeout=1).close()  # noqa: S310
        except OSError:
            return False
        return True


@pytest.fixture
def host(docker20: Engine) -> Host:
    return Host(docker20, docker20.folder / "log" / "events.duckdb")


@pytest.fixture
def metrics_at(host: Host) -> Iterator[str]:
    address = f"127.0.0.1:{free_port()}"
    with host.collecting("--metrics", address):
        yield address


@pytest.fixture
def prometheus(host: Host, metrics_at: str) -> Iterator[Prometheus]:
    made = Prometheus(host.engine.folder / "prometheus", metrics_at, shipped("alerts"))
    yield made
    made.stop()


def live(host: Host, registry: Registry, prometheus: Prometheus) -> None:
    """What a dashboard should show: jobs, prunes of which one reaches its target, and an image pulled again."""
    helper = registry.push_image("gitlab/helper", "1", [base_layer()]).reference
    image = registry.push_image("seen/alpha", "1", [base_layer(), random_layer(901, 20 * MIB)]).reference
    runner = FakeRunner(host.engine, helper)
    options = ("--order", "lru", "--min-age", "1s")
    spared = ("--allowlist", "*/gitlab/*", "--emergency", "never")
    runner.run_job(image)
    host.wait_for_events("container_destroyed", 2)
    time.sleep(1.1)
    host.run("pruner", "run", *options, "--threshold", f"{host.engine.disk.free() + 10 * MIB}B")
    host.wait_for_events("image_deleted", 1)
    runner.run_job(image)
    host.wait_for_events("container_destroyed", 4)
    # The next prune is to be seen as one of its own.
    seen = "docker_hindsight_last_prune_timestamp_seconds"
    host.wait_for(lambda: bool(prometheus.values(seen)), "the first prune to be exported")
    time.sleep(1.1)
    host.run("pruner", "run", *options, "--threshold", "99%", *spared, status=3)


def panels(dashboard: Any, instances: list[str], window: str) -> Iterator[tuple[str, str]]:
    """Every query with its panel's title, its variables filled in as Grafana does with several hosts chosen."""
    chosen = "(" + "|".join(re.escape(one).replace("\\", "\\\\") for one in [*instances, "other:1"]) + ")"

    def filled(query: str) -> str:
        return query.replace("$__rate_interval", window).replace("$instance", chosen)

    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield f"{panel['title']} {target['refId']}", filled(target["expr"])
    for mark in dashboard["annotations"]["list"]:
        yield mark["name"], filled(mark["expr"])


def test_every_query_of_the_dashboard_gives_data_and_every_rule_is_evaluated(
    host: Host, registry: Registry, prometheus: Prometheus, metrics_at: str
) -> None:
    dashboard = json.loads(shipped("dashboard"))
    host.wait_for(lambda: prometheus.values("up") == [1.0], "the first scrape")
    live(host, registry, prometheus)

    # The variables: a data source of this kind, and the hosts that it knows.
    source, instance = dashboard["templating"]["list"]
    assert (source["type"], source["query"]) == ("datasource", "prometheus")
    (asked,) = re.findall(r"^label_values\((\w+), (\w+)\)$", instance["query"]["query"])
    instances = prometheus.ask(f"label/{asked[1]}/values", **{"match[]": asked[0]})
    assert instances == [metrics_at]

    queries = dict(panels(dashboard, instances, RATE_INTERVAL))
    assert len(queries) == sum(len(panel["targets"]) for panel in dashboard["panels"]) + 1
    host.wait_for(lambda: prometheus.values(queries["Prunes"]) == [1.0], "the second prune to be marked")
    moved = ("Images pulled again, and removed A", "Images pulled again, and removed B", "Freed by prunes A")
    shown: dict[str, list[float]] = {}

    def complete() -> bool:
        """Now and then a busy collector is too late for a scrape: then there is nothing to show at that moment."""
        shown.update({name: prometheus.values(query) for name, query in queries.items()})
        return all(shown.values()) and all(sum(shown[name]) > 0 for name in moved)

    with suppress(AssertionError):
        host.wait_for(complete, "data for every query")
    assert [name for name, values in shown.items() if not values] == []
    assert all(sum(shown[name]) > 0 for name in moved), {name: shown[name] for name in moved}
    assert sum(value > 0 for value in shown["Prunes by outcome A"]) == 2
    assert 0 < shown["Free A"][0] < 1
    assert shown["Free space and threshold B"][0] == pytest.approx(0.99 * 1024 * MIB, rel=0.1)

    def rules() -> list[Any]:
        return [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]

    host.wait_for(lambda: all(rule["health"] != "unknown" for rule in rules()), "every rule to be evaluated")
    assert {(rule["health"], rule.get("lastError")) for rule in rules()} == {("ok", None)}
    assert len(rules()) == len(re.findall("alert:", shipped("alerts")))

    def firing() -> set[str]:
        return {one["labels"]["alertname"] for one in prometheus.ask("alerts")["alerts"] if one["state"] == "firing"}

    host.wait_for(lambda: "DockerHindsightPruneMissedTarget" in firing(), "the alert of the missed target")
    assert firing() <= {"DockerHindsightPruneMissedTarget", "DockerHindsightDiskFillsBeforeNextPrune"}
