"""How the compiled kernel is called: arrays become pointers, statuses become exceptions."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_void_p
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analyzer.native.loader import load

Array = NDArray[Any]
_NO_MEMORY = 1


def view(address: int, kind: Any, count: int) -> Array:
    """The array of so many values at an address."""
    return np.ctypeslib.as_array(ctypes.cast(address, POINTER(kind)), shape=(count,))


def plain(array: Array, kind: Any) -> Array:
    """The array as the kernel takes it; copied only where it must be."""
    return np.ascontiguousarray(array, dtype=kind)


def pointers(*arrays: Array) -> list[c_void_p]:
    """Where arrays are; it keeps none alive."""
    return [c_void_p(array.ctypes.data) for array in arrays]


def function(name: str) -> Any:
    """A function of the kernel, which must be there."""
    return getattr(load(), name)


def checked(status: int) -> None:
    """Raise MemoryError if that is what a function's status says."""
    if status == _NO_MEMORY:
        raise MemoryError("not enough memory")
