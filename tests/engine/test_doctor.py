"""What each engine reports is found by asking it, and documented as it answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.engines import VARIANTS, Engine
from tests.engine.host import Host
from tests.engine.registry import Registry, base_layer, random_layer

pytestmark = pytest.mark.engine
PAGE = Path(__file__).parents[2] / "docs" / "engines.md"
COLUMNS = {variant: column for column, variant in enumerate(VARIANTS, start=1)}


def documented(variant: str) -> dict[str, str]:
    """The answers that the page's table gives for an engine."""
    rows = [line.split("|")[1:-1] for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    return {row[0].strip(): row[COLUMNS[variant]].strip() for row in rows if len(row) == 1 + len(COLUMNS)}


def test_the_doctor_says_what_the_page_says(every_engine: Engine, registry: Registry) -> None:
    host = Host(every_engine, every_engine.folder / "log" / "events.duckdb")
    image = registry.push_image("doctor/image", "1", [base_layer(), random_layer(1, 2**20)])
    client = every_engine.client()
    client.images.pull(image.reference)
    host.run("collector", "run", "--once")
    found = {row["subject"]: row for row in host.json("collector", "doctor", "--probe")}
    answers = {subject: row["answer"] for subject, row in found.items()}
    assert (answers.pop("event log"), answers.pop("engine")) == ("written", "answers")
    del answers["observed"]
    disks = {subject for subject in answers if subject.startswith("disk")}
    assert {answers.pop(subject) for subject in disks} == {"measured"}
    table = documented(every_engine.variant)
    assert answers == {subject: table[subject] for subject in answers}
    # The probe leaves nothing behind.
    assert {tag for listed in client.images.list() for tag in listed.tags} == {image.reference}
    client.close()


def test_what_must_be_fixed_is_said(docker20: Engine) -> None:
    host = Host(docker20, docker20.folder / "log" / "events.duckdb")
    assert "start `collector run`" in host.run("collector", "doctor", status=1)
    host.run("collector", "run", "--once")
    assert "fault" not in host.run("collector", "doctor")
    docker20.stop()
    assert "no engine socket at" in host.run("collector", "doctor", status=1)
