"""What others may say, as strategies for hypothesis: JSON of any shape, labels, lines, numbers that are none."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

NUMBERS: list[Any] = [
    *(0, -1, 1, 2**31, 2**53 + 1, 2**60 + 1, 2**63 - 1, 2**63, 2**64, 2**70, -(2**63) - 1, 10**400),
    *(0.5, -0.0, 1e300, float("inf"), float("-inf"), float("nan"), True, False, None),
]
TEXTS = [
    *(
        "",
        " ",
        "\0",
        "a\0b",
        "\n<3>forged",
        "\x1b[31m",
        "\u202e",
        "\ud800",
        "x\udc00y",
        "\ufeff",
        "é",
        "😀",
        "a" * 5000,
    ),
    *("http://[", "http://a℀b/", "https://h:99999999/x", "javascript:alert(1)", "//", "http://[::1%25]/", "%00"),
    *("0", "-1", "1e9999999", "1E+9999999", "nan", "inf", "9" * 5000, "²", "٣", "0x10", "1_0", "boom", "true"),
    *(
        "9999-12-31T23:59:59Z",
        "2300-01-01T00:00:00Z",
        "1600-01-01T00:00:00Z",
        "0001-01-01T00:00:00Z",
        "2026-02-30T0:0Z",
    ),
    *("sha256:" + "0" * 64, "sha256:", "sha256:../../etc", "<none>:<none>", "a@sha256:" + "1" * 64),
]

any_text = st.sampled_from(TEXTS) | st.text(max_size=30)
any_number = st.sampled_from(NUMBERS) | st.integers() | st.floats()
leaf = any_text | any_number
any_json = st.recursive(
    leaf, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4), max_leaves=12
)
TOO_DEEP = "[" * 5000 + "]" * 5000


def objects_with(**members: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with some of these members, each of the type that it should have or of any other."""
    return st.fixed_dictionaries({}, optional={key: value | any_json for key, value in members.items()})


def as_json(value: Any) -> str:
    """JSON as a hostile writer makes it: with NaN, lone surrogates and NUL as they are."""
    return json.dumps(value)
