"""What others say steers no terminal, forges no line of the journal and hides nothing in JSON."""

from __future__ import annotations

import io
import json
import logging
import tracemalloc
import unicodedata
from pathlib import Path

import pytest

from collector.model.errors import UsageError
from collector.model.untrusted import UNPRINTABLE, one_line
from collector.terminal import console, faults
from collector.terminal.table import printable

NAMED = [
    "\x9b31m",
    "\u202e",
    "\u061c",
    "\ufeff",
    "\U000e0041",
    "\n<3>forged",
    "\r\x1b[2J",
    "\x85",
    "\u2028",
    "\u2066",
    "\xad",
]


def test_no_character_is_printed_that_controls_formats_or_turns_the_text() -> None:
    every = [chr(code) for code in range(0x110000)]
    steering = {one for one in every if unicodedata.category(one) in {"Cc", "Cf", "Cs", "Zl", "Zp"}}
    steering |= {chr(code) for code in range(0xE0000, 0xE0FFF + 1)}
    assert {one for one in steering if not UNPRINTABLE.fullmatch(one)} == set()
    assert one_line("debian:12 Größe 図 e\u0301 \u05d0") == "debian:12 Größe 図 e\u0301 \u05d0"


@pytest.mark.parametrize("hostile", NAMED)
def test_tables_and_json_show_it_and_do_not_do_it(hostile: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert UNPRINTABLE.search(printable(hostile).plain) is None
    console.print_json({"name": hostile, hostile: 1})
    shown = capsys.readouterr().out
    assert UNPRINTABLE.search(shown.replace("\n", "")) is None
    assert json.loads(shown) == {"name": hostile, hostile: 1}


def test_json_of_a_fleet_is_never_whole_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{f"figure {k}": 2**40 + k for k in range(20)}] * 2500
    with (tmp_path / "printed.json").open("w") as printed:
        monkeypatch.setattr("sys.stdout", printed)
        tracemalloc.start()
        try:
            console.print_json(rows)
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    text = (tmp_path / "printed.json").read_text()
    assert text == json.dumps(rows, indent=2) + "\n"
    assert most < len(text) / 2


@pytest.mark.parametrize("hostile", NAMED)
@pytest.mark.parametrize("in_journal", [False, True])
def test_the_journal_gets_the_lines_that_we_write(
    hostile: str, in_journal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "in_journal", lambda: in_journal)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr("sys.stderr", stderr := io.StringIO())
    console.log_to_stderr()
    try:
        int(hostile)
    except ValueError:
        logging.getLogger("x").exception("label %s of %r", hostile, hostile)
    first, *rest = stderr.getvalue().splitlines()
    assert first == ("<3>" if in_journal else "") + f"label {one_line(hostile)} of {hostile!r}"
    assert all(line.startswith("<3>") is in_journal for line in rest)
    assert UNPRINTABLE.search(stderr.getvalue().replace("\n", "")) is None


@pytest.mark.parametrize("hostile", NAMED)
def test_an_error_is_one_line(
    hostile: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "in_journal", lambda: True)
    with pytest.raises(SystemExit), faults.faults_in_one_line("collector"):
        raise UsageError(f"no image '{hostile}'")
    assert capsys.readouterr().err == f"<3>collector: no image '{one_line(hostile)}'\n"
