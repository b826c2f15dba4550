"""Each row of SECURITY.md's table has the test that it names."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_row_names_a_test_that_is_there() -> None:
    lines = (ROOT / "SECURITY.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith("| ") and not line.startswith("| it does")]
    assert len(rows) > 10
    for row in rows:
        named = re.findall(r"`(tests/\S+)::(test_\w+)`", row.rsplit("|", 2)[1])
        assert named, row
        for path, function in named:
            assert f"\ndef {function}(" in (ROOT / path).read_text(encoding="utf-8"), row
