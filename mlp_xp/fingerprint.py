"""Which rows a model has seen: a sketch of their hashes, at most 44 kB of text.

Every row gets a hash, the same for the same numbers wherever they were read from; kept are
the `MOST` smallest of all different ones (a bottom-k sketch: Bar-Yossef et al. 2002,
"Counting distinct elements in a data stream", algorithm 1; Cohen & Kaplan 2007,
"Summarizing data using bottom-k sketches"). A hash is uniform and knows nothing of the row's
meaning, so that:

    fewer rows than `MOST`   all hashes are there, and whether a row was seen is known
    more                     it is known of the rows whose hash is at most the largest kept,
                             which are a random sample of any rows one may ask about

Two sketches are united by keeping the smallest of both. Order, repeats and labels are no part
of it. It is no secret: who has a row can ask whether it was seen.
"""

from __future__ import annotations

import base64
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

MOST = 4096
BLOCK = 1024  # rows that are converted at once

Mask = npt.NDArray[np.bool_]


class Meeting(NamedTuple):
    """Rows (m,) that are known to have been seen, and that are known not to."""

    seen: Mask
    unseen: Mask

    @property
    def known(self) -> int:
        """How many rows there is an answer for: all, or a random sample."""
        return int(np.count_nonzero(self.seen | self.unseen))

    @property
    def n_seen(self) -> int | None:
        """How many of all m rows were seen, to rounding; None where nothing is known."""
        return round(float(self.seen.sum()) / self.known * len(self.seen)) if self.known else None


class Fingerprint(NamedTuple):
    """The smallest hashes of the rows seen, ascending, each once."""

    hashes: npt.NDArray[np.uint64]

    @classmethod
    def of(cls, X: npt.NDArray[Any]) -> Fingerprint:
        """The fingerprint of rows (m, n_features)."""
        return cls(np.unique(hashed(X))[:MOST])

    @classmethod
    def from_text(cls, text: str) -> Fingerprint:
        """The inverse of `str`."""
        try:
            return cls(np.unique(np.frombuffer(base64.b64decode(text, validate=True), "<u8")))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"the model's fingerprint cannot be read ({error}): expected base64 of 64-bit "
                "hashes, as mlp-xp train writes it. Take the model from a backup."
            ) from None

    def __str__(self) -> str:
        return base64.b64encode(self.hashes.astype("<u8").tobytes()).decode()

    def __or__(self, other: Fingerprint) -> Fingerprint:
        """The fingerprint of the rows of both."""
        return Fingerprint(np.union1d(self.hashes, other.hashes)[:MOST])

    def meet(self, X: npt.NDArray[Any]) -> Meeting:
        """What is known of rows (m, n_features)."""
        asked = hashed(X)
        seen = np.isin(asked, self.hashes)
        whole = len(self.hashes) < MOST
        known = np.full(len(X), True) if whole else asked <= self.hashes[-1]
        return Meeting(seen, known & ~seen)


def hashed(X: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """64 bits of BLAKE2b of each row in float32, (m,).

    float32, so that rows are the same from a file of text, of bytes and of floats; of two
    that differ by less the second counts as seen. -0 is 0.
    """
    digests = bytearray()
    for start in range(0, len(X), BLOCK):
        with np.errstate(over="ignore"):
            rows = np.ascontiguousarray(X[start : start + BLOCK], dtype="<f4") + np.float32(0)
        digests += b"".join(blake2b(row.data, digest_size=8).digest() for row in rows)
    return np.frombuffer(bytes(digests), "<u8").astype(np.uint64)
