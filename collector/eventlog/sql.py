"""SQL that is written from texts and from the tables of event kinds and of jobs' roles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from collector.model.jobs import HELPER_ROLES


def sql_text(text: object) -> str:
    """Any text or path, also from outside, as an SQL literal: ``'it''s'``."""
    return "'" + str(text).replace("'", "''") + "'"


def sql_list(values: Iterable[str]) -> str:
    """Our own words as the inside of an SQL list: ``'a', 'b'``. Not for what comes from outside."""
    return ", ".join(f"'{value}'" for value in values)


# A container or image that its job chose, or of which nobody knows.
CHOSEN_BY_JOB = f"(role IS NULL OR role NOT IN ({sql_list(sorted(HELPER_ROLES))}))"


def sql_case(column: str, words: Mapping[Any, str | int]) -> str:
    """A CASE from values of a column to a word or number each."""
    arms = " ".join(f"WHEN '{value}' THEN {_literal(word)}" for value, word in words.items())
    return f"CASE {column} {arms} END"


def _literal(word: str | int) -> str:
    return f"'{word}'" if isinstance(word, str) else str(int(word))


def sql_names(attribute: str) -> str:
    """SQL of a list of names in JSON, such as ``attributes -> '$.references'``; what is not one counts as empty."""
    return f"coalesce(list_filter(TRY_CAST({attribute} AS VARCHAR[]), lambda name: name IS NOT NULL), [])"


BUILT_NS = "epoch_ns(TRY_CAST(attributes ->> '$.created' AS TIMESTAMP_NS))"
"""SQL of when an observed image was built, UTC nanoseconds; NULL where that is not a time of this age."""
STORED_NS = "TRY_CAST(TRY_CAST(attributes ->> '$.stored' AS DOUBLE) * 1e9 AS BIGINT)"
"""SQL of when an engine stored an observed image, UTC nanoseconds; NULL where it does not say so."""
