"""What a plan says to an operator: short, with what stands in the way, what would go next, and the next step."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from collector.model.origin import Origin
from collector.terminal.console import Format
from pruner.planning.held_back import held_back
from pruner.planning.plan import plan
from pruner.policy.policy import BuildCache, Policy, Space
from pruner.report.terminal import plan_as_json, print_plan, print_story
from pruner.state.inventory import BuildCacheUsage, CacheRecord, Inventory
from pruner.state.learning import Learned
from tests.pruner.test_stages import DAY, MB, NOW, container, image, inventory, policy, volume

SHARED = ("shared", 5 * MB)


def full_host() -> Inventory:
    """A host on which each rule keeps something: two young images share a layer, one of them with a local one."""
    young = [replace(image(f"young{k}", 0.5), layers=((f"young{k}", 10 * MB), SHARED)) for k in range(2)]
    local = replace(image("local", 50), origin=Origin.LOCAL, layers=(("local", 7 * MB), SHARED))
    busy = image("busy", 0, containers=1)
    state = inventory(
        [*young, local, busy, image("base", 20), image("gone", 60)],
        (replace(container("c", 0, state="running"), image=busy.image_id), container("fresh", 1, size=3 * MB)),
        (volume("data", "named", 99, 4 * MB), volume("new", "anonymous", 0.1, 2 * MB)),
    )
    return replace(state, build_cache=BuildCacheUsage((CacheRecord(6 * MB, NOW - DAY),)))


def test_what_each_rule_holds_back_and_what_would_give_it() -> None:
    chosen = replace(policy(99), emergency=policy(1).threshold, build_cache=BuildCache(keep=8 * MB))
    made = plan(chosen, full_host())
    assert [(one.rule, one.count, one.bytes) for one in held_back(made)] == [
        # The layer that the local image holds, too, comes free only with that.
        ("min_age", 2, 20 * MB),
        ("containers", 1, 10 * MB),
        ("allowlist", 1, 10 * MB),
        ("local_images", 1, 7 * MB),
        ("build_cache.keep", 1, 6 * MB),
        ("named volumes", 1, 4 * MB),
        ("containers' grace", 1, 3 * MB),
        ("volumes.anonymous_age", 1, 2 * MB),
    ]
    assert held_back(made)[0].remedy == "--min-age 0s"
    assert plan_as_json(made)["held_back"][0] == {
        "rule": "min_age",
        "count": 2,
        "bytes": 20 * MB,
        "remedy": "--min-age 0s",
    }


def test_the_option_that_is_named_gives_what_is_named() -> None:
    given = replace(policy(99), min_age=0.0)
    made = plan(given, full_host())
    assert "min_age" not in [one.rule for one in held_back(made)]
    assert made.frees - plan(policy(99), full_host()).frees == 20 * MB


def test_a_plan_folds_what_stays_and_ends_with_the_next_step(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    made = plan(replace(policy(99), emergency=policy(1).threshold), full_host())
    print_plan(made)
    shown = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in shown]
    # The layer that both share counts once.
    assert ["2", "image", "23.8", "MiB", "used", "or", "pulled", "within", "min_age"] in rows
    assert sum("gone:1" in line for line in shown) == 1
    assert "2.5 d ago" in next(line for line in shown if "gone:1" in line)
    assert any(line.startswith("allowlist: it keeps 1 image now; allowlisted images go, after all") for line in shown)
    assert any(line.startswith("held back: min_age 19.1 MiB (--min-age 0s)") for line in shown)
    assert shown[-1].startswith("next: `pruner run` with the same options")
    print_plan(made, everything=True, truncate=False)
    shown = capsys.readouterr().out.splitlines()
    assert sum("young0:1" in line or "young1:1" in line for line in shown) == 2
    assert made.verdicts[0].image.image_id in "\n".join(shown)


def test_a_plan_with_enough_space_names_what_would_go_next(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    print_plan(plan(policy(1), inventory([image("a", 60), image("b", 50), image("young", 0.1)])))
    shown = capsys.readouterr().out.splitlines()
    assert "if space ran out, these would go next: a:1 (9.54 MiB), b:1 (9.54 MiB)" in shown
    assert shown[-1].startswith("next: nothing to do")


@pytest.mark.parametrize(
    ("state", "step"),
    [
        (inventory([image("young", 0.1)]), "next: choose one of the options above"),
        (inventory([]), "next: no option alone would free more"),
    ],
)
def test_a_plan_that_removes_nothing_refers_to_options_only_where_it_names_some(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, state: Inventory, step: str
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    print_plan(plan(policy(99), state))
    shown = capsys.readouterr().out.splitlines()
    assert shown[-1].startswith(step)
    assert any(line.startswith("held back: ") for line in shown) is ("above" in step)


def test_an_automatic_minimum_age_says_where_it_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    output = replace(
        policy(1), min_age=600.0, min_age_evidence="99% of 60 pulls were followed by a container within 3 min"
    )
    made = plan(output, inventory([image("a", 60)]))
    print_plan(made)
    print_story(made, "a:1")
    line = "10 min (auto): 99% of 60 pulls were followed by a container within 3 min"
    shown = " ".join(capsys.readouterr().out.split())
    assert f"min age {line}" in shown
    assert shown.endswith(f"min age {line}")
    assert (made.to_json()["min_age_seconds"], made.to_json()["min_age_evidence"]) == (600.0, output.min_age_evidence)


def test_an_explanation_names_what_the_forecast_goes_by(capsys: pytest.CaptureFixture[str]) -> None:
    known = replace(image("a", 60), uses=3, gap=7200.0, superseded=0.0, recent=40)
    for order, says in (("lru", False), ("forecast", True)):
        print_story(plan(replace(policy(99), order=order), inventory([known])), "a:1")
        shown = " ".join(capsys.readouterr().out.split())
        line = "usually for 2 h, superseded by a later image, used 3 times, its repository 40 times in 28 days"
        assert (line in shown) is says


def test_an_image_is_explained_to_machines_too(capsys: pytest.CaptureFixture[str]) -> None:
    made = plan(policy(99), inventory([image("a", 60), image("b", 50)]))
    print_story(made, "a:1", Format.JSON)
    (found,) = json.loads(capsys.readouterr().out)
    verdict = next(one for one in made.verdicts if one.image.name == "a:1")
    assert (found["removed"], found["reason"], found["detail"]) == (True, "evict", verdict.detail)
    assert (found["references"], found["frees_bytes"]) == (["a:1"], verdict.frees)


def test_a_plan_says_what_its_order_stands_on(capsys: pytest.CaptureFixture[str]) -> None:
    state, chosen = inventory([image("gone", 60)]), replace(policy(99), order="forecast")
    print_plan(plan(chosen, state))
    assert "order forecast: nothing learned here yet, so general experience" in capsys.readouterr().out
    counted = Learned(returns=(3.0, *Learned().returns[1:]))
    print_plan(plan(chosen, replace(state, learned=counted)))
    assert "order forecast: learned from 3 returns of images, beside" in capsys.readouterr().out
    print_plan(plan(replace(chosen, order="lru"), state))
    assert "order lru" not in capsys.readouterr().out


def test_a_plan_says_which_file_each_value_is_from(capsys: pytest.CaptureFixture[str]) -> None:
    given = (("threshold", "/etc/base.toml"), ("min_age", "/etc/base.toml"), ("target", "command line"))
    print_plan(plan(replace(policy(99), min_age=60.0, target=Space.parse("99%"), sources=given), full_host()))
    shown = " ".join(capsys.readouterr().out.split())
    assert "min_age = 1min (/etc/base.toml); target = 99% (command line)" in shown
    print_plan(plan(replace(Policy(), sources=given[:2]), full_host()))
    assert "policy: the defaults (/etc/base.toml)" in " ".join(capsys.readouterr().out.split())
    print_plan(plan(replace(policy(99), sources=given[2:]), full_host()))
    assert "policy: " not in capsys.readouterr().out
