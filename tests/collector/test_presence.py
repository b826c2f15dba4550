"""What a new image was built on is looked up by layer, with the result of a search through all images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from collector.daemon.presence import Presence
from collector.eventlog.log import EventLog
from collector.model.observation import ImageObservation, Layer

NOW_NS = 1_764_000_000 * 10**9
CREATED = "2025-11-24T16:00:00Z"
HOST = "runner"


def image(name: str, chains: Sequence[str]) -> ImageObservation:
    return ImageObservation(name, (), (), CREATED, None, 1, tuple(Layer(chain, chain, 1) for chain in chains))


def searched(known: dict[str, tuple[str, ...]], chains: Sequence[str]) -> list[str]:
    """By definition: of the images whose layers the new one begins with, those with the most."""
    below = {name: len(held) for name, held in known.items() if held and tuple(chains[: len(held)]) == held}
    return sorted(name for name, depth in below.items() if depth == max(below.values()))


def chain_ids(names: Sequence[str]) -> tuple[str, ...]:
    """A layer's identifier comprises the layers below, as in engines."""
    return tuple("/".join(names[:depth]) for depth in range(1, len(names) + 1))


LAYERS = st.lists(st.sampled_from("abc"), max_size=4).map(chain_ids)
STEPS = st.lists(st.tuples(st.sampled_from(["observe", "forget"]), st.integers(0, 7), LAYERS), max_size=30)


@given(STEPS)
def test_bases_are_those_of_a_search_through_all_images(steps: list[tuple[str, int, tuple[str, ...]]]) -> None:
    presence, known = Presence(), dict[str, tuple[str, ...]]()
    for step, number, chains in steps:
        name = f"sha256:{number:064x}"
        if step == "forget":
            presence.forget(name)
            known.pop(name, None)
            continue
        # An image that is known is not new; it may still be seen with other layers.
        expected = [] if name in known else searched(known, chains)
        seen = image(name, chains)
        assert [event.image for event in presence.bases(seen, NOW_NS)] == expected
        presence.observed(seen, NOW_NS)
        known[name] = chains


def test_bases_are_the_same_after_a_restart(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.duckdb", host=HOST)
    presence = Presence()
    known = {f"sha256:{number:064x}": chain_ids(names) for number, names in enumerate(["a", "ab", "ab", "c"])}
    log.append([presence.observed(image(name, chains), NOW_NS) for name, chains in known.items()])
    restored = Presence()
    restored.restore(log)
    new = image("sha256:" + "f" * 64, chain_ids("abc"))
    found = [event.image for event in restored.bases(new, NOW_NS)]
    assert found == [event.image for event in presence.bases(new, NOW_NS)]
    assert found == searched(known, chain_ids("abc"))
    assert len(found) == 2


def test_of_many_images_with_the_same_layers_those_that_were_there_first_count(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.duckdb", host=HOST)
    presence, restored, chains = Presence(), Presence(), chain_ids("ab")
    names = [f"sha256:{number:064x}" for number in range(200, 0, -1)]
    found, observed = [], []
    for number, name in enumerate(names):
        found += presence.bases(image(name, chains), NOW_NS)
        observed.append(presence.observed(image(name, chains), NOW_NS + number))
    log.append(observed)
    assert len(found) < 16 * len(names)
    # Seen again, with another name, an image was there no later.
    presence.observed(image(names[0], chains), NOW_NS)
    new = image("sha256:" + "f" * 64, chain_ids("abc"))
    restored.restore(log)
    for seen in (presence, restored):
        assert {event.image for event in seen.bases(new, NOW_NS)} == set(names[:16])
