"""Whose history a log holds: a host is known by its machine and its engine; its name is a label that may change.

Each host of a log has a key, under which its events are stored; the key is the name that the host had when
the log was made, and never changes. Beside it the table `host` holds what the host is recognised by.
"""

from __future__ import annotations

import hashlib
import os
import socket
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from collector.model import environment
from collector.model.choices import unknown
from collector.model.errors import LogError
from collector.model.events import Event, Kind
from collector.model.observation import EngineInfo
from collector.model.own_container import in_container
from collector.model.paths import read_bytes

if TYPE_CHECKING:
    import duckdb

# Machine IDs are confidential (machine-id(5)): only hashes of them that nobody else makes are kept.
_SALT = b"docker-hindsight"
_MACHINE_ID = Path("/etc/machine-id")
_HARDWARE_ID = Path("/sys/class/dmi/id/product_uuid")
# What images and makers of boards leave where an ID should be is that of many machines.
_NO_IDS = frozenset(
    {
        *(b"", b"uninitialized", b"not settable", b"not present"),
        *(b"03000200-0400-0500-0006-000700080009", b"00020003-0004-0005-0006-000700080009"),
        *(b"12345678-1234-5678-90ab-cddeefaabbcc", b"0" * 32, b"f" * 32),
        *(b"00000000-0000-0000-0000-000000000000", b"ffffffff-ffff-ffff-ffff-ffffffffffff"),
    }
)


@dataclass(frozen=True, slots=True)
class Identity:
    """What a host is recognised by; None: not known.

    Attributes:
        name: its name, a label only.
        machine: hash of the machine ID.
        hardware: hash of the hardware's own ID, which only root may read.
        engine: the engine's own ID; Podman has none.
        data_root: the engine's data root.
    """

    name: str
    machine: str | None = None
    hardware: str | None = None
    engine: str | None = None
    data_root: str | None = None

    def is_same_machine(self, other: Identity) -> bool | None:
        """Whether both are one machine; None: not known."""
        for mine, theirs in ((self.hardware, other.hardware), (self.machine, other.machine)):
            if mine is not None and theirs is not None:
                return mine == theirs
        return None

    def doubt(self, here: Identity) -> str | None:
        """Why this may not be the host that is here; None: it is."""
        machine = self.is_same_machine(here)
        if machine is False:
            return "it was recorded on another machine: it was copied, or this machine is a clone"
        if self.engine is not None and here.engine is not None:
            # Removing all of a data root gives the engine a new ID and leaves the host what it was.
            same_place = machine is True and self.data_root == here.data_root
            if self.engine != here.engine and not same_place:
                return f"it was recorded on another engine (ID {self.engine}, not {here.engine})"
            return None
        # Podman has no ID: the log of one engine would go on with what another holds.
        if self.data_root is not None and here.data_root not in {None, self.data_root}:
            return f"it was recorded on another engine (data root {self.data_root}, not {here.data_root})"
        if machine is None and self.name != here.name:
            return f"only its name says whose it is, and this host is called '{here.name}'"
        return None

    def updated(self, here: Identity) -> Identity:
        """What is known of the host with what is seen here."""
        seen = {field: value for field, value in asdict(here).items() if value is not None}
        if here.data_root is not None:
            seen["engine"] = here.engine  # of an engine that has an ID, or of Podman
        return replace(self, **seen)


@dataclass(frozen=True, slots=True)
class KnownHost:
    """One host of a log: the key of its events, its own ID, and what it is recognised by."""

    key: str
    id: str
    identity: Identity


def this_machine(info: EngineInfo | None = None) -> Identity:
    """What this host is recognised by, with what its engine reports about itself."""
    machine, hardware = _machine_ids()
    if info is None:
        return Identity(host_name(), machine, hardware)
    if info.machine and in_container():
        os.environ.setdefault(environment.HOST_NAME, info.machine)
    return Identity(host_name(), machine, hardware, info.engine_id, info.data_root)


def host_name() -> str:
    """What this host is called; a container has a name of its own, so there its engine's machine names it."""
    return os.environ.get(environment.HOST_NAME) or socket.gethostname()


@cache
def _machine_ids() -> tuple[str | None, str | None]:
    return None if in_container() else _hashed(_MACHINE_ID), _hashed(_HARDWARE_ID)


def _hashed(path: Path) -> str | None:
    try:
        text = read_bytes(path).strip().lower()
    except OSError:
        return None
    return hashlib.blake2b(text, key=_SALT, digest_size=16).hexdigest() if text not in _NO_IDS else None


