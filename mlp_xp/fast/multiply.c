/* C ← A B, of numbers T: a kernel of runtime.c's, one for each type (`c_source`).

   A tile of C, up to TALL rows of up to WIDE vectors, stays in registers while its sums grow:
   for each k, TALL numbers of a column of A, each times WIDE vectors of a row of B. Every entry
   is a sum over k in order, whatever the tile it is in, so no result depends on how a product
   is cut; after each DEPTH of them C is what it is up to there.

   What tiles read again and again is laid together first: columns of B where B is read
   transposed, ends within a vector, or goes to OFTEN tiles; rows of A, those of HELD tiles,
   where A is read transposed and its rows are FAR bytes apart, for then they all lie in the
   same few sets of the cache. BREADTH vectors of B are laid at once. B may also be some rows of
   a larger matrix, given by their numbers: the examples of a batch, where they lie; or windows,
   given by where each row begins, in runs of columns that lie together.  */

#include <string.h>

typedef long long I;

/* Sums fill the registers, but for what a row's vectors and a number take.  */
#if defined __AVX512F__
enum { VECTOR = 64, WIDE = 4 };
#define ROW_OF(X, R) X(R, 1) X(R, 2) X(R, 3) X(R, 4)
#elif defined __AVX2__ && defined __FMA__
enum { VECTOR = 32, WIDE = 2 };
#define ROW_OF(X, R) X(R, 1) X(R, 2)
#endif

#ifdef ROW_OF /* of others nothing has been measured: there it is the BLAS's */
enum { TALL = 6, DEPTH = 512, BREADTH = 16, OFTEN = 8, HELD = 8, FAR = 2048 };
enum { FEW = 24, LAYING = 16, TAKEN = 20 }; /* see the end */
enum { LANES = VECTOR / sizeof(T) };
#define TILES(X) ROW_OF(X, 1) ROW_OF(X, 2) ROW_OF(X, 3) ROW_OF(X, 4) ROW_OF(X, 5) ROW_OF(X, 6)
#define EACH(i, n) _Pragma("GCC unroll 32") for (int i = 0; i < (n); i++)

typedef T V __attribute__((vector_size(VECTOR), aligned(sizeof(T)), may_alias));
typedef __typeof__((V){0} == (V){0}) Order; /* whole numbers of T's size */

static _Thread_local struct {
  T a[DEPTH * HELD * TALL], b[DEPTH * BREADTH * LANES];
} rooms __attribute__((aligned(64)));

static inline I least(I a, I b) { return a < b ? a : b; }
static inline I ceiled(I n, I part) { return (n + part - 1) / part; }

/* A square of LANES rows of B, from a column on, as columns of `out`, whose rows are `apart`; the
   last one stands for those beyond `there`.  */
static inline void turn(const T *const *B, I column, I there, T *out, I apart) {
#ifdef __clang__
  for (I k = 0; k < LANES; k++)
    for (I j = 0; j < LANES; j++) out[k * apart + j] = B[least(j, there - 1)][column + k];
#else
  V rows[LANES], next[LANES];
  Order low, high; /* two vectors' entries by turns, of their lower and of their upper halves */
  EACH(i, LANES) low[i] = (i & 1) * LANES + i / 2, high[i] = low[i] + LANES / 2;
  EACH(i, LANES) rows[i] = *(const V *)(B[least(i, there - 1)] + column);
  EACH(n, LANES == 16 ? 4 : LANES == 8 ? 3 : LANES == 4 ? 2 : 1) {
    EACH(i, LANES / 2) {
      next[2 * i] = __builtin_shuffle(rows[i], rows[i + LANES / 2], low);
      next[2 * i + 1] = __builtin_shuffle(rows[i], rows[i + LANES / 2], high);
    }
    EACH(i, LANES) rows[i] = next[i];
  }
  EACH(i, LANES) *(V *)(out + i * apart) = rows[i];
#endif
}

/* out ← n rows of `width` columns of B, or as many columns of so many rows, turned, as `lanes`
   columns: what stands beyond is of no account. B is where each row begins. There are `left`
   columns before them. Where a vector would end beyond B, one is taken that ends with it.  */
