// launch.cpp: runs one kernel launch.
//
// A kernel without barriers runs its threads one after the other in a plain
// loop (in the module, device/cupycpu/launcher.h). One with barriers or warp
// functions runs each thread of a block as a fiber with a stack of its own,
// switched at barriers. Launches are one at a time (run_exclusive), so the state
// of the launch in progress is global.
#include "module.h"
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

// Saves the callee-saved registers on this stack, its pointer in *save, and
// continues on the stack `load`.
extern "C" void cupycpu_switch_stack(void **save, void *load);
#if defined(__x86_64__)
asm(R"(
.text
.globl cupycpu_switch_stack
.hidden cupycpu_switch_stack
.type cupycpu_switch_stack,@function
cupycpu_switch_stack:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size cupycpu_switch_stack,.-cupycpu_switch_stack
)");
const int SAVED_REGISTERS = 6;
#else
#error "only x86-64 has a stack switch so far"
#endif

namespace cupycpu {
namespace {
// ---- the launch in progress
const KernelInfo *kernel;
void **arguments;
Indices *indices;
bool failed;
int failure_status;
jmp_buf after_failure;  // where a failed plain loop goes
alignas(128) char dynamic_shared_memory[256 << 10];

// ---- fibers: the threads of one block
enum State : unsigned char { READY, AT_WARP_BARRIER, AT_BLOCK_BARRIER, DONE };
struct Fiber {
  void *stack_pointer;
  State state;
  Extent thread;
};
struct Warp {
  unsigned barriers = 0;  // passed so far
  unsigned members = 0;   // lanes that met at the last one
};
const size_t STACK_SIZE = 128 << 10;
const unsigned MAX_THREADS = 1024, WARP = 32, MAX_EXCHANGE = 64;
const int NO_FIBER = -1;
Fiber fibers[MAX_THREADS];
Warp warps[MAX_THREADS / WARP];
char *stacks = nullptr;
void *scheduler_stack;
int current = NO_FIBER;
// What lanes publish to their warp. Two sets, by the parity of the barrier: a
// fast lane may publish again before a slow one has read.
alignas(64) char published[2][MAX_THREADS][MAX_EXCHANGE];
int accumulators[3][2];  // of __syncthreads_count, _and, _or; by parity again
unsigned block_barriers;

void wait_at(State state) {
  Fiber &f = fibers[current];
  f.state = state;
  cupycpu_switch_stack(&f.stack_pointer, scheduler_stack);
}
void require_fiber(const char *what) {
  if (current != NO_FIBER) return;
  fprintf(stderr,
          "cupy_cpu: %s reached in a kernel that was not recognised as using barriers\n", what);
  abort();
}
void reset_accumulators(unsigned parity) {
  accumulators[0][parity] = accumulators[2][parity] = 0;
  accumulators[1][parity] = 1;
}

// ---- called by kernels
void block_sync() {
  require_fiber("__syncthreads");
  wait_at(AT_BLOCK_BARRIER);
}
void warp_sync(unsigned) {
  require_fiber("__syncwarp");
  wait_at(AT_WARP_BARRIER);
}
const void *warp_exchange(unsigned, const void *value, unsigned size, unsigned source) {
  require_fiber("a warp shuffle");
  if (size > MAX_EXCHANGE) {
    fprintf(stderr, "cupy_cpu: a warp shuffle of %u bytes\n", size);
    abort();
  }
  unsigned me = current, warp = me / WARP, parity = warps[warp].barriers & 1;
  memcpy(published[parity][me], value, size);
  wait_at(AT_WARP_BARRIER);
  bool active = warps[warp].members >> (source % WARP) & 1;
  return published[parity][active ? warp * WARP + source % WARP : me];
}
unsigned warp_ballot(unsigned mask, int predicate, unsigned *active) {
  require_fiber("a warp vote");
  unsigned me = current, warp = me / WARP, parity = warps[warp].barriers & 1;
  published[parity][me][0] = predicate != 0;
  wait_at(AT_WARP_BARRIER);
  *active = warps[warp].members & mask;
  unsigned votes = 0;
  for (unsigned lane = 0; lane < WARP; lane++)
    if ((*active >> lane & 1) && published[parity][warp * WARP + lane][0]) votes |= 1u << lane;
  return votes;
}
int block_reduce(int operation, int predicate) {
  require_fiber("__syncthreads_count, _and or _or");
  unsigned parity = block_barriers & 1;
  int p = predicate != 0;
  accumulators[0][parity] += p;
  accumulators[1][parity] &= p;
  accumulators[2][parity] |= p;
  wait_at(AT_BLOCK_BARRIER);
  return accumulators[operation][parity];
}
void fail(const char *expression, const char *file, int line) {
  Extent b = indices->block, t = indices->thread;
  fprintf(stderr, "%s:%d: block: [%u,%u,%u], thread: [%u,%u,%u] Assertion `%s` failed.\n", file,
          line, b.x, b.y, b.z, t.x, t.y, t.z, expression);
  failed = true;
  failure_status = ERROR_ASSERT;
  if (current == NO_FIBER) longjmp(after_failure, 1);
  wait_at(DONE);
  abort();
}
void *dynamic_shared() { return dynamic_shared_memory; }
Runtime runtime = {block_sync,   warp_sync, warp_exchange, warp_ballot,
                   block_reduce, fail,      dynamic_shared};

// ---- one block of fibers
void fiber_main() {
  kernel->run(arguments, 1);
  wait_at(DONE);
  abort();
}
void resume(unsigned i) {
  current = i;
  indices->thread = fibers[i].thread;
  cupycpu_switch_stack(&scheduler_stack, fibers[i].stack_pointer);
  current = NO_FIBER;
}
unsigned make_fibers() {
  const Extent b = indices->block_dim;
  unsigned i = 0;
  for (unsigned z = 0; z < b.z; z++)
    for (unsigned y = 0; y < b.y; y++)
      for (unsigned x = 0; x < b.x; x++, i++) {
        void **sp = (void **)(stacks + STACK_SIZE * (i + 1));
        *--sp = nullptr;  // leaves rsp % 16 == 8 at entry, as after a call
        *--sp = (void *)fiber_main;
        for (int k = 0; k < SAVED_REGISTERS; k++) *--sp = nullptr;
        fibers[i] = {sp, READY, {x, y, z}};
      }
  return i;
}
// Runs a warp until each of its lanes is done or at a block barrier.
void run_warp(unsigned first, unsigned end) {
  Warp &warp = warps[first / WARP];
  for (;;) {
    for (unsigned t = first; t < end; t++)
      if (fibers[t].state == READY) {
        resume(t);
        if (failed) return;
      }
    unsigned members = 0;
    for (unsigned t = first; t < end; t++)
      if (fibers[t].state == AT_WARP_BARRIER) {
        members |= 1u << (t - first);
        fibers[t].state = READY;
      }
    if (!members) return;
    warp.members = members;
    warp.barriers++;
  }
}
void run_block() {
  unsigned n = make_fibers();
  for (Warp &w : warps) w = Warp();
  block_barriers = 0;
  reset_accumulators(0);
  reset_accumulators(1);
  for (;;) {
    unsigned done = 0;
    for (unsigned first = 0; first < n; first += WARP) {
      unsigned end = std::min(first + WARP, n);
      run_warp(first, end);
      if (failed) return;
      for (unsigned t = first; t < end; t++) done += fibers[t].state == DONE;
    }
    if (done == n) return;
    for (unsigned t = 0; t < n; t++)
      if (fibers[t].state == AT_BLOCK_BARRIER) fibers[t].state = READY;
    block_barriers++;
    reset_accumulators(block_barriers & 1);  // those of the next barrier
  }
}
bool make_stacks() {
  if (stacks) return true;
  void *p = mmap(nullptr, STACK_SIZE * MAX_THREADS, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) return false;
  stacks = (char *)p;
  for (unsigned i = 0; i < MAX_THREADS; i++) mprotect(stacks + STACK_SIZE * i, 4096, PROT_NONE);
  return true;
}

int run_blocks(const ModuleInfo *m, Extent grid, Extent block) {
  failed = false;
  current = NO_FIBER;
  bool one_thread = m->flags & SHAPE_FREE;  // every thread strides over the grid: one does all
  indices->grid_dim = one_thread ? Extent{1, 1, 1} : grid;
  indices->block_dim = one_thread ? Extent{1, 1, 1} : block;
  if (!(m->flags & NEEDS_FIBERS)) {
    if (setjmp(after_failure)) return failure_status;
    kernel->run(arguments, 0);
    return 0;
  }
  if (!make_stacks()) return cudaErrorMemoryAllocation;
  for (unsigned z = 0; z < grid.z; z++)
    for (unsigned y = 0; y < grid.y; y++)
      for (unsigned x = 0; x < grid.x; x++) {
        indices->block = {x, y, z};
        run_block();
        if (failed) return failure_status;
      }
  return 0;
}

// ---- a bad address inside device work is an error, not the end of the process
sigjmp_buf after_trap;
volatile bool working = false;
void *volatile bad_address;
pthread_t working_thread;
struct sigaction previous_segv, previous_bus;

void on_trap(int signal, siginfo_t *info, void *context) {
  if (working && pthread_equal(pthread_self(), working_thread)) {
    bad_address = info->si_addr;
    siglongjmp(after_trap, 1);
  }
  struct sigaction &previous = signal == SIGSEGV ? previous_segv : previous_bus;
  if (previous.sa_flags & SA_SIGINFO) {
    previous.sa_sigaction(signal, info, context);
  } else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
    previous.sa_handler(signal);
  } else {
    sigaction(signal, &previous, nullptr);
    raise(signal);
  }
}
// A handler needs a stack of its own: the fault may be a fiber's overflow.
struct AlternateStack {
  stack_t previous;
  void *memory;
  AlternateStack() {
    const size_t size = 64 << 10;
    memory = malloc(size);
    stack_t s = {memory, 0, size};
    sigaltstack(&s, &previous);
  }
  ~AlternateStack() {
    sigaltstack(&previous, nullptr);
    free(memory);
  }
};
void install_handler() {  // in front again, where another (faulthandler) came later
  struct sigaction now, ours;
  sigaction(SIGSEGV, nullptr, &now);
  if (now.sa_sigaction == on_trap) return;
  memset(&ours, 0, sizeof ours);
  ours.sa_sigaction = on_trap;
  ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  sigaction(SIGSEGV, &ours, &previous_segv);
  sigaction(SIGBUS, &ours, &previous_bus);
}
}  // namespace

void *runtime_table() { return &runtime; }
const char *running = "";

int run_trapped(const Op &op) {
  running = "a copy or a library call";
  if (!settings::traps()) return op();
  static thread_local AlternateStack alternate_stack;
  install_handler();
  working_thread = pthread_self();
  if (sigsetjmp(after_trap, 0)) {
    working = false;
    current = NO_FIBER;
    fprintf(stderr, "cupy_cpu: %s: illegal address %p, %s\n", running, bad_address,
            describe_address(bad_address).c_str());
    return ERROR_ILLEGAL_ADDRESS;
  }
  working = true;
  int status = op();
  working = false;
  return status;
}

int run_kernel(const ModuleInfo *m, const KernelInfo *k, Extent grid, Extent block,
               void **params) {
  running = k->name;
  kernel = k;
  arguments = params;
  indices = m->indices;
  return run_blocks(m, grid, block);
}
}  // namespace cupycpu
