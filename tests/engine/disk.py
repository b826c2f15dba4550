"""A real file system of a given size, so that a full disk is really full."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

# A prune holds its lock, which lies on the disk of the log, as long as it runs.
_PATIENCE_S = 300.0


class LoopDisk:
    """A file system in a file, mounted by a loop device.

    Args:
        folder: where the file and the mount point are made.
        size: bytes of the file.
        inodes: how many inodes it gets; None: as many as usual.
        file_system: ``ext4``, ``xfs`` or ``btrfs``.
    """

    def __init__(self, folder: Path, size: int, inodes: int | None = None, file_system: str = "ext4") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._image = image = folder / "disk.img"
        self.file_system = file_system
        self.path = folder / "mnt"
        self.path.mkdir()
        with image.open("wb") as file:
            file.truncate(size)
        limit = ["-N", str(inodes)] if inodes else []
        # -m 0: no blocks kept for root, so that "free" is the same for everybody.
        options = ["-m", "0", *limit] if file_system == "ext4" else []
        subprocess.run([f"mkfs.{file_system}", "-q", *options, image], check=True)
        self._mount()
        self._filler = self.path / "filler"

    def _mount(self) -> None:
        subprocess.run(["mount", "-o", "loop", self._image, self.path], check=True)

    def repair(self) -> None:
        """Do what an operator does after I/O errors: unmount, check, mount again."""
        deadline = time.monotonic() + _PATIENCE_S
        while subprocess.run(["umount", self.path], check=False, stderr=subprocess.DEVNULL).returncode:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.path} is busy")
            time.sleep(0.05)
        # Whoever looks meanwhile finds a folder that nothing can be made in.
        subprocess.run(["chattr", "+i", self.path], check=True)
        subprocess.run(["e2fsck", "-f", "-y", self._image], check=False, capture_output=True)
        subprocess.run(["chattr", "-i", self.path], check=True)
        self._mount()

    def free(self) -> int:
        """Bytes available without privilege (statvfs f_bavail)."""
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def total(self) -> int:
        """Bytes of the file system."""
        found = os.statvfs(self.path)
        return found.f_blocks * found.f_frsize

    def fill_to(self, free: int) -> None:
        """Take space until about `free` bytes are left (0: to the last block)."""
        self.unfill()
        with self._filler.open("wb") as file:
            wanted = self.free() - free
            if wanted > 0:
                os.posix_fallocate(file.fileno(), 0, wanted - 2**20 if wanted > 2**21 else wanted)
            if free == 0:
                self._fill_last_blocks(file.fileno())

    def top_up(self) -> bool:
        """Take what has become free meanwhile, to the last block; whether nothing could be taken."""
        with self._filler.open("r+b") as file:
            return self._fill_last_blocks(file.fileno()) == 0

    def give_a_block(self, size: int = 2**20) -> None:
        """Give a little of the space back, as an operator who removes some file does."""
        os.truncate(self._filler, self._filler.stat().st_size - size)
        os.sync()

    def _fill_last_blocks(self, descriptor: int) -> int:
        """Write until nothing more can be written; the bytes."""
        begin = end = os.fstat(descriptor).st_size
        block = b"\0" * 4096
        while True:
            try:
                end += os.pwrite(descriptor, block, end)
                os.fsync(descriptor)
            except OSError:
                return end - begin

    def unfill(self) -> None:
        """Give the space back."""
        self._filler.unlink(missing_ok=True)
        os.sync()
