/* Runs a table of calls, some of them shared out to threads.

   A call is a row of WORDS integers: the kernel, into how many parts its work may be cut,
   and the kernel's own arguments. A thread takes its own part of a call, which is the same of
   every call, for there is what its core has at hand; then those that are left. A thread that
   the system has put aside holds nobody up unless it was put aside in the middle of a part.

   Whether a table is shared at all is weighed by its own times (`Weighed`). No result depends on
   that, nor on who took which part, for a call is cut the same way in any case.  */

#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <time.h>

typedef long long I;
typedef unsigned long long U;
typedef void Kernel(const I *words, I part, I parts);

static inline I least(I a, I b) { return a < b ? a : b; }

/* MANNERS: pauses for which a thread waits before it offers its core to others, about 3 µs;
   PATIENCE: offers after which a helper goes to sleep, some milliseconds; WORTH: parts of
   calls, each about a microsecond of work, for which sleeping helpers are woken, which takes
   as long as a hundred microseconds.  */
enum { WORDS = 16, WHOLE = 14, MOST_THREADS = 64, MANNERS = 200, PATIENCE = 20000, WORTH = 128 };

static inline void rest(void) {
#if defined __x86_64__ || defined __i386__
  __builtin_ia32_pause();
#elif defined __aarch64__
  __asm__ volatile("yield");
#endif
}

/* Numbers below the least normal one (1.2e-38 in float32) count as zero while a table is worked
   off, in what the BLAS computes, too. Processors take some hundred cycles for each, and the
   probabilities of a classifier that is sure are full of them.  */
#if defined __SSE__
typedef unsigned Rounding;
static inline Rounding rounding(void) { return __builtin_ia32_stmxcsr(); }
static inline void round_by(Rounding how) { __builtin_ia32_ldmxcsr(how); }
enum { FLUSH = 0x8040 }; /* flush results to zero, and take operands for zero */
#elif defined __aarch64__
typedef U Rounding;
static inline Rounding rounding(void) {
  Rounding how;
  __asm__ volatile("mrs %0, fpcr" : "=r"(how));
  return how;
}
static inline void round_by(Rounding how) { __asm__ volatile("msr fpcr, %0" : : "r"(how)); }
enum { FLUSH = 1 << 24 };
#else
typedef int Rounding;
static inline Rounding rounding(void) { return 0; }
static inline void round_by(Rounding how) { (void)how; }
enum { FLUSH = 0 };
#endif

/* The call at hand: its number (upper 48 bits) and its parts, in one word. `taken` tells of each
   part of which call it was taken last: one that is not yet of the call at hand is free, and
   who comes late, from a call that is over, finds none. Numbers only grow, and last for years:
   of 32 bits they would come round in an hour or two, and a part that no call had for so long
   would be taken for one of a later call.  */
enum { NUMBER = 16, PARTS = (1 << NUMBER) - 1 };
static _Atomic U open_call;
static _Atomic(const I *) call_words;
static _Atomic I finished;
static struct {
  _Atomic U call;
  char apart[56]; /* a line of the cache for each */
} taken[MOST_THREADS];

static pthread_mutex_t helpers_lock = PTHREAD_MUTEX_INITIALIZER; /* of whoever runs a table */
static pthread_mutex_t sleep_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static _Atomic I sleepers;
static I helpers;
static pthread_t helper[MOST_THREADS];
static I slept; /* parts done alone while they slept */

static _Thread_local I threads = 1;

/* A fork waits until no table is worked off, and none begins before it is done. The BLAS stops
   its own threads at a fork, and locks of its own that somebody holds then stay locked in the
   child for ever.  */
static _Atomic I running, forking;

static void begin(void) {
  atomic_fetch_add(&running, 1);
  while (atomic_load(&forking)) {
    atomic_fetch_sub(&running, 1);
    while (atomic_load(&forking)) sched_yield();
    atomic_fetch_add(&running, 1);
  }
}

/* The call after the one at hand, of no parts.  */
static U next_call(void) { return (atomic_load(&open_call) | PARTS) + 1; }

