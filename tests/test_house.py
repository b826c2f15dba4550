"""The order of the house: floors, lean imports, documented vocabulary."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from bench import __main__ as bench
from collector.model.events import Kind
from pruner.planning.decision import MEANING, Reason
from pruner.policy.keys import KEYS
from tests import commands
from tools import constants

ROOT = Path(__file__).parents[1]
HEAVY = ("numba", "pandas", "numpy", "pyarrow", "altair", "matplotlib")


def test_imports_run_only_upwards() -> None:
    found = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout


def modules_with(pattern: str) -> set[str]:
    """Which modules of the product have a line that matches."""
    sources = [path for floor in ("collector", "pruner", "analyzer") for path in (ROOT / floor).rglob("*.py")]
    return {str(path.relative_to(ROOT)) for path in sources if re.search(pattern, path.read_text(), flags=re.MULTILINE)}


def test_docker_is_known_at_the_border_and_one_removes() -> None:
    assert modules_with(r"^\s*(import docker\b|from docker\b)") == {
        "collector/engine/api.py",
        "collector/engine/client.py",
        "collector/engine/connection.py",
    }
    removes = r"\.(remove_(image|container|volume)|prune_(builds|build_cache|images|containers|volumes))\("
    # The doctor's probe removes what it made; the removal client is the remover's alone.
    assert modules_with(removes) == {
        "collector/engine/probe.py",
        "pruner/removal/client.py",
        "pruner/removal/remover.py",
    }
    assert modules_with(r"\bDockerRemovingEngine\(") == {"pruner/cli.py", "pruner/removal/client.py"}


@pytest.mark.parametrize(
    "modules", ["collector.cli, collector.daemon.loop", "pruner.cli, pruner.removal.executor, pruner.state.survey"]
)
def test_what_runs_on_the_runner_stays_lean(modules: str) -> None:
    script = f"import sys, {modules}; print([name for name in {HEAVY!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("command", ["collector", "analyzer", "pruner"])
def test_commands_say_version_and_completion(command: str) -> None:
    program = Path(sys.executable).with_name(command)
    shown = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"docker-hindsight \d+\.\d+\.\d+\n", shown.stdout)
    assert "--install-completion" in commands.run(command, "--help").stdout


def test_every_kind_reason_and_key_says_what_it_means() -> None:
    assert all(kind.traits.meaning for kind in Kind)
    assert set(MEANING) == set(Reason)
    assert all(key.help for key in KEYS.values())


def test_the_analyzer_says_what_it_needs_where_that_is_not_installed() -> None:
    script = (
        "import sys; sys.modules['numpy'] = None; sys.argv = ['analyzer', 'demo']; import analyzer.cli as c; c.main()"
    )
    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert found.stderr == (
        "analyzer: numpy is not installed: on the machine where you simulate, install 'docker-hindsight[analyzer]'\n"
    )


@pytest.mark.parametrize("command", ["collector", "analyzer", "pruner"])
def test_the_list_of_commands_cuts_no_summary(command: str) -> None:
    shown = commands.run(command, "--help", columns=80)
    assert "Commands:" in shown.stdout
    assert "..." not in shown.stdout.partition("Commands:")[2]


def test_the_kernel_has_the_constants_of_python() -> None:
    assert constants.HEADER.read_text(encoding="utf-8") == constants.header(), "run `make reference`"


# Words that no operator would use, each with a better one.
WORDS = {
    r"told|tells?|telling|untold": "reported, shown, known",
    r"witness\w*": "observed, coverage",
    r"side-bands?": "job source",
    r"spells?": "period",
    r"mend(?:s|ed|ing)?": "fix",
    r"anew": "again",
    r"at hand": "available",
    r"as soon as may be": "as soon as possible",
    r"as far as known": "if known",
    r"evened out": "normalised",
    r"registry can give": "exists only on this host",
    r"full to the last block": "completely full",
    r"what others do": "baselines",
    r"made-up": "synthetic",
    r"bears?|bore": "has, carries",
    r"for ever": "forever",
    r"shall": "must, is to",
    r"for want of": "for lack of",
    r"(?:can )?be had": "is available",
    r"silent of": "does not report",
    r"(?:said|asked) of": "stated for, found by asking",
    r"minds? no": "ignores",
    r"hence|thus|lest|whence|wherein|thereof": "so, therefore, or",
    r"go(?:es)? over it": "overrides it",
    r"(?:is|are) there already": "already exists",
    r"in the moment": "at the moment",
    r"stands there": "appears",
    r"let it end": "wait for it to end",
    r"time of storing": "pull time",
    r"goes? so long": "is removed this long",
    r"(?:the engine|it) last said": "last reported",
    r"goes? on where": "continues where",
    r"keeps? to (?:the constraints|what is asked)": "meets",
    r"besides(?=[.,;:)])|amid|of late(?! events)|in vain": "also, during, recently, without result",
    r"nobody said|so manieth|likest": "not given, of that number, most similar",
    r"tak(?:e|es|en|ing) up (?:an|the|what|where|how)": "process, restore, continue",
    r"also if nothing": "even if nothing",
    r"(?:it|that|address) is (?-i:none)": "is not one, is invalid",
    r"is no (?:file|duration|digest|size|address|TOML|JSON|message)": "is not a",
    r"(?<!there )(?:is|are|be) no (?:log|time|part|fault|numbers?|rival)": "is not a",
}
# The key under which the log has known facts about jobs from its beginning.
KEPT_WORDS = {"collector/job_sources/ingest.py": 'identity=f"side-band {kind}'}


TEXTS = {
    ".py",
    ".md",
    ".html",
    ".js",
    ".css",
    ".ipynb",
    ".c",
    ".h",
    ".sh",
    ".yml",
    ".yaml",
    ".toml",
    ".json",
    ".service",
    ".timer",
}


def is_script(path: Path) -> bool:
    """Whether a file without a suffix is a script."""
    return path.is_file() and not path.suffix and path.read_bytes()[:2] == b"#!"


def test_what_users_and_developers_read_is_plain_english() -> None:
    places = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "Makefile", "Dockerfile")]
    for folder in ("collector", "pruner", "analyzer", "bench", "tools", "docs", "notebooks", "packaging", ".ci"):
        places += [path for path in (ROOT / folder).rglob("*") if path.suffix in TEXTS or is_script(path)]
    unwanted = re.compile(rf"\b(?:{'|'.join(WORDS)})\b", re.IGNORECASE)
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in places
        if path.name != "charts.js"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if unwanted.search(line.replace("_", " ")) and KEPT_WORDS.get(str(path.relative_to(ROOT)), "\0") not in line
    ]
    assert found == [], "see WORDS in tests/test_house.py for better ones"


# What one name stands for in two rooms, and why.
SHARED_NAMES = {
    "Cost": "of a project: as the audit counts it, and as the report shows it",
    "Lookups": "the protocol, and what fulfils it",
    "Presence": "which images were there: as observed, and as recorded",
    "Removal": "planned, and simulated",
    "Row": "of a table on the terminal, and on the page",
    "Table": "on the terminal, and on the page",
}


def test_a_name_of_a_class_means_one_thing() -> None:
    sources = [path for floor in ("collector", "pruner", "analyzer") for path in (ROOT / floor).rglob("*.py")]
    names = Counter(
        node.name
        for path in sources
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert {name for name, count in names.items() if count > 1} <= SHARED_NAMES.keys()


def test_names_of_tests_are_plain_english() -> None:
    unwanted = re.compile(rf"\b(?:{'|'.join(WORDS)})\b")
    names = {
        name
        for path in (ROOT / "tests").rglob("*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert [name for name in sorted(names) if unwanted.search(name.replace("_", " "))] == []


def test_each_benchmark_can_be_run_and_says_of_what_it_is() -> None:
    for name in bench.NAMES:
        text = (ROOT / "bench" / f"{name}.py").read_text(encoding="utf-8")
        made = {one.name for one in ast.parse(text).body if isinstance(one, ast.FunctionDef)}
        assert made & {"main", "run"}, name
        assert re.search(rf"^  {name} +\w", bench.usage(), re.MULTILINE)
