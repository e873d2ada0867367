/* Runs a table of calls, some of them shared out to threads.

   A call is a row of WORDS integers: the kernel, into how many parts its work may be cut,
   and the kernel's own arguments. All threads take parts of the same call until none is
   left; then the next call begins. A thread that the system has put aside holds nobody up
   unless it was put aside in the middle of a part: whoever has time takes the next one.  */

#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

typedef long long I;
typedef unsigned long long U;
typedef void Kernel(const I *words, I part, I parts);

/* MANNERS: pauses for which a thread waits before it offers its core to others, about 3 µs;
   PATIENCE: offers after which a helper goes to sleep, some milliseconds; WORTH: parts of
   calls, each some microseconds of work, for which sleeping helpers are woken, which takes
   as long as a hundred microseconds.  */
enum { WORDS = 16, MOST_THREADS = 64, MANNERS = 200, PATIENCE = 20000, WORTH = 32 };

#if defined __x86_64__ || defined __i386__
#define PAUSE() __builtin_ia32_pause()
#elif defined __aarch64__
#define PAUSE() __asm__ volatile("yield")
#else
#define PAUSE() ((void)0)
#endif

/* The call at hand. `open` tells its number (upper 32 bits), its parts (16) and the next
   part to be taken (16) in one word, so that a part is taken by one compare-and-swap and
   never from a call that is over.  */
static _Atomic U open_call;
static _Atomic(const I *) call_words;
static _Atomic I finished;

static pthread_mutex_t helpers_lock = PTHREAD_MUTEX_INITIALIZER; /* of whoever runs a table */
static pthread_mutex_t sleep_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static _Atomic I sleepers;
static I helpers;
static pthread_t helper[MOST_THREADS];
static I slept; /* parts done alone while they slept */

static _Thread_local I threads = 1;

static int take_parts(void) {
  int took = 0;
  for (;;) {
    U now = atomic_load_explicit(&open_call, memory_order_acquire);
    const I part = now & 0xffff, parts = now >> 16 & 0xffff;
    if (part >= parts) return took;
    const I *words = atomic_load_explicit(&call_words, memory_order_relaxed);
    if (!atomic_compare_exchange_strong(&open_call, &now, now + 1)) continue;
    ((Kernel *)words[0])(words, part, parts);
    atomic_fetch_add_explicit(&finished, 1, memory_order_release);
    took = 1;
  }
}

static void *help(void *unused) {
  (void)unused;
  for (;;) {
    for (I i = 0; i < MANNERS + PATIENCE; i++) {
      if (take_parts()) i = 0;
      i < MANNERS ? (void)PAUSE() : (void)sched_yield();
    }
    pthread_mutex_lock(&sleep_lock);
    atomic_fetch_add(&sleepers, 1);
    const U seen = atomic_load(&open_call) >> 32;
    while (seen == atomic_load(&open_call) >> 32) pthread_cond_wait(&wake, &sleep_lock);
    atomic_fetch_sub(&sleepers, 1);
    pthread_mutex_unlock(&sleep_lock);
  }
  return NULL;
}

static void forked(void) { /* the child has none of the parent's helpers */
  helpers = 0;
  atomic_store(&sleepers, 0);
  pthread_mutex_init(&helpers_lock, NULL);
  pthread_mutex_init(&sleep_lock, NULL);
  pthread_cond_init(&wake, NULL);
}

static void hire(I wanted) {
  static int registered;
  if (!registered) registered = !pthread_atfork(NULL, NULL, forked);
  while (helpers < wanted && helpers < MOST_THREADS - 1) {
    if (pthread_create(helper + helpers, NULL, help, NULL)) return;
    pthread_detach(helper[helpers++]);
  }
}

/* Helpers keep off the caller's core: a system may wake them there though another is idle,
   and it would take milliseconds until it moves them.  */
static void part_ways(void) {
#ifdef __linux__
  cpu_set_t cores;
  const int here = sched_getcpu();
  if (here < 0 || pthread_getaffinity_np(pthread_self(), sizeof cores, &cores)) return;
  CPU_CLR(here, &cores);
  if (!CPU_COUNT(&cores)) return;
  for (I i = 0; i < helpers; i++) pthread_setaffinity_np(helper[i], sizeof cores, &cores);
#endif
}

/* Whether helpers are awake; wakes them once there has been enough for them to do.  */
static int awake(I parts) {
  if (!atomic_load(&sleepers)) return 1;
  slept += parts;
  if (slept < WORTH) return 0;
  slept = 0;
  part_ways();
  pthread_mutex_lock(&sleep_lock);
  atomic_fetch_add(&open_call, (U)1 << 32);
  pthread_cond_broadcast(&wake);
  pthread_mutex_unlock(&sleep_lock);
  return 1;
}