static int take_parts(I mine) {
  const U call = atomic_load_explicit(&open_call, memory_order_acquire);
  const I parts = call & PARTS;
  int took = 0;
  for (I i = 0; i < parts; i++) {
    const I part = (mine + i) % parts;
    U last = atomic_load_explicit(&taken[part].call, memory_order_relaxed);
    if (last >= call || !atomic_compare_exchange_strong(&taken[part].call, &last, call)) continue;
    const I *words = atomic_load_explicit(&call_words, memory_order_relaxed);
    ((Kernel *)words[0])(words, part, parts);
    atomic_fetch_add_explicit(&finished, 1, memory_order_release);
    took = 1;
  }
  return took;
}

static void *help(void *mine) {
  round_by(rounding() | FLUSH);
  for (;;) {
    for (I i = 0; i < MANNERS + PATIENCE; i++) {
      if (take_parts((I)mine)) i = 0;
      i < MANNERS ? rest() : (void)sched_yield();
    }
    pthread_mutex_lock(&sleep_lock);
    atomic_fetch_add(&sleepers, 1);
    const U seen = atomic_load(&open_call);
    while (seen == atomic_load(&open_call)) pthread_cond_wait(&wake, &sleep_lock);
    atomic_fetch_sub(&sleepers, 1);
    pthread_mutex_unlock(&sleep_lock);
  }
  return NULL;
}

static void before_fork(void) {
  atomic_fetch_add(&forking, 1);
  while (atomic_load(&running)) sched_yield();
}

static void after_fork(void) { atomic_fetch_sub(&forking, 1); }

static void forked(void) { /* the child has none of the parent's helpers */
  helpers = 0;
  atomic_store(&running, 0); /* nor whoever was about to wait in `begin` */
  atomic_store(&forking, 0);
  atomic_store(&sleepers, 0);
  atomic_store(&open_call, next_call());
  pthread_mutex_init(&helpers_lock, NULL);
  pthread_mutex_init(&sleep_lock, NULL);
  pthread_cond_init(&wake, NULL);
}

/* When the library is loaded: after the BLAS, whose own handler so comes after ours.  */
__attribute__((constructor)) static void watch_forks(void) {
  pthread_atfork(before_fork, after_fork, forked);
}

/* Have as many helpers as are wanted; whether any is new.  */
static int hire(I wanted) {
  const I before = helpers;
  while (helpers < wanted && helpers < MOST_THREADS - 1) {
    if (pthread_create(helper + helpers, NULL, help, (void *)(helpers + 1))) break;
    pthread_detach(helper[helpers++]);
  }
  return helpers > before;
}

/* Helpers keep off the caller's core: a system may wake them there, or move the caller to
   theirs, though another is idle, and take milliseconds to part them.  */
static void part_ways(int hired) {
#ifdef __linux__
  static int before = -1;
  const int here = sched_getcpu();
  cpu_set_t cores;
  if (here == before && !hired) return;
  before = here;
  if (here < 0 || pthread_getaffinity_np(pthread_self(), sizeof cores, &cores)) return;
  CPU_CLR(here, &cores);
  if (!CPU_COUNT(&cores)) return;
  for (I i = 0; i < helpers; i++) pthread_setaffinity_np(helper[i], sizeof cores, &cores);
#else
  (void)hired;
#endif
}

/* Whether anyone is awake to help; wakes all once there has been enough for them to do.  */
static int awake(I parts, I work) {
  const I up = helpers - atomic_load(&sleepers);
  if (up >= parts - 1) return 1;
  slept += work;
  if (slept < WORTH) return up > 0;
  slept = 0;
  pthread_mutex_lock(&sleep_lock);
  atomic_store(&open_call, next_call());
  pthread_cond_broadcast(&wake);
  pthread_mutex_unlock(&sleep_lock);
  return 1;
}

static void share(const I *words, I parts) {
  atomic_store(&finished, 0);
  atomic_store(&call_words, words);
  atomic_store(&open_call, next_call() | (U)parts);
  take_parts(0);
  for (I i = 0; atomic_load_explicit(&finished, memory_order_acquire) < parts; i++)
    i < MANNERS ? rest() : (void)sched_yield();
}

