"""The collector's page in a browser, beside a real engine."""

from __future__ import annotations

import time

import pytest
from playwright.sync_api import Browser, expect

from tests.engine.engines import Engine
from tests.engine.host import Host
from tests.engine.ports import free_port
from tests.engine.registry import Registry, base_layer, random_layer
from tests.engine.runner import FakeRunner

pytestmark = [pytest.mark.browser, pytest.mark.engine]
MIB = 2**20


def test_it_follows_the_host_by_itself(browser: Browser, docker20: Engine, registry: Registry) -> None:
    host = Host(docker20, docker20.folder / "log" / "events.duckdb")
    helper = registry.push_image("gitlab/helper", "1", [base_layer()]).reference
    first, second = (
        registry.push_image(f"page/{name}", "1", [base_layer(), random_layer(seed, 20 * MIB)]).reference
        for seed, name in ((961, "alpha"), (962, "beta"))
    )
    runner = FakeRunner(docker20, helper)
    address = f"127.0.0.1:{free_port()}"
    complaints: list[str] = []
    requests: set[str] = set()
    with host.collecting("--page", address):
        runner.run_job(first)
        host.wait_for_events("container_destroyed", 2)
        page = browser.new_context().new_page()
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.add(request.url))
        page.goto(f"http://{address}/")
        expect(page.locator("#free")).to_contain_text("MiB free" if docker20.disk.free() < 2**30 else "free")
        expect(page.locator("#warnings")).to_contain_text("no pruner has run here")
        expect(page.locator("#prunes-said")).to_have_text("Nothing has been removed yet.")
        time.sleep(1.1)
        policy = ("--order", "lru", "--min-age", "1s", "--allowlist", "*/gitlab/*", "--emergency", "never")
        host.run("pruner", "run", *policy, "--threshold", f"{docker20.disk.free() + 10 * MIB}B")
        host.wait_for_events("image_deleted", 1)
        runner.run_job(second)
        runner.run_job(first)
        host.wait_for_events("container_destroyed", 6)
        time.sleep(1.1)
        host.run("pruner", "run", *policy, "--threshold", f"{docker20.disk.free() + 10 * MIB}B")
        # Nobody loads the page again. One wait: it spends so little of the processor that each takes half a minute.
        expect(page.locator("#prunes tbody tr")).to_have_count(2)
        expect(page.locator("#prunes tbody")).to_contain_text("1 (20")
        expect(page.locator("#prunes tbody")).to_contain_text("none")
        expect(page.locator("#warnings")).not_to_contain_text("no pruner has run here")
        expect(page.locator("#next tbody tr")).to_have_count(1)
        expect(page.locator("#next tbody th")).to_have_text(first)
        expect(page.locator("#next tbody td").nth(2)).not_to_be_empty()
        expect(page.locator("#trend polyline")).to_have_count(1)
        answer = page.request.post(f"http://{address}/state.json")
        assert answer.status == 405
        page.context.close()
    assert complaints == []
    assert {url.partition(address)[2] for url in requests} <= {
        "/",
        "/page.css",
        "/page.js",
        "/state.json",
    }
