"""Each disk of an engine is decided on by what lies there."""

from __future__ import annotations

from dataclasses import replace

from collector.engine.leftovers import Leftover
from collector.machine.disk import DiskSample
from pruner.planning.holdings import holdings
from pruner.state.disks import on_disk
from tests.pruner.test_stages import MB, container, image, inventory, volume

MAIN = DiskSample("/", 100 * MB, 40 * MB, 0, 0, used_bytes=60 * MB, mount="/", holds=("images", "content"))
OTHER = DiskSample("/dev/shm", 50 * MB, 30 * MB, 0, 0, 20 * MB, "/dev/shm", ("containers", "volumes"))  # noqa: S108


def test_what_fills_a_disk_is_what_lies_there() -> None:
    state = replace(
        inventory(
            [image("a", 1, 10 * MB)],
            (replace(container("c", 1, size=6 * MB), log_bytes=5 * MB),),
            (replace(volume("v", "named", 1, 4 * MB), path="/dev/shm/v"),),  # noqa: S108
        ),
        disks=(MAIN, OTHER),
        leftovers=(Leftover("/layer", 3 * MB), Leftover("/dev/shm/volume", 2 * MB, "volume")),  # noqa: S108
    )
    main, other = ({one.what: one.bytes // MB for one in holdings(on_disk(state, disk))} for disk in (MAIN, OTHER))
    nothing = {"build cache": 0}
    assert main == nothing | {
        "images": 10,
        "containers": 1,
        "container logs": 0,
        "volumes": 0,
        "leftovers": 3,
        "unaccounted": 46,
    }
    assert other == nothing | {
        "images": 0,
        "containers": 0,
        "container logs": 5,
        "volumes": 4,
        "leftovers": 2,
        "unaccounted": 9,
    }


def test_compressed_content_on_a_disk_of_its_own_counts_there() -> None:
    disks = (replace(MAIN, holds=("images",)), replace(OTHER, holds=("content",)))
    split = replace(image("a", 1, 10 * MB), content=(3 * MB,))
    state = replace(inventory([split]), disks=disks)
    assert [on_disk(state, disk).images[0].layers[0][1] // MB for disk in disks] == [7, 3]
    # Where the content may not be looked at, an image that may go does so for the sake of either.
    state = replace(inventory([replace(split, content=())]), disks=disks)
    assert [on_disk(state, disk).images[0].layers[0][1] // MB for disk in disks] == [10, 10]