static void lay(int turned, const T *const *B, I n, I left, I width, I lanes, T *out) {
  for (I j = 0; j < lanes; j += LANES, out += LANES) {
    const I there = least(LANES, width - j), back = LANES - there;
    if (turned && n >= LANES) {
      for (I k = 0; k < n; k += LANES) {
        const I at = least(k, n - LANES);
        turn(B + j, at, there, out + at * lanes, lanes);
      }
    } else if (turned) {
      for (I k = 0; k < n; k++)
        for (I i = 0; i < there; i++) out[k * lanes + i] = B[j + i][k];
    } else if (!back) {
      for (I k = 0; k < n; k++) *(V *)(out + k * lanes) = *(const V *)(B[k] + j);
#ifndef __clang__
    } else if (left + j >= back) {
      Order shifted;
      EACH(i, LANES) shifted[i] = i + back; /* and from the beginning again */
      for (I k = 0; k < n; k++) {
        const V last = *(const V *)(B[k] + j - back);
        *(V *)(out + k * lanes) = __builtin_shuffle(last, shifted);
      }
#endif
    } else {
      for (I k = 0; k < n; k++) memcpy(out + k * lanes, B[k] + j, there * sizeof(T));
    }
  }
}

/* R rows of N vectors: C ← A B, or C + A B.  */
static inline __attribute__((always_inline)) void tile(
    const int R, const int N, I n, const T *A, I down, I along, const T *B, I pitch, T *C, I pc,
    int add) {
  V c[TALL][WIDE], b[WIDE];
  EACH(i, R) EACH(j, N) c[i][j] = add ? *(const V *)(C + i * pc + j * LANES) : (V){0};
  for (I k = 0; k < n; k++, A += along, B += pitch) {
    EACH(j, N) b[j] = *(const V *)(B + j * LANES);
    EACH(i, R) {
      const T a = A[i * down];
      EACH(j, N) c[i][j] += a * b[j];
    }
  }
  EACH(i, R) EACH(j, N) *(V *)(C + i * pc + j * LANES) = c[i][j];
}

#define TILE(R, N)                                                                          \
  static void tile_##R##_##N(I n, const T *A, I down, I along, const T *B, I pitch, T *C,   \
                             I pc, int add) {                                               \
    tile(R, N, n, A, down, along, B, pitch, C, pc, add);                                    \
  }
#define TILE_NAME(R, N) tile_##R##_##N,
TILES(TILE)
typedef void Tile(I, const T *, I, I, const T *, I, T *, I, int);
static Tile *const tiles[TALL][WIDE] = {TILES(TILE_NAME)};

/* All of it, on this thread; `add`: to what C is. Rows and columns of C lie ci and cj apart.
   `which` rows B has, of those `pb` apart; NULL: the first ones.  */
static void whole(int ta, int tb, I rows, I columns, I inner, const T *A, I pa, const T *B, I pb,
                  const I *which, T *C, I ci, I cj, int add) {
  struct {
    const T *B;
    I pitch, column, width, vectors;
  } panels[BREADTH];
  const T *lines[DEPTH]; /* of B, that are laid: of one panel there are fewer than of a depth */
  T edge[TALL * WIDE * LANES] __attribute__((aligned(64)));
  const I depth = ceiled(inner, ceiled(inner, DEPTH) + !inner), n_tiles = ceiled(rows, TALL);
  const int far = ta && pa * (I)sizeof(T) >= FAR;
  I k = 0;
  do {
    const I n = least(depth, inner - k);
    const T *a = A + (ta ? k * pa : k);
    const int more = add || k > 0;
    for (I start = 0; start < columns; start += BREADTH * LANES) {
      const I until = least(columns, start + BREADTH * LANES);
      I n_panels = 0;
      T *next = rooms.b;
      for (I j = start; j < until; n_panels++) {
        const I vectors = least(WIDE, ceiled(until - j, LANES)), lanes = vectors * LANES;
        const I width = least(lanes, until - j);
        const int together = tb || width < lanes || n_tiles >= OFTEN || which;
        const I line = tb ? j : k, n_lines = tb ? width : n, column = tb ? k : j;
        if (together) {
          for (I x = 0; x < n_lines; x++)
            lines[x] = B + (which ? which[line + x] : line + x) * pb + column;
          lay(tb, lines, n, j, width, lanes, next);
        }
        panels[n_panels].B = together ? next : B + line * pb + column;
        panels[n_panels].pitch = together ? lanes : pb;
        panels[n_panels].column = j;
        panels[n_panels].width = width;
        panels[n_panels].vectors = vectors;
        j += lanes;
        next += n * lanes;
      }
      for (I t = 0, laid = 0, first = 0, n_laid = 0; t < n_tiles; t++) {
        const I i = rows * t / n_tiles, r = rows * (t + 1) / n_tiles - i;
        const T *own = a + (ta ? i : i * pa);
        if (far && t == laid) {
          laid = least(t + HELD, n_tiles), first = i, n_laid = rows * laid / n_tiles - i;
          for (I l = 0; l < n; l++)
            memcpy(rooms.a + l * n_laid, own + l * pa, n_laid * sizeof(T));
        }
        if (far) own = rooms.a + i - first;
        const I down = ta ? 1 : pa, along = far ? n_laid : ta ? pa : 1;
        for (I p = 0; p < n_panels; p++) {
          Tile *const kernel = tiles[r - 1][panels[p].vectors - 1];
          const I width = panels[p].width, lanes = panels[p].vectors * LANES;
          T *c = C + i * ci + panels[p].column * cj;
          if (cj == 1 && width == lanes) {
            kernel(n, own, down, along, panels[p].B, panels[p].pitch, c, ci, more);
            continue;
          }
          for (I x = 0; more && x < r; x++)
            for (I y = 0; y < width; y++) edge[x * lanes + y] = c[x * ci + y * cj];
          kernel(n, own, down, along, panels[p].B, panels[p].pitch, edge, lanes, more);
          for (I x = 0; x < r; x++)
            for (I y = 0; y < width; y++) c[x * ci + y * cj] = edge[x * lanes + y];
        }
      }
    }
    k += n;
  } while (k < inner);
}