/* Whether helpers pay for a table. What another core has written takes a core one to thirty
   nanoseconds a line, by where the two lie; a virtual machine may move them apart, and a core may
   be somebody else's. So a table is worked off the other way from time to time, for RUNS runs
   after the first SKIPPED, in which data change cores; and goes on in the way that took less.
   Trials take a hundredth of the time of its runs (one that was STOPPED meanwhile, as a process
   may be, does not count as long); not of the time that passes, or a table of small fits with rests
   between them would be tried at the beginning of each. A table that has calls of MOST_THREADS parts is shared at first; any other
   has its first trial early, after FIRST_RUNS runs alone. Of each the runs are known as long as no
   WAYS others of its set have run since.  */
enum { SLOTS = 64, WAYS = 8, SKIPPED = 4, RUNS = 6, FIRST_RUNS = 64, RARE = 100 };
enum { STOPPED = 32 }; /* times as long as it should have taken */
static const double LONG = 0.003; /* seconds of a trial, or before an early one, that are enough */
typedef struct {
  const I *table;
  I calls, wanted;     /* and when it was wanted last */
  int shared, trying;  /* how it is worked off; whether the other way for now */
  I runs, counted;     /* since that began, and those that count */
  double all, counts;  /* seconds of these */
  double mean;         /* of a run, the other way */
  double spent, due;   /* seconds of all runs, and after how many to try that again */
} Weighed;
static Weighed slots[SLOTS];
static int weighs = 1;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + 1e-9 * t.tv_nsec;
}

static Weighed *weighed(const I *table, I calls, I most) {
  static I times;
  Weighed *some = slots + ((U)table / sizeof(I) / WORDS + (U)calls) % (SLOTS / WAYS) * WAYS;
  Weighed *oldest = some;
  times++;
  for (Weighed *w = some; w < some + WAYS; w++) {
    if (w->table == table && w->calls == calls) return w->wanted = times, w;
    if (w->wanted < oldest->wanted) oldest = w;
  }
  *oldest = (Weighed){table, calls, times, most >= MOST_THREADS};
  return oldest;
}

static void weigh(Weighed *w, double began) {
  const double seconds = now() - began;
  w->runs++, w->all += seconds, w->spent += seconds;
  if (w->runs > (w->all < LONG ? SKIPPED : 1)) w->counted++, w->counts += seconds;
  if (w->shared && !w->due && w->counted) w->due = w->spent + RARE * seconds;
  if (!w->counted || (w->counted < (w->due ? RUNS : FIRST_RUNS) && w->all < LONG)) return;
  const double mean = w->counts / w->counted;
  if (w->trying) {
    if (mean < w->mean) w->shared = !w->shared;
    const double most = STOPPED * w->runs * w->mean;
    w->due = w->spent + RARE * (w->all < most ? w->all : most);
  } else {
    if (w->spent < w->due) return;
    w->mean = mean, w->due = w->spent;
  }
  w->trying = !w->trying;
  w->runs = w->counted = 0, w->all = w->counts = 0;
}

/* Whether tables are weighed, and not all shared; returns whether they were.  */
I use_weights(I wanted) {
  const I before = weighs;
  weighs = wanted != 0;
  return before;
}

/* How many threads `run` may use when this thread calls it; returns how many it was.  */
I use_threads(I wanted) {
  const I before = threads;
  threads = wanted < 1 ? 1 : wanted > MOST_THREADS ? MOST_THREADS : wanted;
  return before;
}

/* A call's parts one after the other: cut all the same, so that no result depends on who had
   time; but whole where a word says that its result does not depend on the cut.  */
static void alone(const I *words, I parts) {
  if (words[WHOLE]) parts = 1;
  for (I part = 0; part < parts; part++) ((Kernel *)words[0])(words, part, parts);
}

