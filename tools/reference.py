"""Writes docs/reference.md from the code: commands, policy keys, event kinds, reasons, tables and views.

`python tools/reference.py` writes the file; with `--check` it only says whether the file is up to date.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from collector.eventlog.log import EventLog
from collector.model.events import Event, Kind
from collector.model.job_details import FACTS
from collector.model.traits import Traits
from collector.monitoring.metrics import PREFIX, SPECS
from pruner.planning.decision import MEANING
from pruner.policy.file import as_text, value_of
from pruner.policy.keys import KEYS
from pruner.policy.policy import Policy

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reference.md"
COMMANDS = ("collector", "analyzer", "pruner")
_HEAD = "# Reference\n\nGenerated from the code by `make reference`: change the code, not this page.\n"


def page() -> str:
    """The whole page."""
    parts = [_HEAD, _contents(), _policy(), _kinds(), _job_details(), _reasons(), _metrics(), _log_schema()]
    parts += [_command(name) for name in COMMANDS]
    return "\n".join(parts)


def _contents() -> str:
    titles = [
        "Policy keys",
        "Event kinds",
        "What is kept of a job",
        "Reasons",
        "Metrics",
        "The log's tables and views",
        *COMMANDS,
    ]
    return "\n".join(f"- [{title}](#{_anchor(title)})" for title in titles) + "\n"


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _policy() -> str:
    default = Policy()
    rows = []
    for name, key in KEYS.items():
        value = as_text(name, value_of(default, name))
        rows.append((f"`{name}`", f"`{json.dumps(value)}`" if value not in (None, []) else "", key.help))
    intro = "Keys of `policy.toml`; each is an option of `pruner` of the same name, too.\n\n"
    return "## Policy keys\n\n" + intro + _table(("key", "default", "meaning"), rows)


def _kinds() -> str:
    rows = [(f"`{kind.value}`", kind.traits.reporter.value, _shows(kind.traits), kind.traits.meaning) for kind in Kind]
    return "## Event kinds\n\n" + _table(("kind", "reported by", "shows", "meaning"), rows)


def _shows(traits: Traits) -> str:
    """What follows from an event of a kind, apart from what it says."""
    effect = f"image {traits.effect.value}" if traits.effect else ""
    use = f"use ({traits.happened})" if traits.use is not None else ""
    return ", ".join(filter(None, (use, effect)))


def _job_details() -> str:
    intro = "What `collector run --job-details` has the log keep; of a label's rows one `yes` suffices.\n\n"
    rows = []
    for fact in FACTS:
        where = [f"`job.{field}`" for field in fact.fields] + [f"`{label}`" for label in fact.labels]
        kept = ("yes", "yes" if fact.ids else "no", "yes" if fact.none else "no")
        rows.append((fact.name, *kept, ", ".join(where)))
    return "## What is kept of a job\n\n" + intro + _table(("fact", "`all`", "`ids`", "`none`", "held in"), rows)


def _reasons() -> str:
    return "## Reasons\n\nWhy an image stays or goes, as plans and logs say it.\n\n" + _table(
        ("reason", "meaning"), [(f"`{reason.name.lower()}`", meaning) for reason, meaning in MEANING.items()]
    )


def _metrics() -> str:
    intro = "What `collector run --metrics` serves and `--metrics-file` writes; [how to use them](metrics.md).\n\n"
    rows = [(f"`{PREFIX}{spec.name}`", spec.type, ", ".join(spec.labels), spec.help) for spec in SPECS]
    return "## Metrics\n\n" + intro + _table(("metric", "type", "labels", "meaning"), rows)


def _log_schema() -> str:
    with TemporaryDirectory() as folder:
        log = EventLog(Path(folder) / "events.duckdb", host="any")
        log.append([Event(1, Kind.GAP)])
        views = log.query(
            "SELECT view_name, comment FROM duckdb_views()"
            " WHERE NOT internal AND NOT temporary AND comment IS NOT NULL ORDER BY ALL"
        )
        columns = log.query(
            "SELECT table_name, string_agg('`' || column_name || '` ' || lower(data_type), ', ' ORDER BY column_index) "
            "FROM duckdb_columns() WHERE NOT internal AND database_name <> 'temp' GROUP BY table_name"
        )
    of = dict(columns)
    intro = (
        "The log is a DuckDB file: query it with `duckdb -readonly events.duckdb`. Collector and pruner read on\n"
        "meanwhile, and append what they record once that shell is closed; without `-readonly` they cannot even read.\n"
        "Times are UTC, sizes bytes.\n\n"
    )
    rows = [(f"`{name}`", comment, of[name]) for name, comment in views]
    return "## The log's tables and views\n\n" + intro + _table(("view", "what it shows", "columns"), rows)


def _command(name: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "typer", f"{name}.cli", "utils", "docs", "--name", name],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "200", "TERM": "dumb", "HOME": "/nonexistent"},
    )
    # One level deeper: the page has its own first heading.
    shown = re.sub(r"^(#+) ", r"#\1 ", done.stdout.strip(), flags=re.MULTILINE)
    return re.sub(r"^## `(\w+)`$", r"## \1", shown, count=1, flags=re.MULTILINE) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Write the page, or check it; the exit status."""
    made = page()
    if "--check" not in arguments:
        PAGE.write_text(made, encoding="utf-8")
        return 0
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == made:
        return 0
    sys.stderr.write(f"{PAGE.relative_to(ROOT)} is not what the code says: run `make reference`\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
