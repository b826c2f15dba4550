"""The panels of Grafana's dashboards of one host and of a fleet."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from typing import Any, NamedTuple

JSON = dict[str, Any]
Steps = tuple[tuple[str, float | None], ...]
_LINES = {"drawStyle": "line", "lineWidth": 1, "fillOpacity": 8, "showPoints": "never", "spanNulls": 300_000}
_BARS = {
    "drawStyle": "bars",
    "lineWidth": 1,
    "fillOpacity": 70,
    "showPoints": "never",
    "stacking": {"mode": "normal", "group": "A"},
}


class Form(StrEnum):
    """How a panel shows its figures, by Grafana's name for it."""

    NUMBER = "stat"
    LINES = "timeseries"
    BARS = "bargauge"


class Panel(NamedTuple):
    """One panel.

    Attributes:
        title: What it shows.
        meaning: The text behind its (i).
        place: Its left edge, top, width and height in Grafana's grid of 24 columns.
        queries: Expressions, each with its legend; an `@` in them selects the hosts that are chosen above the
            panels, and a `#` stands for `docker_hindsight_`.
        unit: Grafana's name of the unit.
        steps: Colours, each with the value that it begins at.
        form: How it is shown.
        defaults: Further defaults of its fields.
        overrides: By a query's letter, what is drawn differently.
        drawn: How lines are drawn.
    """

    title: str
    meaning: str
    place: tuple[int, int, int, int]
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    steps: Steps = (("green", None),)
    form: Form = Form.LINES
    defaults: JSON = {}  # noqa: RUF012 - never written to
    overrides: JSON = {}  # noqa: RUF012 - never written to
    drawn: JSON = _LINES


