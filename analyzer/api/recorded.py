"""What a history recorded, as DataFrames."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analyzer.api.histories import History
from analyzer.trace.trace import Floats, Trace
from collector.model.traits import Use


def uses(history: History) -> pd.DataFrame:
    """Every observed use: `time`, `until` (NaT while it lasts), `image`, `image_id`, `evidence`, `image_bytes`."""
    trace = history.trace
    return pd.DataFrame(
        {
            "time": times(trace, trace.time),
            "until": times(trace, trace.until),
            "image": pd.Series([trace.name(i) for i in range(trace.images)], dtype=str).take(trace.image).to_numpy(),
            "image_id": np.array(trace.image_ids, dtype=object)[trace.image],
            "evidence": np.array([kind.name.lower() for kind in Use], dtype=object)[trace.kind],
            "image_bytes": trace.image_bytes[trace.image],
        }
    )


def images(history: History) -> pd.DataFrame:
    """Every image: its name, bytes (`own_bytes`: of layers that no other image ever has), uses, first and last use."""
    trace = history.trace
    holders = np.bincount(trace.layer, minlength=len(trace.layer_bytes))
    alone = np.where(holders == 1, trace.layer_bytes, 0)
    sums = np.concatenate(([0], np.cumsum(alone[trace.layer])))
    demanded = trace.demanded
    first, last = np.full(trace.images, np.inf), np.full(trace.images, -np.inf)
    np.minimum.at(first, trace.image[demanded], trace.time[demanded])
    np.maximum.at(last, trace.image[demanded], np.minimum(trace.until[demanded], trace.end))
    return pd.DataFrame(
        {
            "image": [trace.name(i) for i in range(trace.images)],
            "image_id": list(trace.image_ids),
            "image_bytes": trace.image_bytes,
            "own_bytes": sums[trace.first[1:]] - sums[trace.first[:-1]],
            "uses": np.bincount(trace.image[demanded], minlength=trace.images),
            "first_use": times(trace, first),
            "last_use": times(trace, last),
            "local": trace.local,
        }
    )


def disk(history: History) -> pd.DataFrame:
    """The disk over time, as recorded: `time`, `total_bytes`, `other_bytes` (held by something else than images)."""
    trace = history.trace
    return pd.DataFrame(
        {
            "time": times(trace, trace.disk_time),
            "total_bytes": trace.disk_total,
            "other_bytes": trace.disk_other,
            "total_inodes": trace.inode_total,
            "other_inodes": trace.inode_other,
        }
    )


def gaps(history: History) -> pd.DataFrame:
    """The intervals in which nothing was observed: `began`, `ended`."""
    trace = history.trace
    return pd.DataFrame({"began": times(trace, trace.blind[:, 0]), "ended": times(trace, trace.blind[:, 1])})


def times(trace: Trace, seconds: Floats) -> pd.DatetimeIndex:
    """UTC times of seconds after the trace's origin; NaT where there is no end."""
    known = np.isfinite(seconds)
    whole = np.where(known, seconds, 0.0)
    nanoseconds = trace.origin_ns + np.round(whole * 1e9).astype(np.int64)
    nanoseconds[~known] = np.iinfo(np.int64).min  # NaT
    return pd.DatetimeIndex(nanoseconds.astype("datetime64[ns]"), tz="UTC")
