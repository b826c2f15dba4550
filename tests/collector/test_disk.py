"""Free space as an unprivileged user sees it, on real file systems with real permissions."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from collector.machine.disk import (
    DiskSample,
    _Mount,
    contradiction,
    disk_of,
    disks_now,
    hasten,
    parse_mounts,
    sample_disk,
    sample_disks,
    settling_time,
)
from collector.model.errors import EngineError
from collector.model.observation import EngineInfo, Place
from collector.model.units import format_bytes
from tests.engine.disk import LoopDisk
from tests.needs import cannot_run

NOBODY = 65534
MIB = 2**20


@pytest.fixture(scope="module")
def disk(state_root: Path) -> Iterator[LoopDisk]:
    """A small disk of its own, so that its figures are nobody else's."""
    if os.geteuid() != 0 or not Path("/dev/loop-control").exists():
        cannot_run("a loop-mounted disk and another user need root and loop devices")
    made = LoopDisk(state_root / "small", 32 * MIB)
    yield made
    subprocess.run(["umount", "--lazy", made.path], check=True)


@contextmanager
def mode(path: Path, bits: int) -> Iterator[None]:
    before = path.stat().st_mode & 0o7777
    path.chmod(bits)
    try:
        yield
    finally:
        path.chmod(before)


def sampled_by_nobody(path: Path) -> DiskSample | str:
    """What a process without any privilege measures, or the fault that it reports."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the child only reads numbers and ends
        child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        try:
            sample = sample_disk(str(path))
            output = f"{sample.total_bytes} {sample.free_bytes} {sample.total_inodes} {sample.free_inodes}"
        except EngineError as error:
            output = f"fault: {error}"
        os.write(writing, output.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        output = pipe.read()
    os.waitpid(child, 0)
    if output.startswith("fault"):
        return output
    total, free, inodes, free_inodes = (int(word) for word in output.split())
    return DiskSample(str(path), total, free, inodes, free_inodes)


def test_a_closed_data_root_is_measured_by_anybody(disk: LoopDisk) -> None:
    root = disk.path / "docker"
    root.mkdir()
    with mode(root, 0o710):
        assert sampled_by_nobody(root) == sample_disk(str(root))


def test_below_a_closed_folder_its_mount_point_is_measured(disk: LoopDisk) -> None:
    closed = disk.path / "remapped"
    root = closed / "100000.100000"
    root.mkdir(parents=True)
    with mode(closed, 0o700):
        assert sampled_by_nobody(root) == sample_disk(str(root))
        assert sample_disk(str(root)).total_bytes < 64 * MIB


def test_behind_a_closed_mount_point_another_mount_of_the_disk_is_measured(disk: LoopDisk, state_root: Path) -> None:
    closed, other = state_root / "closed mounts", state_root / "other place"
    for folder in (closed / "disk", other):
        folder.mkdir(parents=True)
    root = closed / "disk" / "engine"
    subprocess.run(["mount", "--bind", disk.path, closed / "disk"], check=True)
    root.mkdir()
    try:
        with mode(closed, 0o700):
            assert sampled_by_nobody(root) == sample_disk(str(root))
            with mode(disk.path.parent, 0o700):
                output = sampled_by_nobody(root)
                assert isinstance(output, str)
                assert f"data root {root} cannot be measured: Permission denied" in output
                subprocess.run(["mount", "--bind", disk.path, other], check=True)
                assert sampled_by_nobody(root) == sample_disk(str(root))
                # What hides the mount point is not taken for the disk.
                subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", other], check=True)
                assert isinstance(sampled_by_nobody(root), str)
    finally:
        subprocess.run(["umount", "--lazy", other], check=False, stderr=subprocess.DEVNULL)
        subprocess.run(["umount", "--lazy", other], check=False, stderr=subprocess.DEVNULL)
        subprocess.run(["umount", "--lazy", closed / "disk"], check=True)


def test_a_closed_folder_on_the_root_disk_is_not_taken_for_the_root_disk(disk: LoopDisk, state_root: Path) -> None:
    closed = state_root / "closed link"
    closed.mkdir()
    (closed / "docker").symlink_to(disk.path)
    assert sample_disk(str(closed / "docker")).total_bytes < 64 * MIB
    with mode(closed, 0o700):
        output = sampled_by_nobody(closed / "docker")
        assert isinstance(output, str)
        assert "cannot be measured: Permission denied" in output


def test_each_file_system_of_an_engine_is_sampled_once(disk: LoopDisk, state_root: Path) -> None:
    root = state_root / "data root"
    (root / "overlay2").mkdir(parents=True)
    (root / "volumes").symlink_to(disk.path)
    places = tuple(Place(what, f"{root}/{what}", "") for what in ("overlay2", "containers", "volumes"))
    engine = EngineInfo(str(root), "overlay2", "", places=places)
    images, volumes = sample_disks(engine)
    assert (images.path, images.holds) == (str(root), ("overlay2", "containers"))
    assert (volumes.path, volumes.mount, volumes.holds) == (f"{root}/volumes", str(disk.path), ("volumes",))
    assert volumes.total_bytes == disk.total()
    assert disk_of(str(disk.path / "some" / "volume"), (images, volumes)) == volumes
    (only,) = sample_disks(replace(engine, places=places[:2]))
    assert (only.path, only.holds, only.total_bytes) == (str(root), (), images.total_bytes)


def test_a_path_of_another_host_is_reported() -> None:
    with pytest.raises(EngineError, match="must run on the engine's own host"):
        sample_disk("/nowhere/at/all")


def used(mib: int, *holds: str) -> DiskSample:
    """A disk on which so much is used."""
    return DiskSample("/", 10**12, 10**12 - mib * MIB, 0, 0, used_bytes=mib * MIB, mount="/", holds=holds)


@pytest.mark.parametrize(
    ("disks", "held_mib", "contradicts"),
    [
        ((used(1000),), 1000, False),
        # What sizes and blocks differ by, and what was written a moment ago.
        ((used(1000),), 1300, False),
        ((used(1000),), 1400, True),
        ((used(0),), 60, False),
        ((used(0),), 70, True),
        # Unpacked layers and compressed content may lie apart; other disks hold no image.
        ((used(500, "images"), used(500, "content")), 1300, False),
        ((used(500, "images"), used(5000, "volumes", "containers")), 1300, True),
    ],
)
def test_images_that_hold_more_than_their_disks_use_contradict(
    disks: tuple[DiskSample, ...], held_mib: int, contradicts: bool
) -> None:
    found = contradiction(disks, held_mib * MIB)
    assert (found is not None) is contradicts
    assert found is None or f"images hold {format_bytes(held_mib * MIB)}, but only " in found


@pytest.mark.parametrize(("kind", "contradicts"), [("ext4", True), ("xfs", True), ("btrfs", False), ("zfs", False)])
def test_file_systems_that_compress_hold_more_than_they_use(
    monkeypatch: pytest.MonkeyPatch, kind: str, contradicts: bool
) -> None:
    monkeypatch.setattr("collector.machine.disk._mounts", lambda: iter([_Mount("/", "0:1", "/", kind)]))
    assert (contradiction((used(1000),), 5000 * MIB) is not None) is contradicts


def test_a_quota_of_the_data_root_is_seen_by_who_may_not_look_into_it(monkeypatch: pytest.MonkeyPatch) -> None:
    root = os.statvfs("/")

    def statvfs(path: str) -> os.statvfs_result:
        if path.startswith("/var/lib/docker/"):
            raise PermissionError(errno.EACCES, "Permission denied")
        found = list(root)
        found[1:5] = 4096, 1000 if path.startswith("/var/lib/docker") else 9000, 500, 400
        return os.statvfs_result(found)

    monkeypatch.setattr(os, "statvfs", statvfs)
    monkeypatch.setattr("collector.machine.disk._mounts", lambda: iter([_Mount("/", "8:1", "/", "xfs")]))
    monkeypatch.setattr(os, "access", lambda path, _: not str(path).startswith("/var/lib/docker"))
    places = tuple(Place(what, f"/var/lib/docker/{what}", "") for what in ("images", "volumes"))
    engine = EngineInfo("/var/lib/docker", "overlay2", "20.10", places=places)
    (sample,) = sample_disks(engine)
    assert (sample.total_bytes, sample.free_bytes) == (1000 * 4096, 400 * 4096)


def test_btrfs_is_hastened_where_any_of_its_folders_may_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = [_Mount("/", "8:1", "/", "ext4"), _Mount("/var", "0:30", "/", "btrfs"), _Mount("/x", "0:30", "/", "btrfs")]
    monkeypatch.setattr("collector.machine.disk._mounts", lambda: iter(mounts))
    opened: list[str] = []

    def closed(path: str, _: int) -> int:
        opened.append(path)
        raise PermissionError

    monkeypatch.setattr(os, "open", closed)
    assert not hasten("/home")
    assert not hasten("/var/lib/docker")
    assert opened == ["/var/lib/docker", "/var", "/x"]


def test_btrfs_shows_at_once_what_was_removed_once_it_is_hastened(tmp_path: Path) -> None:
    if os.geteuid() != 0 or not Path("/dev/loop-control").exists():
        cannot_run("a disk of its own needs root and loop devices")
    if shutil.which("mkfs.btrfs") is None:
        cannot_run("mkfs.btrfs is not installed: run .ci/install-packages")
    disk = LoopDisk(tmp_path, 256 * MIB, file_system="btrfs")
    try:
        (disk.path / "file").write_bytes(os.urandom(64 * MIB))
        # What was written a moment ago counts, too.
        (sample,) = disks_now(EngineInfo(str(disk.path), "btrfs", "20.10"))
        assert sample.free_bytes <= disk.total() - 64 * MIB
        # On so small a disk a few MiB come and go by themselves: room for metadata.
        before = disk.free()
        (disk.path / "file").unlink()
        assert hasten(str(disk.path))
        assert disk.free() - before >= 48 * MIB
    finally:
        subprocess.run(["umount", disk.path], check=True)


def test_mounts_of_any_name_are_read_and_other_lines_passed_over() -> None:
    table = (
        b"22 1 0:21 / / rw shared:1 - ext4 /dev/vda rw\n"
        b"23 22 0:22 / /a\\040b\\012c rw - tmpfs tmpfs rw\n"
        + "24 22 0:23 / /x\u2028y\x0bz\x85- rw - fuse.\udcffz - rw\n".encode(errors="surrogateescape")
        + b"\n25 22\n26 22 0:24 / /short rw -\nnonsense - - - - - - - -\n\xff\xfe\0\n"
    )
    found = [(mount.point, mount.kind) for mount in parse_mounts(table)]
    assert found[:3] == [("/", "ext4"), ("/a b\nc", "tmpfs"), ("/x\u2028y\x0bz\x85-", "fuse.\udcffz")]
    assert all(point != "/short" for point, _ in found)
    assert settling_time("/") > 0
