// internal.h: what the parts of libcupycpu know of each other.
//
//   settings   the CUPYCPU_* environment variables          settings.cpp
//   errors     names and texts of status codes              errors.cpp
//   counters   what was launched, copied, allocated, ...     counters.cpp
//   streams    submit(), events, work put off until needed   streams.cpp
//   graphs     stream capture and its rules, replay          graphs.cpp
//   memory     allocations, pools, copies                    memory.cpp
//   launch     one kernel launch: loops, fibers, traps       launch.cpp
//
// Numbers of cudaError_t and CUresult agree where both exist, so a plain int
// carries either.
#pragma once
#define CUPYCPU_IMPL 1
#include "cupy_cuda_runtime.h"
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

namespace cupycpu {

// ---- settings: read once, at first use
namespace settings {
bool deferred();            // CUPYCPU_DEFER: put work off until something waits for it
bool guard();               // CUPYCPU_GUARD: a trapping page after every allocation
bool poison();              // CUPYCPU_POISON: fill fresh device memory with 0xA5
bool traps();               // CUPYCPU_TRAP: a bad address in a kernel is an error, not a crash
bool allow_timing();        // CUPYCPU_ALLOW_TIMING: for CuPy's own tests only
bool allow_fork();          // CUPYCPU_ALLOW_FORK: let a forked child go on
size_t total_memory();      // CUPYCPU_TOTAL_MEMORY: bytes of "device" memory
int device_count();         // CUPYCPU_DEVICE_COUNT
int compute_capability();   // CUPYCPU_COMPUTE_CAPABILITY: 80 says 8.0
bool fused_multiply_add();  // CUPYCPU_FMA
bool precompile();          // CUPYCPU_PRECOMPILE: keep the kernels' headers precompiled
bool keep();                // CUPYCPU_KEEP: leave the generated C++ of each kernel behind
bool verbose();             // CUPYCPU_VERBOSE: print each compiler command
std::string compiler();     // CUPYCPU_CXX
std::string optimise();     // CUPYCPU_OPT: -O1
std::string cache_dir();    // CUPYCPU_CACHE_DIR: where precompiled headers go
std::string include_dir();  // of device/, as installed: set by the Python package
}  // namespace settings

// ---- errors
enum {
  ERROR_INITIALIZATION = 3,
  ERROR_PEER_NOT_ENABLED = 705,
  ERROR_HOST_ALREADY_REGISTERED = 712,
  ERROR_HOST_NOT_REGISTERED = 713,
  ERROR_INVALID_IMAGE = 200,
  ERROR_FILE_NOT_FOUND = 301,
  ERROR_ILLEGAL_STATE = 401,
  ERROR_NOT_FOUND = 500,
  ERROR_ILLEGAL_ADDRESS = 700,
  ERROR_ASSERT = 710,
  // of our own; no CUDA code has these numbers
  ERROR_SYNCHRONISATION_FORBIDDEN = 9001,
  ERROR_TIMING_REFUSED = 9002,
};
int set_error(int e);  // remembers it for cudaGetLastError, returns it
const char *driver_error_name(int e);
const char *error_text(int e);

// ---- counters
struct Work {         // what a piece of work is called and counted as
  const char *group;  // "kernel", "cublas", "library", "copy", "memset", "host", "graph"
  std::string name;
  uint64_t bytes = 0;
};
void count(const char *group, const std::string &name, uint64_t bytes = 0);
// Every call that makes the host wait for the device passes here first. Not 0
// when the thread is in a region that forbids waiting.
int waits(const char *call);

// ---- streams
typedef std::function<int()> Op;  // a piece of work; returns a status code
struct Graph;
struct Stream {
  static constexpr uint64_t ALIVE = 0x5354524d;
  unsigned flags = 0;  // 1: non-blocking
  int priority = 0;
  Graph *capture = nullptr;  // the graph being captured from this stream
  uint64_t magic = ALIVE;
  bool blocking() const { return !(flags & 1); }
};
Stream *stream_of(cudaStream_t s);  // resolves the legacy and per-thread handles
extern Stream legacy_stream;
// Does `op` now, puts it off, or records it where `stream` is being captured.
int submit(cudaStream_t stream, Work work, Op op);
// Does what was put off and `stream` must come after; nullptr: everything.
void catch_up(Stream *stream);
int take_failure();               // the first failure of work that was put off, once
int run_exclusive(const Op &op);  // one piece of work at a time in the process
int forked();                     // not 0 in a child forked after CUDA was used

// ---- graphs
struct Node {
  Work work;
  Op op;
};
// Vector clocks: how much of each stream's captured work comes before.
typedef std::map<Stream *, size_t> Clock;
struct Graph {
  std::vector<Node> nodes;
  std::set<Stream *> streams;  // taking part in the capture
  std::map<Stream *, Clock> clocks;
  Stream *origin = nullptr;
  int mode = 0;  // 0 global, 1 thread local, 2 relaxed
  bool invalid = false;
  size_t thread = 0;
  void tick(Stream *s) { clocks[s][s]++; }
  void join(Stream *s, const Clock &seen) {
    for (auto &[other, n] : seen) {
      size_t &mine = clocks[s][other];
      mine = std::max(mine, n);
    }
  }
};
extern std::vector<Graph *> captures;  // those going on
bool still_capturing(const Graph *g);
size_t this_thread();
// Calls that only a relaxed capture tolerates (one in global mode from no thread, one in
// thread-local mode not from its own): taking and freeing memory, cudaMemcpy,
// cudaGraphExecDestroy, cudaEventQuery, loading a module.
int unsafe_in_capture();
// Calls that wait for `s` (nullptr: for the device): errors where that would
// wait for a capture.
int waiting_in_capture(Stream *s);

// ---- memory
bool is_device_pointer(const void *p, size_t n);
std::string describe_address(const void *p);  // "4 bytes after an allocation of 40 bytes"
extern std::recursive_mutex state_mutex;      // guards all bookkeeping

// ---- device
extern thread_local int current_device;

// ---- launching (the module format is in module.h)
extern const char *running;     // what is being done, for messages
int run_trapped(const Op &op);  // where a bad address is an error, not the end
struct KernelInfo;
struct ModuleInfo;
struct Extent {
  unsigned x, y, z;
};
int run_kernel(const ModuleInfo *m, const KernelInfo *k, Extent grid, Extent block,
               void **params);
void *runtime_table();  // what a module's code calls back
}  // namespace cupycpu

// The handles that CuPy passes around.
struct CUstream_st : cupycpu::Stream {};
struct CUgraph_st : cupycpu::Graph {};
struct CUgraphExec_st {
  std::vector<cupycpu::Node> nodes;
};
