"""Events of an engine, as many and as fast as wanted."""

from __future__ import annotations

import threading
import time

from tests.engine.engines import Engine


def tag_and_untag(engine: Engine, events: int, clients: int) -> float:
    """Give `bench:1` a tag and take it away again, two events each, by many clients at once; seconds that it took."""

    def work(name: str) -> None:
        client = engine.client()
        for number in range(events // 2 // clients):
            client.api.tag("bench:1", f"bench/{name}", str(number))
            client.api.remove_image(f"bench/{name}:{number}")
        client.close()

    threads = [threading.Thread(target=work, args=(f"writer{number}",)) for number in range(clients)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.monotonic() - began
