"""A test image for `collector doctor`: made, tagged, untagged and removed, to see which events the engine reports."""

from __future__ import annotations

import time
from typing import Any

from collector.engine.connection import as_engine_error
from collector.engine.protocol import Engine
from collector.model.errors import EngineError
from collector.model.observation import full_id

_SETTLE_S = 0.5
# An archive without files: two blocks of zeros.
_EMPTY_TAR = b"\0" * 1024
_PROBE = "docker-hindsight-doctor"


def probe(engine: Engine, client: Any) -> dict[str, str]:
    """Import an empty image, tag it, untag it, remove it: which events reported it, each with the name it gave.

    Raises:
        EngineError: the engine refused a step; what was made is removed as far as possible.
    """
    began_ns = time.time_ns()
    before = {row.image for row in engine.images()}
    with as_engine_error(engine.host):
        answer = client.import_image_from_data(_EMPTY_TAR, repository=_PROBE, tag="first")
    image = next((row.image for row in engine.images() if row.image not in before), None)
    if image is None:
        raise EngineError(f"the engine at {engine.host} made no image of an empty archive: {str(answer).strip()}")
    try:
        with as_engine_error(engine.host):
            client.tag(image, _PROBE, "second")
            client.remove_image(f"{_PROBE}:second", force=False)
    finally:
        for row in engine.images():
            for reference in row.references if row.image == image else ():
                with as_engine_error(engine.host):
                    client.remove_image(reference, force=False)
    time.sleep(_SETTLE_S)
    reported: dict[str, str] = {}
    for event in engine.buffered_events(began_ns, time.time_ns()):
        actor = event.get("Actor") or {}
        name = str((actor.get("Attributes") or {}).get("name") or "")
        act = {"remove": "delete", "loadfromarchive": "import"}.get(str(event.get("Action")), str(event.get("Action")))
        ours = _PROBE in name or (actor.get("ID") and full_id(str(actor["ID"])) == image)
        if event.get("Type") == "image" and ours:
            reported[act] = reported.get(act) or (name if _PROBE in name or act in {"import", "delete"} else "")
    return reported