void run(const I *table, I calls) {
  begin();
  I most = 1; /* parts of a call */
  for (I i = 0; i < calls; i++) most = table[i * WORDS + 1] > most ? table[i * WORDS + 1] : most;
  const int ours = threads > 1 && most > 1 && !pthread_mutex_trylock(&helpers_lock);
  Weighed *w = ours && weighs ? weighed(table, calls, most) : NULL;
  const int sharing = ours && (!w || w->shared != w->trying);
  const double began = w ? now() : 0;
  if (sharing) part_ways(0);
  if (w && w->trying) slept = WORTH; /* or they would sleep through it */
  const Rounding callers = rounding();
  round_by(callers | FLUSH);
  for (const I *words = table; words < table + calls * WORDS; words += WORDS) {
    const I parts = words[1] < threads ? words[1] : threads;
    if (sharing && parts > helpers + 1) part_ways(hire(parts - 1));
    if (sharing && parts > 1 && awake(parts, words[1]))
      share(words, parts);
    else
      alone(words, parts);
  }
  round_by(callers);
  if (w) weigh(w, began);
  if (ours) pthread_mutex_unlock(&helpers_lock);
  atomic_fetch_sub(&running, 1);
}

/* Tables in groups that know nothing of each other, each group worked off by one thread as `run`
   does it alone: the words after the first two are where (table, calls) stand, how many groups
   there are, and where the first table of each stands, and the end.  */
void each(const I *w, I part, I parts) {
  const I *tables = (const I *)w[2], *begin = (const I *)w[4];
  for (I k = begin[w[3] * part / parts]; k < begin[w[3] * (part + 1) / parts]; k++)
    for (I call = 0; call < tables[2 * k + 1]; call++) {
      const I *words = (const I *)tables[2 * k] + call * WORDS;
      alone(words, least(words[1], parts));
    }
}

/* out ← data[index]: out, data and index, how many rows, and their bytes.  */
void gather(const I *w, I part, I parts) {
  char *out = (char *)w[2];
  const char *data = (const char *)w[3];
  const I *index = (const I *)w[4];
  const I rows = w[5], size = w[6], until = rows * (part + 1) / parts;
  I j = rows * part / parts;
  if (size == 8)
    for (; j < until; j++) memcpy(out + j * 8, data + index[j] * 8, 8);
  else if (size == 4)
    for (; j < until; j++) memcpy(out + j * 4, data + index[j] * 4, 4);
  else
    for (; j < until; j++) memcpy(out + j * size, data + index[j] * size, size);
}

/* out ← A B, row-major, by a BLAS. The words after the first two are its function, whether A
   and B are read transposed, rows, columns and inner size, and A, B and out, each with its
   pitch.  */

enum { ROW_MAJOR = 101, PLAIN = 111, TRANSPOSED = 112 };

/* How many columns the longest of their parts has: vectors want multiples of 8.  */
static I stride(I side, I parts) { return (side + 8 * parts - 1) / (8 * parts) * 8; }

