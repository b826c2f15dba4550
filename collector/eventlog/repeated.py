"""What an event's attributes repeat of its job: null in the log, and there again in the view `events`.

A job's row says once what the labels of each of its containers, and each report of a job source, say again. What
differs from the row, such as another branch, stays where it was said.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from collector.eventlog.sql import sql_list
from collector.model.events import CONTAINERS, Event, JsonObject, reported_by
from collector.model.jobs import JOB_FIELDS, ROLE_LABELS, SYSTEMS, Job
from collector.model.traits import Reporter

# Services are known by labels that begin so, which SQL reads.
_SERVICES = "com.docker."
# Each label with the field of the job that holds its value, or the role.
_LABELS = {
    label: field
    for field, labels in [*(pair for system in SYSTEMS for pair in system.fields.items()), ("role", ROLE_LABELS)]
    for label in labels
    if not label.startswith(_SERVICES)
}
# What a job list calls a job stands beside its labels; what a job source says of one stands in one object.
_OF_CONTAINERS = {**_LABELS, "job": "name"}
_OF_REPORTS = {**{field: field for field in JOB_FIELDS}, "role": "role"}


def without_repeated(event: Event, job: Job, role: str | None) -> JsonObject:
    """The attributes of an event with null for what its job's row, or its role, says, too.

    Args:
        event: the event.
        job: its job, as the log has it.
        role: the role in it of the event's image or container.
    """
    is_report = event.kind.traits.reporter is Reporter.JOBS
    if not is_report and event.kind not in CONTAINERS:
        return event.attributes
    known = {**dict(zip(JOB_FIELDS, job.values(), strict=True)), "role": role}
    fields, within = (_OF_REPORTS, "job") if is_report else (_OF_CONTAINERS, "labels")

    def left(values: Mapping[str, Any], keys: Iterable[str]) -> JsonObject:
        return {**values, **{key: None for key in keys if values[key] == known[fields[key]]}}

    said = [key for key in ("job", "role") if key in fields and isinstance(event.attributes.get(key), str)]
    found = left(event.attributes, said)
    inner = found.get(within)
    return {**found, within: left(inner, fields.keys() & inner.keys())} if isinstance(inner, Mapping) else found


def sql_restored(event: str, job: str) -> str:
    """SQL of an event's attributes with what was left out; NULL where it has none.

    Args:
        event: what the row of the event is called.
        job: what the row of its job is called, whose columns are NULL where it has none.
    """
    of = {field: f"{job}.{field}" for field in JOB_FIELDS} | {"role": f"{event}.role"}

    def restored(fields: Mapping[str, str]) -> str:
        text = f"{event}.attributes::VARCHAR"
        for key, field in fields.items():
            text = f"""replace({text}, '"{key}":null', '"{key}":' || coalesce(to_json({of[field]})::VARCHAR, 'null'))"""
        return text

    return f"""CASE WHEN {job}.job IS NULL OR NOT contains({event}.attributes::VARCHAR, ':null') THEN {event}.attributes
        WHEN {event}.kind IN ({sql_list(CONTAINERS)}) THEN ({restored(_OF_CONTAINERS)})::JSON
        WHEN {event}.kind IN ({sql_list(reported_by(Reporter.JOBS))}) THEN ({restored(_OF_REPORTS)})::JSON
        ELSE {event}.attributes END"""