_FIGURE, _BAR_CHART = partial(Panel, form=Form.NUMBER), partial(Panel, form=Form.BARS)
_SHARE = {"min": 0, "max": 1, "decimals": 1}
HOST = (
    _FIGURE(
        "Free",
        "Share of the engine's file system that is free. Pruning starts under the policy's threshold: see below.",
        (0, 0, 6, 4),
        (("#disk_free_bytes{@} / #disk_size_bytes{@}", "{{instance}} {{file_system}}"),),
        unit="percentunit",
        steps=(("red", None), ("orange", 0.1), ("green", 0.2)),
        defaults=_SHARE,
    ),
    _FIGURE(
        "Observed, 7 days",
        "Share of the last 7 days that the collector saw; a young log has seen less.",
        (6, 0, 6, 4),
        (('#coverage_ratio{@,window="7d"}', "{{instance}}"),),
        unit="percentunit",
        steps=(("text", None), ("green", 0.99)),
        defaults=_SHARE,
    ),
    _FIGURE(
        "Least recent use",
        "Age of the last use of the least recently used image: the longer, the more room there is.",
        (12, 0, 6, 4),
        (("#least_recent_use_age_seconds{@}", "{{instance}}"),),
        unit="s",
        steps=(("orange", None), ("green", 86_400)),
    ),
    _FIGURE(
        "Since the pruner ran, and since it had enough space",
        "It runs every five minutes, even if there is nothing to do.",
        (18, 0, 6, 4),
        (
            ("time() - #pruner_last_run_timestamp_seconds{@}", "ran"),
            ("time() - #pruner_last_reached_timestamp_seconds{@}", "had enough space"),
        ),
        unit="s",
        steps=(("green", None), ("orange", 900), ("red", 3600)),
    ),
    Panel(
        "Free space and threshold",
        "Free space of the engine's file system, and where pruning starts.",
        (0, 4, 12, 9),
        (
            ("#disk_free_bytes{@}", "{{instance}} {{file_system}} free"),
            ("#threshold_bytes{@}", "{{instance}} {{file_system}} threshold"),
        ),
        unit="bytes",
        overrides={
            "B": {
                "custom.lineStyle": {"fill": "dash", "dash": [8, 6]},
                "custom.fillOpacity": 0,
                "color": {"mode": "fixed", "fixedColor": "red"},
            }
        },
    ),
    Panel(
        "What fills the disk",
        "Layers of images (own, shared, all), containers, volumes, build cache, and bytes unaccounted for.",
        (12, 4, 12, 9),
        (
            ("#image_own_bytes{@}", "{{instance}} images, own"),
            ("#image_shared_bytes{@}", "{{instance}} images, shared"),
            ("#image_bytes{@}", "{{instance}} images, all"),
            ("#container_bytes{@}", "{{instance}} containers"),
            ("#volume_bytes{@}", "{{instance}} volumes"),
            ("#build_cache_bytes{@}", "{{instance}} build cache"),
            ("#unaccounted_bytes{@}", "{{instance}} unaccounted"),
        ),
        unit="bytes",
        overrides={"C": {"custom.lineWidth": 2, "custom.fillOpacity": 0}},
    ),
    Panel(
        "Pulled again",
        "Layers pulled again because their image had been removed: the cost of pruning.",
        (0, 13, 12, 8),
        (("rate(#repulled_bytes_total{@}[$__rate_interval])", "{{instance}}"),),
        unit="binBps",
    ),
    Panel(
        "Images pulled again, and removed",
        "Per hour.",
        (12, 13, 12, 8),
        (
            ("increase(#repulls_total{@}[1h])", "{{instance}} pulled again"),
            ('sum by (instance) (increase(#prune_items_total{@,result="removed"}[1h]))', "{{instance}} removed"),
        ),
    ),
    Panel(
        "Freed by prunes",
        "Per hour.",
        (0, 21, 8, 8),
        (("increase(#prune_freed_bytes_total{@}[1h])", "{{instance}}"),),
        unit="bytes",
    ),
    Panel(
        "Prunes by outcome",
        "Per hour.",
        (8, 21, 8, 8),
        (
            ("increase(#prunes_total{@}[1h])", "{{instance}} {{outcome}}"),
            ("increase(#pruner_fruitless_runs_total{@}[1h])", "runs that removed nothing"),
        ),
    ),
    Panel(
        "Images",
        "Images by state, and containers.",
        (16, 21, 8, 8),
        (
            ("#images{@}", "{{instance}} {{state}}"),
            ("#containers{@}", "{{instance}} containers"),
        ),
    ),
    Panel(
        "Events",
        "What the engine and prunes did; kinds without events are left out.",
        (0, 29, 8, 8),
        (("sum by (instance, kind) (rate(#events_total{@}[$__rate_interval])) > 0", "{{instance}} {{kind}}"),),
        unit="ops",
        drawn=_BARS,
    ),
    Panel(
        "On the way to the log",
        "Waiting events: for more than a moment only if the log cannot be written. And damaged logs, set aside.",
        (8, 29, 8, 8),
        (
            ("#pending_events{@}", "{{instance}} in memory"),
            ("#spooled_events{@}", "{{instance}} in the spool"),
            ("#damaged_logs{@}", "{{instance}} damaged logs"),
        ),
    ),
    Panel(
        "Lag and blindness",
        "Age of the oldest event not yet stored; time not observed.",
        (16, 29, 8, 8),
        (
            ("#lag_seconds{@}", "{{instance}} lag"),
            ("increase(#gap_seconds_total{@}[1h])", "{{instance}} blind per hour"),
        ),
        unit="s",
    ),
    Panel(
        "Free inodes",
        "0 where the file system has no limit.",
        (0, 37, 12, 7),
        (
            ("#disk_free_inodes{@}", "{{instance}} {{file_system}} free"),
            ("#disk_inodes{@}", "{{instance}} all"),
        ),
    ),
    Panel(
        "Event log",
        "Size of the log.",
        (12, 37, 12, 7),
        (("#log_size_bytes{@}", "{{instance}}"),),
        unit="bytes",
    ),
)


