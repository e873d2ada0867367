"""Arrays that begin with a line of the cache.

NumPy's begin at any multiple of 16 bytes, so that one vector in two or three lies in two lines.
By where it came to lie, the same prediction of one row took 6.0 or 6.9 µs, and a step of one
program up to 8 % longer than another process's.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

LINE = 64  # bytes


def zeros(shape: tuple[int, ...] | int, dtype: Any) -> npt.NDArray[Any]:
    """As np.zeros."""
    shape, dtype = (shape,) if isinstance(shape, int) else shape, np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    room = np.zeros(size + LINE, np.uint8)
    begin = -room.ctypes.data % LINE
    found: npt.NDArray[Any] = room[begin : begin + size].view(dtype).reshape(shape)
    return found


def copy(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """An array of its own with the same entries, C-ordered."""
    found = zeros(array.shape, array.dtype)
    np.copyto(found, array)
    return found
