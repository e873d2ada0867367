"""CUDA source of matrix products that take in what stands before and after them.

A small network's products are bound by launches and by the latency of memory, not by
arithmetic; cuBLAS takes 25 to 52 µs on an H100 for some with a side of 10, and what is done
to the result is a launch of its own. So products that are small are kernels of
ours, with a formula at their end: bias and activation, the loss, the slope, the update.

    out = left · right      left (n, inner), right (inner, columns), out (n, columns)

A block of 8 warps computes a tile of out. Both operands pass through a ring in shared
memory, in pieces along the inner axis, copied there asynchronously and as they lie, 16 bytes
at a time where addresses allow, while earlier ones are used. A warp computes 32 × 16 sums or
fewer, its 8 × 4 lanes a few rows and columns each, from 16 bytes of either operand at a
time, without a bank conflict. Warps share out the tile, and where it is small the inner axis
too: their sums are added up at the end, in a fixed order.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from ..kernels import PRECISIONS
from .cuda_text import Source, source

THREADS, WARPS = 256, 8
INNER, OUTER = "inner", "outer"  # the axis along which an operand lies together in memory


class Tile(NamedTuple):
    """What a block computes, and how.

    high, wide    sums of a lane: rows and columns
    down, across  warps that share out the tile's rows and columns; the others its inner axis
    depth         of a piece, in float32
    ring          pieces in shared memory
    together      whether 16 bytes of left and of right may be copied at a time
    digits        to which operands are rounded: see `kernels.PRECISIONS`
    """

    high: int
    wide: int
    down: int
    across: int
    depth: int
    ring: int
    together: tuple[bool, bool] = (False, False)
    digits: int = PRECISIONS["float32"]

    @property
    def rows(self) -> int:
        return 8 * self.high * self.down

    @property
    def columns(self) -> int:
        return 4 * self.wide * self.across

    @property
    def size(self) -> int:
        return self.rows * self.columns

    @property
    def groups(self) -> int:
        """Of warps, each with a part of the inner axis."""
        return WARPS // (self.down * self.across)


TILES: tuple[
    Tile, ...
] = (  # small to large; all fit the 48 KiB of shared memory that every device has
    Tile(1, 2, 1, 1, 64, 4),
    Tile(2, 2, 1, 1, 64, 4),
    Tile(2, 4, 1, 1, 64, 4),
    Tile(4, 4, 1, 1, 64, 3),
    Tile(4, 4, 1, 2, 32, 4),
    Tile(4, 4, 2, 2, 32, 3),
    Tile(4, 4, 2, 4, 32, 2),
)


class Operand(NamedTuple):
    """Where an operand's elements lie.

    start  address of line `c` of the tile at place `i` of the inner axis
    pitch  how far one line, or where lines lie together one place along them, is from the next
    lies   the axis along which neighbours in memory lie, INNER or OUTER
    found  whether lines are not evenly spaced, but begin at example[c]
    one    a condition under which a line is 1 throughout, wherever it lies
    """

    start: str
    pitch: str
    lies: str
    found: bool = False
    one: str = ""


class _Copy(NamedTuple):
    """Statements that copy an operand piece by piece.

    begin  before the first: addresses and limits, which move on from piece to piece
    piece  begins to copy the next one to its place in the ring; 0 past the operand's ends
    """

    begin: str
    piece: str


def _copy(name: str, operand: Operand, side: int, together: bool, first: str, limit: str) -> _Copy:
    at_once = "WIDTH" if together else "1"
    inner = operand.lies == INNER
    along = f"({'DEPTH' if inner else side} / {at_once})"
    line, place = (f"t / {along}", f"t % {along} * {at_once}")
    if not inner:
        line, place = f"t % {along} * {at_once}", f"t / {along}"
    round_ = f"({THREADS} / {along})"  # lines, or places, that all threads copy at once
    c, i = (f"q * {round_}", "0") if inner else ("0", f"q * {round_}")
    rounds = f"({side} * DEPTH / {at_once} + {THREADS - 1}) / {THREADS}"
    to = "c * PITCH + i" if inner else f"i * {side} + c"
    begin = f"""
  const int {name}_c = {line}, {name}_i = {place};
  const int {name}_lines = {limit} - {first} < {side} ? (int)({limit} - {first}) : {side};"""
    if operand.found:
        source, move = f"example[c] + {name}_from + i", ""
        begin += f"\n  int {name}_from = 0;"
        move = f"{name}_from += DEPTH;"
    else:
        start = operand.start.replace("{c}", f"{name}_c").replace("{i}", f"{name}_i")
        begin += f"""
  const T* {name}_at = {start};
  const I {name}_round = {round_} * ({operand.pitch});"""
        source = f"{name}_at + q * {name}_round"
        move = f"{name}_at += DEPTH{'' if inner else f' * ({operand.pitch})'};"
    body = f"bring<{at_once}>(to, {source}, wanted);"
    if operand.one:
        ones = f"for (int v = 0; v < {at_once}; v++) to[v] = 1;"
        body = f"if ({operand.one}) {{ {ones} }}\n        else {body}"
    piece = f"""
      #pragma unroll
      for (int q = 0; q < {rounds}; q++) {{
        const int c = {name}_c + {c}, i = {name}_i + {i};
        if ({side} * DEPTH / {at_once} < {THREADS} && (c >= {side} || i >= DEPTH)) break;
        const bool wanted = c < {name}_lines && i < left_over;
        T* const to = {name} + {to};
        {body}
      }}
      {move}"""
    return _Copy(begin, piece)


def _take(name: str, operand: Operand, sums: int, line: str, side: int, digits: int) -> str:
    """WIDTH places of a lane's lines into registers; the lane's first line is `line`."""
    if operand.lies == INNER:
        kind, count, declared = "Together", str(sums), ""
        address = f"({line} + {8 if name == 'left' else 4} * u) * PITCH + at"
    else:
        kind, count, address = f"{name.title()}Lines", "WIDTH", f"(at + u) * {side} + {line}"
        size = f"{sums} * sizeof(T)"
        declared = f"struct alignas({size} < 16 ? {size} : 16) {kind} {{ T v[{sums}]; }};"
    rounded = ""
    if digits != PRECISIONS["float32"]:
        rounded = f"""
      for (auto& lines : {name}_now)
        for (T& x : lines.v) x = rounded<{digits}>(x);"""
    return f"""{declared}
      {kind} {name}_now[{count}];
      #pragma unroll
      for (int u = 0; u < {count}; u++)
        {name}_now[u] = *(const {kind}*)({name}_used + {address});{rounded}"""


def product(left: Operand, right: Operand, tile: Tile, seen: str = "") -> str:
    """Statements that leave the sums of the block's tile in `memory`: see `result`.

    They use `row0` and `column0`, where the tile begins; `n`, `columns` and `depth`, the
    ends of the three axes; `memory`, shared.

    seen  a statement for each element of `right` in turn: line `c`, place `from` + `i`, its
          value at `*it`; only where right lies along the inner axis. Of the blocks that
          share the columns, each sees some of the pieces
    """
    high, wide, rows, columns = tile.high, tile.wide, tile.rows, tile.columns
    used = ""
    if seen:
        used = f"""
    if (piece % (int)across == (int)(row0 / {rows})) {{
      const I from = (I)piece * DEPTH;
      #pragma unroll
      for (int q = 0; q < {columns} * DEPTH / {THREADS}; q++) {{
        const int c = t % {columns}, i = t / {columns} + q * {THREADS // columns};
        const T* const it = right_used + c * PITCH + i;
        {seen}
      }}
    }}"""
    copies = (
        _copy("left", left, rows, tile.together[0], "row0", "n"),
        _copy("right", right, columns, tile.together[1], "column0", "columns"),
    )
    a, first_row, row = "left_now[r].v[v]", "top + y", "8 * r"
    if left.lies == OUTER:
        a, first_row, row = "left_now[v].v[r]", f"top + y * {high}", "r"
    b, first_column, column = "right_now[c].v[v]", "side + x", "4 * c"
    if right.lies == OUTER:
        b, first_column, column = "right_now[v].v[c]", f"side + x * {wide}", "c"
    return f"""
  const int t = threadIdx.x, warp = t / 32, part = warp / {WARPS // tile.groups};
  int y = t % 32 / 4, x = t % 4;
  const int top = warp % {tile.down} * {8 * high};
  const int side = warp % {WARPS // tile.groups} / {tile.down} * {4 * wide};
  T sums[{high}][{wide}];
  #pragma unroll
  for (int r = 0; r < {high}; r++)
    #pragma unroll
    for (int c = 0; c < {wide}; c++) sums[r][c] = 0;
  const int last_piece = (int)((depth + DEPTH - 1) / DEPTH);
  int left_over = (int)depth;{copies[0].begin}{copies[1].begin}
  for (int piece = 1 - {tile.ring}; piece < last_piece; piece++) {{
    if (piece >= 0) {{
      wait_for_pieces<{tile.ring - 2}>();
      __syncthreads();
    }}
    const int next = piece + {tile.ring - 1};
    if (next < last_piece) {{
      T* const left = memory + next % {tile.ring} * ({rows + columns} * PITCH);
      T* const right = left + {rows} * PITCH;{copies[0].piece}{copies[1].piece}
      left_over -= DEPTH;
    }}
    end_of_piece();
    if (piece < 0) continue;
    const T* const left_used = memory + piece % {tile.ring} * ({rows + columns} * PITCH);
    const T* const right_used = left_used + {rows} * PITCH;
    #pragma unroll
    for (int s = 0; s < DEPTH / {tile.groups}; s += WIDTH) {{
      const int at = part * (DEPTH / {tile.groups}) + s;
      {_take("left", left, high, first_row, rows, tile.digits)}
      {_take("right", right, wide, first_column, columns, tile.digits)}
      #pragma unroll
      for (int v = 0; v < WIDTH; v++)
        #pragma unroll
        for (int r = 0; r < {high}; r++)
          #pragma unroll
          for (int c = 0; c < {wide}; c++) sums[r][c] += {a} * {b};
    }}{used}
  }}
  wait_for_pieces<0>();
  __syncthreads();
  #pragma unroll
  for (int r = 0; r < {high}; r++)
    #pragma unroll
    for (int c = 0; c < {wide}; c++) {{
      const int down = part * {rows} + {first_row} + {row}, along = {first_column} + {column};
      memory[down * {columns} + along] = sums[r][c];
    }}
  __syncthreads();
"""


def shared(dtype: str, tile: Tile) -> str:
    """The declaration of `memory`, and the sizes that go with the dtype."""
    depth, width = (tile.depth // 2, 2) if dtype == "float64" else (tile.depth, 4)
    ring = tile.ring * (tile.rows + tile.columns) * (depth + width)
    return f"""
  enum {{ DEPTH = {depth}, WIDTH = {width}, PITCH = DEPTH + WIDTH }};
  struct alignas(16) Together {{ T v[WIDTH]; }};
  __shared__ Together aligned[{max(ring, tile.groups * tile.size) // width}];
  T* const memory = (T*)aligned;"""


def result(tile: Tile, place: str = "o") -> str:
    """The expression of an element of the tile, the sums of all groups added up."""
    parts = [f"memory[{part * tile.size} + {place}]" for part in range(tile.groups)]
    while len(parts) > 1:
        parts = [f"({a} + {b})" for a, b in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def each(tile: Tile, body: str) -> str:
    """A loop over the tile's elements inside out: `value` at row `r`, column `j`."""
    return f"""
  #pragma unroll
  for (int q = 0; q < {max(1, tile.size // THREADS)}; q++) {{
    const int o = t + q * {THREADS};
    const I r = row0 + o / {tile.columns}, j = column0 + o % {tile.columns};
    if ({"o < " + str(tile.size) + " && " if tile.size < THREADS else ""}r < n && j < columns) {{
    const T value = {result(tile)};
    {body}
    }}
  }}"""


def place(tile: Tile) -> str:
    """Network, row0 and column0 of a block: tiles lie along blockIdx.x, column by column."""
    return f"""
  const I k = blockIdx.y, across = (n + {tile.rows - 1}) / {tile.rows}, block = blockIdx.x;
  const I row0 = block % across * {tile.rows}, column0 = block / across * {tile.columns};"""


# -- where operands lie ------------------------------------------------------

WEIGHTS = Operand("W + k * stride + (row0 + {c}) * depth + {i}", "depth", INNER)  # W
TURNED = Operand("W + k * stride + ({i}) * n + row0 + {c}", "n", OUTER)  # Wᵀ
COLUMNS = Operand(  # A, δ
    "input + (k * own * depth + {i}) * columns + column0 + {c}", "columns", OUTER
)
ROWS = Operand(  # of examples
    "input + (k * own * columns + column0 + {c}) * depth + {i}", "depth", INNER
)
FOUND = Operand("", "", INNER, found=True)  # rows: see `find_examples`

# the columns that examples are, for the way back
KEPT = """if (column0 + c < columns && from + i < depth)
        kept[(k * own * depth + from + i) * columns + column0 + c] = *it;"""


def find_examples(tile: Tile) -> str:
    """Addresses of the rows that are the tile's columns, found through the order."""
    return f"""
  __shared__ const T* example[{tile.columns}];
  if (threadIdx.x < {tile.columns}) {{
    const I j = column0 + threadIdx.x < columns ? column0 + threadIdx.x : 0;
    const I row = ((const I*)inbox->order)[k * inbox->pitch + inbox->start + j];
    example[threadIdx.x] = input + row * depth;
  }}
  __syncthreads();"""


Lies = Literal["columns", "rows", "found"]


def forward(dtype: str, tile: Tile, lies: Lies) -> str:
    """W · input, of examples that are columns, or rows, or rows found through the order."""
    body = f"{place(tile)}{shared(dtype, tile)}"
    if lies == "found":
        return body + find_examples(tile) + product(WEIGHTS, FOUND, tile, KEPT)
    return body + product(WEIGHTS, COLUMNS if lies == "columns" else ROWS, tile)


# input  (inner, columns), of each network its `own` or one of all; or its transpose, rows; or
#        all examples as rows, of which the batch's are put in `kept` as columns
INPUT = "const T* W, const T* input, T* kept, const Inbox* inbox, I own, I depth"


def multiply(dtype: str, tile: Tile, turned: bool, lies: Lies, add: bool) -> Source:
    """out ← W · input (+ out), or Wᵀ · input where `turned`."""
    if turned:
        body = f"{place(tile)}{shared(dtype, tile)}{product(TURNED, COLUMNS, tile)}"
    else:
        body = forward(dtype, tile, lies)
    body += each(tile, f"out[(k * n + r) * columns + j] {'+=' if add else '='} value;")
    return source("multiply", dtype, f"{INPUT}, T* out, I n, I columns, I stride", body)


WIDEST = 32  # rows of a tile that takes all units of the last layer