#define PRODUCT(NAME, T, INT)                                                                \
  typedef void NAME##_blas(int, int, int, INT, INT, INT, T, const T *, INT, const T *, INT,  \
                           T, T *, INT);                                                     \
  void NAME(const I *w, I part, I parts) {                                                   \
    const int ta = w[3] ? TRANSPOSED : PLAIN, tb = w[4] ? TRANSPOSED : PLAIN;                \
    const I rows = w[5], columns = w[6], inner = w[7], pa = w[9], pb = w[11], pc = w[13];    \
    /* cut the side whose longest part is the smaller share of it, or else the rows */        \
    const I high = (rows + parts - 1) / parts, broad = stride(columns, parts);               \
    const int by_row = high * columns <= broad * rows;                                       \
    const I from = part * (by_row ? high : broad);                                           \
    const I n = by_row ? least(high, rows - from) : least(broad, columns - from);            \
    const I i = by_row ? from : 0, j = by_row ? 0 : from;                                    \
    const T *A = (const T *)w[8], *B = (const T *)w[10];                                     \
    if (n > 0)                                                                               \
      ((NAME##_blas *)w[2])(ROW_MAJOR, ta, tb, by_row ? n : rows, by_row ? columns : n,      \
                            inner, 1, A + (w[3] ? i : i * pa), pa,                           \
                            B + (w[4] ? j * pb : j), pb, 0, (T *)w[12] + i * pc + j, pc);    \
  }

/* The same for one column, by the BLAS's product of a matrix and a vector: in one part.  */
#define BY_VECTOR(NAME, T, INT)                                                              \
  typedef void NAME##_blas(int, int, INT, INT, T, const T *, INT, const T *, INT, T, T *,    \
                           INT);                                                             \
  void NAME(const I *w, I part, I parts) {                                                   \
    (void)part, (void)parts;                                                                 \
    const I rows = w[5], inner = w[7], pa = w[9];                                            \
    ((NAME##_blas *)w[2])(ROW_MAJOR, w[3] ? TRANSPOSED : PLAIN, w[3] ? inner : rows,         \
                          w[3] ? rows : inner, 1, (const T *)w[8], pa, (const T *)w[10],     \
                          w[4] ? 1 : w[11], 0, (T *)w[12], w[13]);                           \
  }

BY_VECTOR(vector_float32_64, float, long long)
BY_VECTOR(vector_float64_64, double, long long)
BY_VECTOR(vector_float32_32, float, int)
BY_VECTOR(vector_float64_32, double, int)

PRODUCT(product_float32_64, float, long long)
PRODUCT(product_float64_64, double, long long)
PRODUCT(product_float32_32, float, int)
PRODUCT(product_float64_32, double, int)

/* out ← A B, of examples that are rows of a sparse matrix, and the words of a product with them as
   B, or transposed as B: which of its rows stands last, and where B would lie how they are kept
   (CSR): where rows begin, their columns, their values, and whether the first two are 64 bits wide.
   A's rows are taken ROWS at a time, which share what is read of an example. Every entry has the
   terms of a dense product in its order, but for those that are zero.  */
enum { ROWS = 4 };

#define SPARSE(NAME, T, N)                                                                   \
  static void NAME##_##N(const I *w, I from, I until) {                                      \
    const I *kept = (const I *)w[10], *which = (const I *)w[15];                             \
    const N *begin = (const N *)kept[0], *columns = (const N *)kept[1];                      \
    const T *values = (const T *)kept[2], *A = (const T *)w[8];                              \
    const I pc = w[13], down = w[3] ? 1 : w[9], along = w[3] ? w[9] : 1;                     \
    const I n = w[4] ? w[6] : w[7]; /* examples */                                           \
    for (I i = from; i < until; i += ROWS) {                                                 \
      const I n_rows = least(ROWS, until - i);                                               \
      const T *a[ROWS];                                                                      \
      T *c[ROWS];                                                                            \
      for (I r = 0; r < ROWS; r++) { /* the last one stands for those beyond */              \
        a[r] = A + (i + least(r, n_rows - 1)) * down;                                        \
        c[r] = (T *)w[12] + (i + least(r, n_rows - 1)) * pc;                                 \
      }                                                                                      \
      for (I r = 0; !w[4] && r < n_rows; r++) memset(c[r], 0, w[6] * sizeof(T));             \
      for (I j = 0; j < n; j++) {                                                            \
        const I first = begin[which[j]], last = begin[which[j] + 1];                         \
        T x[ROWS];                                                                           \
        for (I r = 0; r < ROWS; r++) x[r] = w[4] ? 0 : a[r][j * along];                      \
        if (w[4]) {                                                                          \
          for (I k = first; k < last; k++) {                                                 \
            const I at = columns[k] * along;                                                 \
            const T value = values[k];                                                       \
            for (I r = 0; r < ROWS; r++) x[r] += a[r][at] * value;                           \
          }                                                                                  \
          for (I r = 0; r < n_rows; r++) c[r][j] = x[r];                                     \
        } else {                                                                             \
          for (I k = first; k < last; k++) {                                                 \
            const I at = columns[k];                                                         \
            const T value = values[k];                                                       \
            for (I r = 0; r < n_rows; r++) c[r][at] += x[r] * value;                         \
          }                                                                                  \
        }                                                                                    \
      }                                                                                      \
    }                                                                                        \
  }

#define OF_SPARSE(NAME, T)                                                                   \
  SPARSE(NAME, T, int)                                                                       \
  SPARSE(NAME, T, I)                                                                         \
  void NAME(const I *w, I part, I parts) {                                                   \
    const I high = (w[5] + parts - 1) / parts, from = part * high;                           \
    (((const I *)w[10])[3] ? NAME##_I : NAME##_int)(w, from, least(from + high, w[5]));      \
  }

OF_SPARSE(sparse_float32, float)
OF_SPARSE(sparse_float64, double)