_PULLED = "#project_pulled_bytes_total"
FLEET = (
    _FIGURE(
        "Hosts",
        "Hosts that report metrics.",
        (0, 0, 4, 4),
        (("fleet:#hosts:count", "hosts"),),
        steps=(("text", None),),
    ),
    _FIGURE(
        "Under threshold",
        "Hosts with less free than their pruner keeps free.",
        (4, 0, 4, 4),
        (("sum(instance:#under_threshold:bool) or vector(0)", "hosts"),),
        steps=(("green", None), ("red", 1)),
    ),
    _FIGURE(
        "Blind",
        "Hosts whose collector does not see what the engine does, or has not answered since yesterday.",
        (8, 0, 4, 4),
        (("sum(instance:#blind:bool) or vector(0)", "hosts"),),
        steps=(("green", None), ("red", 1)),
    ),
    _FIGURE(
        "Freed, 24 hours",
        "By prunes on all hosts.",
        (12, 0, 6, 4),
        (("sum(increase(#prune_freed_bytes_total[1d]))", "freed"),),
        unit="bytes",
        steps=(("text", None),),
    ),
    _FIGURE(
        "Pulled again, 24 hours",
        "Layers pulled again on all hosts because their image had been removed.",
        (18, 0, 6, 4),
        (("sum(increase(#repulled_bytes_total[1d]))", "pulled again"),),
        unit="bytes",
        steps=(("text", None),),
    ),
    _BAR_CHART(
        "Least free: the worst 20",
        "Share of the disk that is free, of the tightest file system of each host.",
        (0, 4, 12, 16),
        (("sort(bottomk(20, instance:#disk_free:ratio))", "{{instance}}"),),
        unit="percentunit",
        steps=(("red", None), ("orange", 0.05), ("green", 0.15)),
        defaults={"min": 0, "max": 1},
    ),
    Panel(
        "Free: the worst, the median, the best",
        "Over all hosts, of the tightest file system of each.",
        (12, 4, 12, 8),
        (
            ("min(instance:#disk_free:ratio)", "worst"),
            ("quantile(0.5, instance:#disk_free:ratio)", "median"),
            ("max(instance:#disk_free:ratio)", "best"),
        ),
        unit="percentunit",
        steps=(("text", None),),
    ),
    Panel(
        "Freed and pulled again per hour",
        "Sums over all hosts: what pruning gives, and what it costs.",
        (12, 12, 12, 8),
        (
            ("fleet:#freed_bytes:increase1h", "freed"),
            ("fleet:#repulled_bytes:increase1h", "pulled again"),
        ),
        unit="bytes",
        steps=(("text", None),),
    ),
    _BAR_CHART(
        "Under threshold, or blind",
        "The first 20 of each.",
        (0, 20, 12, 8),
        (
            ("topk(20, instance:#under_threshold:bool == 1)", "{{instance}} under threshold"),
            ("topk(20, instance:#blind:bool == 1)", "{{instance}} blind"),
        ),
        steps=(("green", None), ("red", 1)),
        defaults={"min": 0},
    ),
    _BAR_CHART(
        "Versions and policies in use",
        "Hosts by the version that runs there, and by the policy of their latest prune.",
        (12, 20, 12, 8),
        (
            ("sort_desc(version:#hosts:count)", "{{version}}, engine {{engine}}"),
            ("topk(20, policy:#hosts:count)", "{{policy}}"),
        ),
        steps=(("text", None),),
        defaults={"min": 0},
    ),
    _BAR_CHART(
        "Pulled for projects, 24 hours",
        "The 50 largest projects, and the others together. Of each host the 50 largest are counted by name.",
        (0, 28, 24, 16),
        (
            (f"topk(50, sum by (project) (increase({_PULLED}[1d])))", "{{project}}"),
            (
                f"sum(increase({_PULLED}[1d])) - sum(topk(50, sum by (project) (increase({_PULLED}[1d])))) > 0",
                "all others",
            ),
        ),
        unit="bytes",
        steps=(("text", None),),
        defaults={"min": 0},
    ),
    Panel(
        "Pulled again for projects per hour",
        "The ten with the most bytes.",
        (0, 44, 24, 9),
        (('topk(10, project:#pulled_bytes:increase1h{pull="again"})', "{{project}}"),),
        unit="bytes",
        steps=(("text", None),),
    ),
)