def known_hosts(connection: duckdb.DuckDBPyConnection, table: str = "host") -> list[KnownHost]:
    """All hosts of an open log, or of another table of such."""
    rows = connection.execute(
        f"SELECT host, id, name, machine, hardware, engine, data_root FROM {table} ORDER BY host"
    ).fetchall()
    return [KnownHost(str(key), str(own), Identity(*rest)) for key, own, *rest in rows]


def key_of_this_host(connection: duckdb.DuckDBPyConnection) -> str:
    """Under which key the events of this host are stored in an open log: the only place that decides it.

    It is the host of this machine, whatever it is called now; else the one of this name; else the only one, so
    that a log can be read elsewhere (`claim` says whether it may also be gone on with); else this host's name.
    """
    here = this_machine()
    hosts = known_hosts(connection)
    ours = [one for one in hosts if one.identity.is_same_machine(here)]
    unsure = [one for one in hosts if one.identity.is_same_machine(here) is None]
    for candidates in (ours, unsure):
        named = [one for one in candidates if here.name in {one.identity.name, one.key}]
        if named or (candidates is ours and len(ours) == 1):
            return (named or candidates)[0].key
    return hosts[0].key if len(hosts) == 1 else here.name


def register(connection: duckdb.DuckDBPyConnection, key: str, *, is_here: bool) -> None:
    """See that an open log knows the host of a key.

    Args:
        connection: the log, open for writing.
        key: the key.
        is_here: whether it is this host, and not one that somebody else speaks for.
    """
    if connection.execute("SELECT 1 FROM host WHERE host = ?", [key]).fetchone():
        return
    identity = replace(this_machine(), name=key) if is_here else Identity(key)
    store(connection, KnownHost(key, uuid.uuid4().hex, identity))


def store(connection: duckdb.DuckDBPyConnection, host: KnownHost) -> None:
    """Replace what an open log holds of a host."""
    connection.execute("DELETE FROM host WHERE host = ?", [host.key])
    connection.execute(
        "INSERT INTO host (host, id, name, machine, hardware, engine, data_root) VALUES (?, ?, ?, ?, ?, ?, ?)",
        [host.key, host.id, *asdict(host.identity).values()],
    )


def check(hosts: Sequence[KnownHost], key: str, here: Identity, path: Path) -> KnownHost | None:
    """The host of a key, once it is sure that it is this one; None: the log does not know it yet.

    Raises:
        LogError: the log is another host's, and somebody has to say what is to become of it.
    """
    found = next((one for one in hosts if one.key == key), None)
    if found is None:
        return None
    if doubt := found.identity.doubt(here):
        raise LogError(
            f"the event log {path} is that of host '{found.identity.name}', and {doubt}; to continue it here, "
            "run `collector adopt`; to start a new one, move it away"
        )
    return found


def chosen(hosts: Sequence[KnownHost], wanted: str | None, path: Path) -> KnownHost:
    """The host that is meant, by its key or name; None: the only one. Raises LogError."""
    found = [one for one in hosts if wanted is None or wanted in {one.key, one.identity.name}]
    if len(found) == 1:
        return found[0]
    names = ", ".join(one.key for one in hosts)
    if not hosts:
        raise LogError(f"event log {path} holds no host's events yet: start `collector run`")
    if wanted is None:
        raise LogError(f"event log {path} holds several hosts ({names}): name one")
    raise not_there(path, wanted, [name for one in hosts for name in dict.fromkeys((one.key, one.identity.name))])


def not_there(path: Path, wanted: str, hosts: Iterable[str]) -> LogError:
    """The error of a host that a log does not know."""
    return LogError(f"event log {path} knows no host '{wanted}'{unknown(wanted, hosts)}")


def key_named(connection: duckdb.DuckDBPyConnection, wanted: str) -> str:
    """The key of the one host of an open log that is called so now; what is not a host's name is returned as it is."""
    hosts = known_hosts(connection)
    found = [one.key for one in hosts if one.identity.name == wanted]
    return found[0] if len(found) == 1 and wanted not in {one.key for one in hosts} else wanted


def label_of(connection: duckdb.DuckDBPyConnection, key: str) -> str:
    """What the host of a key is called now."""
    return next((one.identity.name for one in known_hosts(connection) if one.key == key), key)


def changes(before: Identity, after: Identity) -> dict[str, dict[str, str | None]]:
    """What differs between two states of one host, as the event keeps it; what only became known is not a change."""
    old, new = asdict(before), asdict(after)
    return {
        field: {"from": old[field], "to": new[field]}
        for field in old
        if old[field] is not None and old[field] != new[field]
    }


def changed(before: Identity, after: Identity, **more: str) -> list[Event]:
    """The event that records a changed host; none if nothing changed."""
    found = changes(before, after)
    if not found and not more:
        return []
    return [Event(time.time_ns(), Kind.HOST_CHANGED, attributes={"changes": found, **more}, identity="host")]
