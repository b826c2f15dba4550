"""`pruner run --every`: one process for each prune, early when the collector calls, ended without cutting one off."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from collector.machine.wake import wake_path
from pruner.removal.repeat import _once
from tests.waiting import PATIENCE_S, wait_for


def test_each_prune_is_the_same_command_without_the_option() -> None:
    assert _once(["pruner", "run", "--every", "5m", "-v"], "timer") == [
        *(sys.executable, "pruner", "run", "-v"),
        *("--trigger", "timer"),
    ]
    assert _once(["p", "run", "--every=5m", "--trigger=mine"], "early") == [
        sys.executable,
        "p",
        "run",
        "--trigger=mine",
    ]


@pytest.mark.slow
def test_it_prunes_at_once_and_when_called_and_ends_when_stopped(tmp_path: Path) -> None:
    log, said = tmp_path / "events.duckdb", tmp_path / "said"
    program = tmp_path / "program"
    program.write_text(
        "import sys\nfrom pathlib import Path\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        "if '--every' in sys.argv:\n"
        "    from pruner.removal.repeat import repeat\n"
        f"    repeat(Path({str(log)!r}), 3600.0, sys.argv)\n"
        "else:\n"
        f"    print(sys.argv[1:], file=Path({str(said)!r}).open('a'), flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, program, "run", "--every", "1h"])

    def printed() -> list[str]:
        return said.read_text().splitlines() if said.exists() else []

    try:
        wait_for(printed, "the first run")
        assert printed() == ["['run', '--trigger', 'timer']"]
        time.sleep(0.1)  # the wake-up's time must differ from none
        wake_path(log).touch()
        wait_for(lambda: len(printed()) > 1, "the second run")
        assert printed()[1] == "['run', '--trigger', 'early']"
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--every", "soon"), "--every: 'soon' is not a duration"),
        (("--every", "0s"), "--every"),
        (("--every", "5m", "--now"), "are for one prune"),
        (("--every", "5m", "--dry-run"), "are for one prune"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(tmp_path: Path, options: tuple[str, ...], line: str) -> None:
    program = Path(sys.executable).with_name("pruner")
    environment = {**os.environ, "DOCKER_HINDSIGHT_LOG": str(tmp_path / "events.duckdb")}
    done = subprocess.run(
        [program, "run", *options], check=False, capture_output=True, text=True, timeout=PATIENCE_S, env=environment
    )
    assert done.returncode == 2
    assert line in done.stderr
    assert done.stderr.count("\n") == 1