/* Of windows: the runs of B's columns, or of its rows where it is read transposed. How many there
   are, how many columns each has, and where each begins in B.  */
static void in_runs(int ta, int tb, I rows, I from, I until, I inner, const T *A, I pa,
                    const T *B, const I *which, const I *runs, T *C, I pc) {
  const I n_runs = runs[0], width = runs[1], *starts = runs + 2;
  for (I run = 0; run < n_runs; run++) {
    const T *b = B + starts[run];
    const I before = run * width;
    if (tb) {
      whole(ta, 1, rows, until - from, width, A + (ta ? before * pa : before), pa, b, 1,
            which + from, C + from, pc, 1, run > 0);
      continue;
    }
    const I first = from > before ? from - before : 0, last = least(width, until - before);
    if (first < last)
      whole(ta, 0, rows, last - first, inner, A, pa, b + first, 1, which, C + before + first, pc,
            1, 0);
  }
}

/* The words of a product of the BLAS's, but for its function: whether A is only read; and the runs
   of B, and which rows it has. Where B is
   read transposed, few rows are better the columns of Cᵀ = Bᵀ Aᵀ, for which A is laid together
   instead of B.  */
void NAME(const I *w, I part, I parts) {
  const I inner = w[7], pa = w[9], pb = w[11], pc = w[13];
  const T *A = (const T *)w[8], *B = (const T *)w[10];
  T *C = (T *)w[12];
  const I *runs = (const I *)w[14], *which = (const I *)w[15];
  const int turned = w[4] && !which && (w[3] || w[5] <= FEW);
  const int ta = turned ? 0 : w[3], tb = turned ? !w[3] : w[4];
  const I rows = turned ? w[6] : w[5], columns = turned ? w[5] : w[6];
  /* rows are cut if they can be: then a thread has to do with the same rows of a layer's weights
     in its products and in the update, which its core has at hand; where columns are cut all
     threads read all of A, and whoever writes it next must first take it from the others. To lay
     a column takes as long as what some rows do with it, to take a number from another core as
     long as TAKEN multiplications: 784-100-10, batch 32, is 1.75 times as fast for it. An A that
     nobody writes, as in a prediction, is cut by what it takes to lay alone */
  const I high = ceiled(rows, parts), broad = ceiled(ceiled(columns, LANES), parts) * LANES;
  const I laying = tb || runs ? LAYING : 0, by_rows = (high + laying) * columns;
  const I by_columns = (rows + laying) * broad;
  const int by_row = w[2] ? by_rows <= by_columns
                          : 8 * by_rows <= 9 * by_columns + 8 * TAKEN * rows;
  const I i = by_row ? part * high : 0, j = by_row ? 0 : part * broad;
  const I n_i = by_row ? least(high, rows - i) : rows;
  const I n_j = by_row ? columns : least(broad, columns - j);
  if (n_i <= 0 || n_j <= 0) return;
  if (runs)
    in_runs(ta, tb, n_i, j, j + n_j, inner, A + (ta ? i : i * pa), pa, B, which, runs, C + i * pc,
            pc);
  else if (turned)
    whole(0, tb, n_i, n_j, inner, B + i * pb, pb, A + (tb ? j * pa : j), pa, NULL, C + j * pc + i,
          1, pc, 0);
  else
    whole(ta, tb, n_i, n_j, inner, A + (ta ? i : i * pa), pa,
          B + (!tb ? j : which ? 0 : j * pb), pb, which && tb ? which + j : which,
          C + i * pc + j, pc, 1, 0);
}
#endif
