"""The one place that asks an engine to remove something. What is asked for is never forced."""

from __future__ import annotations

import json

from collector.engine.client import DockerEngine
from collector.engine.connection import as_engine_error


class DockerRemovingEngine(DockerEngine):
    """An engine behind Docker's API that removes: see `collector.engine.protocol.RemovingEngine`."""

    def remove_image(self, name: str) -> None:
        """Take a name from an image; with its last name, or by its ID, the image itself is removed."""
        with as_engine_error(self.host):
            self.api.remove_image(name, force=False)

    def tag(self, image: str, repository: str, tag: str) -> None:
        """Give an image (by its ID) a name."""
        with as_engine_error(self.host):
            self.api.tag(image, repository, tag)

    def remove_container(self, container: str) -> None:
        """Remove a container that is stopped; its volumes stay."""
        with as_engine_error(self.host):
            self.api.remove_container(container, v=False, force=False)

    def remove_volume(self, name: str) -> None:
        """Remove a volume that no container refers to."""
        with as_engine_error(self.host):
            self.api.remove_volume(name, force=False)

    def prune_build_cache(self, unused_s: float, keep_bytes: int) -> None:
        """Have the engine remove build cache that has been unused for so long, down to what is to be kept."""
        with as_engine_error(self.host):
            self.request(
                "build/prune",
                {
                    "filters": json.dumps({"until": [f"{unused_s:.0f}s"]}),
                    # The second is the name of the first from API 1.48 on; an engine takes the one that it knows.
                    "keep-storage": keep_bytes,
                    "reserved-space": keep_bytes,
                },
                method="post",  # docker-py's own call lacks the new name
            )
