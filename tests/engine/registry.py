"""A private registry, and images put straight into it over its HTTP API, without building."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import subprocess
import tarfile
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.engine.ports import free_port

_CREATED = "2024-01-01T00:00:00Z"
_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG = "application/vnd.docker.container.image.v1+json"
_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
_PATIENCE_S = 60.0


@dataclass(frozen=True)
class Layer:
    """A layer: its tar archive, compressed, with both digests."""

    blob: bytes
    digest: str
    diff_id: str


@dataclass(frozen=True)
class PushedImage:
    """What was put into the registry."""

    reference: str
    digest: str
    image_id: str


def _layer(tar: bytes, level: int = 1) -> Layer:
    blob = gzip.compress(tar, compresslevel=level, mtime=0)
    return Layer(blob, _digest(blob), _digest(tar))


@cache
def base_layer() -> Layer:
    """A static busybox with the applets that jobs use."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        _add(tar, "bin/busybox", Path("/bin/busybox").read_bytes(), mode=0o755)
        for applet in ("sh", "sleep", "true", "cat", "dd"):
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        _add(tar, "etc/passwd", b"root:x:0:0:root:/:/bin/sh\n")
    return _layer(archive.getvalue())


@cache
def random_layer(seed: int, size: int, files: int = 1) -> Layer:
    """A layer of `size` incompressible bytes in `files` files; the same for the same seed."""
    archive = io.BytesIO()
    source = random.Random(seed)
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for number in range(files):
            _add(tar, f"data/{seed}-{number}", source.randbytes(size // files))
    # To look in vain for what can be compressed takes a second for each 40 MiB.
    return _layer(archive.getvalue(), level=0)


@cache
def repetitive_layer(seed: int, size: int) -> Layer:
    """A layer of `size` bytes that compress to next to nothing."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        line = f"{seed} says the same again and again\n".encode()
        _add(tar, f"data/again-{seed}", (line * (size // len(line) + 1))[:size])
    return _layer(archive.getvalue())


def _add(tar: tarfile.TarFile, name: str, data: bytes, mode: int = 0o644) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), mode
    tar.addfile(info, io.BytesIO(data))


class Registry:
    """Debian's docker-registry on a free loopback port, which engines trust without TLS.

    Args:
        folder: where its configuration and blobs go.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.port = free_port()
        self.host = f"127.0.0.1:{self.port}"
        config = folder / "config.yml"
        config.write_text(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  delete:\n    enabled: true\n"
            f"  filesystem:\n    rootdirectory: {folder}/blobs\nhttp:\n  addr: {self.host}\n"
        )
        self._said = folder / "log"
        with self._said.open("wb") as log:
            self._process = subprocess.Popen(["docker-registry", "serve", config], stdout=log, stderr=log)
        self._wait()
        self._known: set[tuple[str, str]] = set()

    def push_image(
        self,
        name: str,
        tag: str,
        layers: Sequence[Layer],
        labels: dict[str, str] | None = None,
        built: str = _CREATED,
        member: str = "null",
    ) -> PushedImage:
        """Put an image of these layers, base first, into the registry.

        Args:
            name, tag: what to call it.
            layers: base first.
            labels: of the image.
            built: when it says that it was built.
            member: JSON that its manifest has besides what belongs there.
        """
        created = [{"created": _CREATED, "created_by": f"layer {layer.diff_id}"} for layer in layers]
        config = {
            "architecture": "amd64",
            "os": "linux",
            "created": built,
            "config": {"Cmd": ["/bin/true"], "Labels": {"test.name": f"{name}:{tag}", **(labels or {})}},
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
            "history": created,
        }
        blob = json.dumps(config).encode()
        for layer in layers:
            self._put_blob(name, layer.blob, layer.digest)
        self._put_blob(name, blob, _digest(blob))
        text = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": _MANIFEST,
                "config": {"mediaType": _CONFIG, "size": len(blob), "digest": _digest(blob)},
                "layers": [{"mediaType": _LAYER, "size": len(layer.blob), "digest": layer.digest} for layer in layers],
            }
        )
        manifest = (f'{text[:-1]}, "more": {member}}}' if member != "null" else text).encode()
        self._call("PUT", f"/v2/{name}/manifests/{tag}", manifest, {"Content-Type": _MANIFEST})
        return PushedImage(f"{self.host}/{name}:{tag}", _digest(manifest), _digest(blob))

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(timeout=_PATIENCE_S)

    def _put_blob(self, name: str, blob: bytes, digest: str) -> None:
        if (name, digest) in self._known:
            return
        place = self._call("POST", f"/v2/{name}/blobs/uploads/", b"")["Location"]
        path = place.removeprefix(f"http://{self.host}")
        self._call(
            "PUT",
            f"{path}{'&' if '?' in path else '?'}digest={digest}",
            blob,
            {"Content-Type": "application/octet-stream"},
        )
        self._known.add((name, digest))

    def _call(self, method: str, path: str, data: bytes, headers: dict[str, str] | None = None) -> Any:
        request = urllib.request.Request(f"http://{self.host}{path}", data=data, method=method, headers=headers or {})
        with urllib.request.urlopen(request, timeout=_PATIENCE_S) as answer:  # noqa: S310
            return answer.headers

    def _wait(self) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            assert self._process.poll() is None, self._said.read_text()
            try:
                urllib.request.urlopen(f"http://{self.host}/v2/", timeout=1).close()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                return


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()