static void share(const I *words, I parts) {
  const U number = (atomic_load(&open_call) >> 32) + 1;
  atomic_store(&finished, 0);
  atomic_store(&call_words, words);
  atomic_store(&open_call, number << 32 | (U)parts << 16);
  take_parts();
  for (I i = 0; atomic_load_explicit(&finished, memory_order_acquire) < parts; i++)
    i < MANNERS ? (void)PAUSE() : (void)sched_yield();
}

/* How many threads `run` may use when this thread calls it; returns how many it was.  */
I use_threads(I wanted) {
  const I before = threads;
  threads = wanted < 1 ? 1 : wanted > MOST_THREADS ? MOST_THREADS : wanted;
  return before;
}

void run(const I *table, I calls) {
  const int sharing = threads > 1 && !pthread_mutex_trylock(&helpers_lock);
  if (sharing) hire(threads - 1);
  for (const I *words = table; words < table + calls * WORDS; words += WORDS) {
    const I parts = words[1] < threads ? words[1] : threads;
    if (sharing && parts > 1 && awake(words[1]))
      share(words, parts);
    else
      ((Kernel *)words[0])(words, 0, 1);
  }
  if (sharing) pthread_mutex_unlock(&helpers_lock);
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

/* out ← A B, row-major: the words after the first two are the BLAS's function, whether A
   and B are read transposed, rows, columns and inner size, A, B and out, each with its
   pitch, and the rows and columns of `out` that are one call of the function.  */

enum { ROW_MAJOR = 101, PLAIN = 111, TRANSPOSED = 112 };

static I least(I a, I b) { return a < b ? a : b; }

#define PRODUCT(NAME, T, INT)                                                                \
  typedef void NAME##_blas(int, int, int, INT, INT, INT, T, const T *, INT, const T *, INT,  \
                           T, T *, INT);                                                     \
  void NAME(const I *w, I part, I parts) {                                                   \
    const int ta = w[3] ? TRANSPOSED : PLAIN, tb = w[4] ? TRANSPOSED : PLAIN;                \
    const I rows = w[5], columns = w[6], inner = w[7], pa = w[9], pb = w[11], pc = w[13];    \
    const I most = rows > columns ? rows : columns;                                          \
    const I step = (most + 8 * parts - 1) / (8 * parts) * 8;                                 \
    const I from = part * step, until = least(from + step, most);                            \
    const int by_row = rows >= columns;                                                      \
    const I last_i = by_row ? until : rows, last_j = by_row ? columns : until;               \
    const T *A = (const T *)w[8], *B = (const T *)w[10];                                     \
    T *C = (T *)w[12];                                                                       \
    for (I i = by_row ? from : 0; i < last_i; i += w[14])                                    \
      for (I j = by_row ? 0 : from; j < last_j; j += w[15])                                  \
        ((NAME##_blas *)w[2])(ROW_MAJOR, ta, tb, least(w[14], last_i - i),                   \
                              least(w[15], last_j - j), inner, 1,                            \
                              A + (ta == PLAIN ? i * pa : i), pa,                            \
                              B + (tb == PLAIN ? j : j * pb), pb, 0, C + i * pc + j, pc);    \
  }

/* The same for one column, by the BLAS's product of a matrix and a vector.  */
#define VECTOR(NAME, T, INT)                                                                 \
  typedef void NAME##_blas(int, int, INT, INT, T, const T *, INT, const T *, INT, T, T *,    \
                           INT);                                                             \
  void NAME(const I *w, I part, I parts) {                                                   \
    (void)part, (void)parts;                                                                 \
    const I rows = w[5], inner = w[7], pa = w[9];                                            \
    ((NAME##_blas *)w[2])(ROW_MAJOR, w[3] ? TRANSPOSED : PLAIN, w[3] ? inner : rows,         \
                          w[3] ? rows : inner, 1, (const T *)w[8], pa, (const T *)w[10],     \
                          w[4] ? 1 : w[11], 0, (T *)w[12], w[13]);                           \
  }

VECTOR(vector_float32_64, float, long long)
VECTOR(vector_float64_64, double, long long)
VECTOR(vector_float32_32, float, int)
VECTOR(vector_float64_32, double, int)

PRODUCT(product_float32_64, float, long long)
PRODUCT(product_float64_64, double, long long)
PRODUCT(product_float32_32, float, int)
PRODUCT(product_float64_32, double, int)
