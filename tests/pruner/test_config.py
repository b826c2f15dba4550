"""The policy file: what it takes, what it refuses and how it says so."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from collector.model import environment
from collector.model.errors import EngineError, UsageError
from pruner.cli import app
from pruner.policy.file import (
    COMMAND_LINE,
    SECTIONS,
    load_policy,
    policy_from,
    read_policy,
    recorded_policy,
    to_json,
    to_toml,
)
from pruner.policy.keys import KEYS
from pruner.policy.policy import BuildCache, Policy, Space, Volumes


def test_a_written_policy_reads_back(tmp_path: Path) -> None:
    policy = replace(
        Policy(),
        threshold=Space.parse("50GB"),
        emergency=Space.parse("never"),
        allowlist=("registry.example.org/mesa/*", "re:debian:1[0-9]"),
        min_age=90.0,
        order="pulled",
        job_slots=6,
        volumes=Volumes(named=("ci-*",), cache_age=86400.0),
        build_cache=BuildCache(enabled=False, keep=2**30),
    )
    path = tmp_path / "policy.toml"
    path.write_text(to_toml(policy))
    assert load_policy(path) == policy


def test_every_field_of_the_policy_is_a_key() -> None:
    fields = set()
    for name in (field.name for field in dataclasses.fields(Policy) if field.compare):
        inner = getattr(Policy(), name)
        fields |= {f"{name}.{key.name}" for key in dataclasses.fields(inner)} if name in SECTIONS else {name}
    assert set(KEYS) == fields


def test_a_policy_says_all_its_values_as_they_stand_in_a_file() -> None:
    policy = policy_from({"volumes": {"named": ["ci-*"]}, "build_cache.keep": "1500MB", "job_slots": 3}, "test")
    said = to_json(policy)
    assert set(said) == set(KEYS)
    assert (said["build_cache.keep"], said["containers.grace"], said["target"]) == ("1500MB", "1d", None)
    assert policy_from({name: value for name, value in said.items() if value is not None}, "test") == policy


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"threshold": "200%"}, "--threshold 200%: '200%' is not between 0% and 100%"),
        ({"volumes.named_age": "x"}, "--volumes-named-age x: 'x' is not a duration"),
        ({"allowlist": ["re:("]}, "--allowlist: allowlist entry 're:('"),
    ],
)
def test_what_is_wrong_with_an_option_names_the_option(values: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        policy_from(values, COMMAND_LINE)
    assert str(caught.value).startswith(words)


def test_options_are_named_after_the_keys() -> None:
    runner = CliRunner()
    shown = runner.invoke(app, ["run", "--build-cache-keep", "much"])
    assert isinstance(shown.exception, UsageError)
    assert str(shown.exception).startswith("--build-cache-keep much: ")
    shown = runner.invoke(app, ["plan", "--volumes-enabled", "perhaps"])
    assert "must be true or false" in str(shown.exception)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("treshold = '10%'", "unknown key 'treshold'"),
        ("threshold = '101%'", "not between 0% and 100%"),
        ("threshold = '-3%'", "not between 0% and 100%"),
        ("threshold = 'much'", "is not free space"),
        ("threshold = 10", "'10' has no unit: write 10% for a share, 10GB or 10B for a size"),
        ("threshold = '10'", "'10' has no unit"),
        ("threshold = 2.5", "'2.5' has no unit"),
        ("threshold = '2/job'", "'2' has no unit"),
        ("emergency = 3", "'3' has no unit"),
        ("min_age = 5", "'5' has no unit: write a duration (such as 90s"),
        ("build_cache = { keep = 10 }", "'10' has no unit: write a size"),
        ("inode_threshold = '1GB'", "is not free inodes"),
        ("threshold = 'never'", "only for `emergency`"),
        ("threshold = true", "must be free space"),
        ("threshold = '10%'\ntarget = '5%'", "threshold = 10% must not be more than target = 5%"),
        ("threshold = '10%'\nemergency = '20%'", "emergency = 20% must not be more than threshold = 10%"),
        ("order = 'random'", "must be one of lru"),
        ("min_age = 'soon'", "is not a duration"),
        ("interval = 0", "at least 1s"),
        ("allowlist = 'mesa/*'", "must be a list"),
        ("allowlist = ['re:[']", "is not a regular expression"),
        ("allowlist = ['']", "entry is empty"),
        ("local_images = 'drop'", "must be one of superseded, keep, evict"),
        ("threshold 10%", "is not valid TOML"),
        ("[containers]\ngrase = '1h'", "unknown key 'containers.grase'"),
        ("[contaners]\ngrace = '1h'", "unknown key 'contaners.grace'"),
        ("containers = false", "is a section"),
        ("containers.enabled = 1", "must be true or false"),
        ("[volumes]\nnamed = ['re:(']", "is not a regular expression"),
        ("[volumes]\ncache_age = -1", "is not a duration"),
        ("[build_cache]\nkeep = '-1'", "is not a size"),
        ("job_slots = 0", "at least 1"),
        ("job_slots = 99999999999999999999", "at most 1000000"),
        ("job_slots = 'many'", "whole number"),
        ("runner_config = 'config.toml'", "absolute path"),
    ],
)
def test_bad_policies_name_key_value_and_file(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as raised:
        load_policy(path)
    message = str(raised.value)
    assert says in message
    assert str(path) in message
    assert "\n" not in message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no policy file"):
        load_policy(tmp_path / "none.toml")


def test_levels_in_different_units_are_compared_on_the_disk() -> None:
    policy = policy_from({"threshold": "10%", "target": "50GB"}, "test")
    assert policy.levels(100e9, 0).target[0] == 50e9
    with pytest.raises(ValueError, match="target 50GB is less than threshold 10%"):
        policy.levels(1000e9, 0)


def test_space_per_job_scales_with_free_slots() -> None:
    assert Space.parse("2GB/job").of(100e9, job_slots=4) == 8e9
    assert Space.parse("2GB/job").of(100e9, job_slots=0) == 2e9


DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("entry", "reference", "protected"),
    [
        ("registry.example.org/mesa/*", "registry.example.org/mesa/debian/x86:2024", True),
        ("registry.example.org/mesa/debian", "registry.example.org/mesa/debian:12", True),
        ("registry.example.org/mesa/debian:11", "registry.example.org/mesa/debian:12", False),
        ("debian", "docker.io/library/debian:12", True),
        ("debian:12", "debian:12", True),
        ("re:.*-base:.*", "gst-base:1.2", True),
        ("re:base", "gst-base:1.2", False),
        ("mesa", "mesa@sha256:" + "0" * 64, True),
        ("docker.io/library/debian:12", "debian:12", True),
        ("docker.io/debian:12", "debian:12", True),
        ("index.docker.io/library/debian:*", "docker.io/library/debian:12", True),
        ("docker.io/library/*", "debian:12", True),
        ("docker.io/library/*", "group/debian:12", False),
        ("library/debian", "debian:12", True),
        ("Registry.example.org/Mesa/*:V1", "registry.example.org/mesa/debian:V1", True),
        ("registry.example.org:5000/*:v1", "registry.example.org:5000/mesa:V1", False),
        (f"debian:12@{DIGEST}", f"debian@{DIGEST}", True),
        (f"debian@{DIGEST}", f"debian:12@{DIGEST}", True),
        ("debian:12", f"debian:12@{DIGEST}", True),
        ("debian:latest", "debian", True),
        ("tool:*", "localhost/tool:v1", True),
        ("localhost/tool:v1", "tool:v1", False),
    ],
)
def test_allowlist_entries(entry: str, reference: str, protected: bool) -> None:
    policy = replace(Policy(), allowlist=(entry,))
    assert (policy.protects((reference,)) == entry) is protected


def test_an_older_record_of_a_policy_has_bytes_and_seconds_without_a_unit() -> None:
    found = recorded_policy({"threshold": "1048576", "build_cache.keep": "5", "min_age": "1h", "target": None})
    assert (found.threshold.amount, found.build_cache.keep, found.min_age) == (1048576, 5, 3600)


def test_nothing_needs_no_unit_and_inodes_have_none() -> None:
    policy = policy_from({"threshold": 0, "min_age": 0, "inode_threshold": 1000}, "test")
    assert (policy.threshold.amount, policy.min_age, policy.inode_threshold.amount) == (0, 0, 1000)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("threshold = 10%", 'line 1: put the value in quotes: threshold = "10%"'),
        ("\n[build_cache]\nkeep = 20GB # all of it", 'line 3: put the value in quotes: keep = "20GB"'),
        ("threshold = auto", 'put the value in quotes: threshold = "auto"'),
        ("threshold = 10 % # free", 'line 1: put the value in quotes: threshold = "10 %"'),
        ("threshold = “10%”", 'line 1: put the value in straight quotes: threshold = "10%"'),
        ("order = next-use", 'put the value in quotes: order = "next-use"'),
        ("allowlist = [debian:*, a/b]", 'put each entry in quotes: allowlist = ["debian:*", "a/b"]'),
        ("allowlist = [\n  'a',\n", "is not valid TOML: "),
        ("[containers]\nenabled = True", "line 2: write it in lower case: enabled = true"),
        ("min_age = '1h'\nmin_age = '2h'", "this key is there twice (at "),
        ("treshold = '10%'", "unknown key 'treshold'; did you mean 'threshold'"),
        ("zzz = 1", "unknown key 'zzz'; known are threshold, "),
        ("inlcude = 'base.toml'", "; did you mean 'include'?"),
        ("grace = '1h'", "; did you mean 'containers.grace'?"),
        ("[volumes]\nthreshold = '10%'", "unknown key 'volumes.threshold'; did you mean 'threshold'?"),
        ("include = 3", "include = 3: must be a file, or a list of files"),
        ("include = ['a', 3]", "must be a file, or a list of files"),
        ("include = 'nowhere.toml'", "nowhere.toml, included by "),
        ("include = 'policy.toml'", "leads back to itself"),
        ("include = ''", "must be a file, or a list of files"),
        ('include = "a\\u0000b"', "must be a file, or a list of files"),
        (f"include = '{'x' * 5000}'", "cannot be read: File name too long"),
        ("include = '/dev/zero'", "cannot be read: it is not a regular file"),
        ("include = '/'", "cannot be read: Is a directory"),
        ("a = " + "[" * 5000, "is not valid TOML"),
    ],
)
def test_mistakes_are_answered_with_what_to_do(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    shown = CliRunner().invoke(app, ["check-policy", str(path)])
    assert shown.exit_code == 2
    assert says in shown.stderr
    assert shown.stderr.count("\n") == 1
    with pytest.raises(UsageError):
        load_policy(path)


def test_all_that_is_wrong_is_listed_at_once(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text("treshold = '10%'\nmin_age = 'x'\n[volumes]\nkepp = []\n")
    shown = CliRunner().invoke(app, ["check-policy", str(path)])
    assert [line.partition(": ")[2].partition(" ")[0] for line in shown.stderr.splitlines()] == [f"{path}:"] * 3
    with pytest.raises(UsageError, match="and 2 more"):
        load_policy(path)


def test_what_a_host_says_goes_over_what_its_base_says(tmp_path: Path) -> None:
    base, host = tmp_path / "base.toml", tmp_path / "host.toml"
    base.write_text("threshold = '20%'\nmin_age = '30min'\n[volumes]\nnamed = ['ci-*']\n")
    host.write_text("include = 'base.toml'\nthreshold = '50GB'\n")
    policy = load_policy(host)
    assert (str(policy.threshold), policy.min_age, policy.volumes.named) == ("50GB", 1800.0, ("ci-*",))
    shown = CliRunner().invoke(app, ["check-policy", str(host), "--format", "json"])
    assert shown.exit_code == 0
    output = json.loads(shown.stdout)["from"]
    assert output == {"threshold": str(host), "min_age": str(base), "volumes.named": str(base)}
    table = CliRunner().invoke(app, ["check-policy", str(host)]).stdout
    assert "keys are not set and have their defaults" in table


def test_a_plan_says_where_each_value_is_from(tmp_path: Path) -> None:
    base, host = tmp_path / "base.toml", tmp_path / "host.toml"
    base.write_text("threshold = '20%'\nmin_age = '30min'\n")
    host.write_text("include = 'base.toml'\nthreshold = '50GB'\n")
    policy = policy_from({"target": "60GB"}, COMMAND_LINE, load_policy(host))
    assert dict(policy.sources) == {"threshold": str(host), "min_age": str(base), "target": COMMAND_LINE}


def test_what_others_could_have_written_is_not_included(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, host = tmp_path / "base.toml", tmp_path / "host.toml"
    base.write_text("threshold = '20%'\n")
    host.write_text("include = 'base.toml'\n")
    base.chmod(0o666)
    assert "can be written by everybody" in read_policy(host).faults[0]
    base.chmod(0o644)
    found = Path.stat

    def of_somebody(path: Path, **given: bool) -> os.stat_result:
        fields = list(found(path, **given))
        fields[4] = 4711 if path.name == base.name else fields[4]
        return os.stat_result(fields)

    monkeypatch.setattr(Path, "stat", of_somebody)
    assert "belongs to user 4711" in read_policy(host).faults[0]


def test_files_that_include_each_other_many_times_over_come_to_an_end(tmp_path: Path) -> None:
    for depth in range(8):
        names = [f"{depth + 1}.toml"] * 10 if depth < 7 else []
        (tmp_path / f"{depth}.toml").write_text(f"include = {names}\n")
    assert len(read_policy(tmp_path / "0.toml").faults) == 1


def test_who_may_not_read_the_history_of_this_machine_removes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pruner.cli.hidden_system_log", lambda: "its log is elsewhere: run this with sudo")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none")
    monkeypatch.delenv(environment.LOG, raising=False)
    for command in (["run"], ["run", "--dry-run"], ["run", "--every", "5m"], ["emergency", "--yes"]):
        refused = CliRunner().invoke(app, command).exception
        assert isinstance(refused, UsageError)
        assert "run this with sudo, or name a log with --log" in str(refused)
    assert not list(tmp_path.iterdir())
    # A log that is named, even one that is yet to be made, is the user's own affair.
    named = CliRunner().invoke(app, ["run", "--log", str(tmp_path / "own.duckdb")]).exception
    assert isinstance(named, EngineError)
