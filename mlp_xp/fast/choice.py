"""Which products are kernels of ours, and in tiles of what size: by shapes alone.

So the same network computes the same bits on every run, and nothing is measured before the
first step, and no choice has to be kept on disk. The constants are those by which the model
chose best among 15 products in 7 tiles each, timed on an H200: 3 % slower than the fastest, on
the average.
"""

from __future__ import annotations

from functools import cache

from .cuda_tiles import TILES, WIDEST, Tile

SMALL = 2.5e8  # operations of a product, of all networks, up to which latency is what costs
PROCESSORS = 132
RATES = {"float32": 128, "float64": 64}  # multiplications a clock of a processor
MOVED = 32  # bytes a clock that reach a processor from the cache
PIECE, START = 100, 1500  # clocks: of a piece, and of what comes before and after them


def ours(n: int, inner: int, columns: int, networks: int = 1) -> bool:
    """Whether a product (n, inner) · (inner, columns) is a kernel of ours."""
    return 2.0 * n * inner * columns * networks <= SMALL


def clocks(
    tile: Tile, shapes: tuple[tuple[int, int, int], ...], networks: int, dtype: str
) -> float:
    """About how long products of shapes (n, inner, columns), in one launch, take."""
    size, depth = (8, tile.depth // 2) if dtype == "float64" else (4, tile.depth)
    work = 0.0  # of each block, in clocks of a processor
    blocks, longest = 0, 0.0
    for n, inner, columns in shapes:
        count = -(-n // tile.rows) * -(-columns // tile.columns) * networks
        inner = -(-inner // depth) * depth
        computed = inner * tile.rows * tile.columns / RATES[dtype] / 0.7
        moved = inner * (tile.rows + tile.columns) * size / MOVED
        blocks += count
        work += count * max(computed, moved)
        longest = max(longest, computed, moved, inner / depth * PIECE)
    waves = -(-blocks // PROCESSORS) * PROCESSORS / blocks if blocks < 2 * PROCESSORS else 1.0
    return START + max(longest, waves * work / PROCESSORS)


@cache
def tile(
    shapes: tuple[tuple[int, int, int], ...], networks: int, dtype: str, all_rows: bool = False
) -> Tile:
    """The best for these products in one launch; of `all_rows` of the only one, if asked."""
    fitting = TILES
    if all_rows:
        fitting = tuple(tile for tile in TILES if shapes[0][0] <= tile.rows <= WIDEST)
    return min(fitting, key=lambda tile: clocks(tile, shapes, networks, dtype))
