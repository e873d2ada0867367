// streams.cpp: submit(), through which all device work goes; streams, events,
// host callbacks.
//
// Plainly, work is done when it is submitted. With CUPYCPU_DEFER it is put off
// until something waits for it, and then only that is done and what it comes
// after: earlier work of its stream, the events its stream waited for, and the
// legacy stream's rule. A missing synchronisation or event then gives wrong
// numbers every time, where a device gives them now and then.
#include "internal.h"
#include <pthread.h>
#include <chrono>

namespace cupycpu {
typedef std::lock_guard<std::recursive_mutex> Lock;
namespace {
struct Pending;
typedef std::shared_ptr<Pending> PendingPtr;
struct Pending {  // a piece of work that was put off
  Op op;
  std::vector<PendingPtr> after;
  bool done = false;
  bool callback = false;  // runs outside the execution lock
};
struct Queue {
  PendingPtr last;                // of this stream
  std::vector<PendingPtr> waits;  // events that the next work must come after
};
std::recursive_mutex queue_mutex, execution_mutex;
std::map<Stream *, Queue> queues;
size_t pending = 0;
const size_t MOST_PENDING = 5000;  // then everything is done, to bound the memory it takes
int failure = 0;
bool used_here = false, forked_after_use = false;
}  // namespace
}  // namespace cupycpu

struct CUevent_st {
  unsigned flags = 0;  // 2: without timing
  bool recorded = false;
  std::chrono::steady_clock::time_point time;
  cupycpu::PendingPtr work;               // put-off work that the event comes after
  cupycpu::Graph *captured_in = nullptr;  // recorded in a capture, with what came before
  cupycpu::Clock clock;
};

namespace cupycpu {
Stream legacy_stream;
static Stream per_thread_stream;

Stream *stream_of(cudaStream_t s) {
  if (s == nullptr || s == (cudaStream_t)1) return &legacy_stream;
  if (s == (cudaStream_t)2) return &per_thread_stream;
  return s;
}

// As with a driver, a process forked after CUDA was used cannot use it.
int forked() {
  if (!used_here) {
    used_here = true;
    if (!settings::allow_fork())
      pthread_atfork(nullptr, nullptr, [] { forked_after_use = true; });
  }
  return forked_after_use ? ERROR_INITIALIZATION : 0;
}

int run_exclusive(const Op &op) {
  Lock lock(execution_mutex);
  return run_trapped(op);
}

// ---- work put off
namespace {
// Does `target` and, first, all that it comes after (a loop, not a recursion:
// chains are long).
void execute(const PendingPtr &target) {
  std::vector<PendingPtr> stack;
  if (target) stack.push_back(target);
  while (!stack.empty()) {
    PendingPtr p = stack.back(), first;
    for (auto &a : p->after)
      if (!a->done) {
        first = a;
        break;
      }
    if (!p->done && first) {
      stack.push_back(first);
      continue;
    }
    stack.pop_back();
    if (p->done) continue;
    p->done = true;
    p->after.clear();
    pending--;
    int e = p->callback ? p->op() : run_exclusive(p->op);
    p->op = nullptr;
    if (e && !failure) failure = e;
  }
}
bool unfinished(const PendingPtr &p) { return p && !p->done; }

// What new work of `s` must come after.
std::vector<PendingPtr> predecessors(Stream *s) {
  std::vector<PendingPtr> result;
  Queue &own = queues[s];
  if (unfinished(own.last)) result.push_back(own.last);
  for (auto &w : own.waits)
    if (unfinished(w)) result.push_back(w);
  if (s == &legacy_stream) {
    for (auto &[other, queue] : queues)
      if (other != s && other->blocking() && unfinished(queue.last))
        result.push_back(queue.last);
  } else if (s->blocking() && unfinished(queues[&legacy_stream].last)) {
    result.push_back(queues[&legacy_stream].last);
  }
  return result;
}
PendingPtr put_off(Stream *s, Op op, bool callback = false) {
  Lock lock(queue_mutex);
  auto p = std::make_shared<Pending>();
  p->op = std::move(op);
  p->callback = callback;
  p->after = predecessors(s);
  Queue &queue = queues[s];
  queue.waits.clear();
  queue.last = p;
  if (++pending > MOST_PENDING) catch_up(nullptr);
  return p;
}
}  // namespace

void catch_up(Stream *s) {
  if (!settings::deferred()) return;
  Lock lock(queue_mutex);
  if (s) {
    for (auto &p : predecessors(s)) execute(p);
    return;
  }
  for (auto &[stream, queue] : queues) {
    execute(queue.last);
    for (auto &w : queue.waits) execute(w);
  }
}
int take_failure() {
  int e = failure;
  failure = 0;
  return e;
}

int submit(cudaStream_t stream, Work work, Op op) {
  if (int e = forked()) return set_error(e);
  Stream *s = stream_of(stream);
  {
    Lock lock(state_mutex);
    if (s->magic != Stream::ALIVE) return set_error(cudaErrorInvalidResourceHandle);
    if (Graph *g = s->capture) {
      if (g->invalid) return set_error(cudaErrorStreamCaptureInvalidated);
      g->tick(s);
      count((std::string("captured ") + work.group).c_str(), work.name, work.bytes);
      g->nodes.push_back({std::move(work), std::move(op)});
      return 0;
    }
    if (s == &legacy_stream && !captures.empty())
      if (int e = waiting_in_capture(s)) return set_error(e);
  }
  count(work.group, work.name, work.bytes);
  if (settings::deferred()) {
    put_off(s, std::move(op));
    return 0;
  }
  return set_error(run_exclusive(op));
}

// ---- streams
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned flags, int priority) {
  *s = new CUstream_st;
  (*s)->flags = flags;
  (*s)->priority = std::max(-5, std::min(0, priority));
  return 0;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags) {
  return cudaStreamCreateWithPriority(s, flags, 0);
}
cudaError_t cudaStreamCreate(cudaStream_t *s) { return cudaStreamCreateWithPriority(s, 0, 0); }
cudaError_t cudaStreamGetFlags(cudaStream_t s, unsigned *flags) {
  *flags = stream_of(s)->flags;
  return 0;
}
cudaError_t cudaStreamGetPriority(cudaStream_t s, int *priority) {
  *priority = stream_of(s)->priority;
  return 0;
}
cudaError_t cudaStreamDestroy(cudaStream_t s) {
  if ((uintptr_t)s <= 2) return set_error(cudaErrorInvalidResourceHandle);
  Lock lock(state_mutex);
  if (s->capture) s->capture->streams.erase(s);
  if (settings::deferred()) {
    catch_up(s);
    Lock queue_lock(queue_mutex);
    queues.erase(s);
  }
  s->magic = 0;
  delete s;
  return 0;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  Stream *s = stream_of(stream);
  if (int e = waiting_in_capture(s)) return set_error(e);
  if (int e = waits("cudaStreamSynchronize")) return set_error(e);
  catch_up(s);
  return set_error(take_failure());
}
cudaError_t cudaDeviceSynchronize() {
  if (int e = waiting_in_capture(nullptr)) return set_error(e);
  if (int e = waits("cudaDeviceSynchronize")) return set_error(e);
  catch_up(nullptr);
  return set_error(take_failure());
}
// Asked about unfinished work, says so once and does it.
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  Stream *s = stream_of(stream);
  if (int e = waiting_in_capture(s)) return set_error(e);
  if (!settings::deferred()) return 0;
  Lock lock(queue_mutex);
  if (predecessors(s).empty()) return 0;
  catch_up(s);
  if (int e = take_failure()) return set_error(e);
  return cudaErrorNotReady;
}

// ---- host callbacks: not under the execution lock, they may take Python's
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t f, void *argument) {
  Stream *s = stream_of(stream);
  Op op = [=] {
    f(argument);
    return 0;
  };
  if (s->capture) return submit(stream, {"host", "host function"}, op);
  count("host", "host function");
  if (settings::deferred())
    put_off(s, op, true);
  else
    op();
  return 0;
}
cudaError_t cudaStreamAddCallback(cudaStream_t stream, cudaStreamCallback_t f, void *argument,
                                  unsigned) {
  Stream *s = stream_of(stream);
  if (s->capture) {
    s->capture->invalid = true;
    return set_error(cudaErrorStreamCaptureUnsupported);
  }
  Op op = [=] {
    f(stream, 0, argument);
    return 0;
  };
  count("host", "stream callback");
  if (settings::deferred())
    put_off(s, op, true);
  else
    op();
  return 0;
}

// ---- events
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags) {
  *e = new CUevent_st;
  (*e)->flags = flags;
  return 0;
}
cudaError_t cudaEventCreate(cudaEvent_t *e) { return cudaEventCreateWithFlags(e, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t e) {
  delete e;
  return 0;
}
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t stream) {
  Lock lock(state_mutex);
  Stream *s = stream_of(stream);
  e->captured_in = s->capture;
  if (Graph *g = s->capture) {
    if (g->invalid) return set_error(cudaErrorStreamCaptureInvalidated);
    e->clock = g->clocks[s];
    return 0;
  }
  e->recorded = true;
  e->time = std::chrono::steady_clock::now();
  if (settings::deferred()) e->work = put_off(s, [] { return 0; });
  return 0;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t e, unsigned) {
  Lock lock(state_mutex);
  Stream *s = stream_of(stream);
  if (still_capturing(e->captured_in)) {  // the waiting stream joins that capture
    Graph *g = e->captured_in;
    if (s->capture && s->capture != g) {
      s->capture->invalid = g->invalid = true;
      return set_error(cudaErrorStreamCaptureMerge);
    }
    if (s == &legacy_stream) {
      g->invalid = true;
      return set_error(cudaErrorStreamCaptureImplicit);
    }
    if (!s->capture) g->tick(s);
    s->capture = g;
    g->streams.insert(s);
    g->join(s, e->clock);
    return 0;
  }
  if (s->capture && e->recorded) {
    s->capture->invalid = true;
    return set_error(cudaErrorStreamCaptureIsolation);
  }
  if (settings::deferred() && unfinished(e->work)) {
    Lock queue_lock(queue_mutex);
    queues[s].waits.push_back(e->work);
  }
  return 0;
}
static int invalid_query(cudaEvent_t e) {
  Lock lock(state_mutex);
  if (!still_capturing(e->captured_in)) return unsafe_in_capture();
  e->captured_in->invalid = true;
  return cudaErrorCapturedEvent;
}
static int finish(cudaEvent_t e) {
  if (!settings::deferred()) return 0;
  Lock lock(queue_mutex);
  if (e->work) execute(e->work);
  return take_failure();
}
cudaError_t cudaEventQuery(cudaEvent_t e) {
  if (int error = invalid_query(e)) return set_error(error);
  if (!unfinished(e->work)) return 0;
  if (int error = finish(e)) return set_error(error);
  return cudaErrorNotReady;
}
cudaError_t cudaEventSynchronize(cudaEvent_t e) {
  if (int error = invalid_query(e)) return set_error(error);
  if (int error = waits("cudaEventSynchronize")) return set_error(error);
  return set_error(finish(e));
}
// A time taken here says nothing of a GPU, so none is given.
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end) {
  bool untimed = (start->flags & 2) || (end->flags & 2);
  if (untimed || !start->recorded || !end->recorded)
    return set_error(cudaErrorInvalidResourceHandle);
  if (unfinished(start->work) || unfinished(end->work)) return set_error(cudaErrorNotReady);
  if (!settings::allow_timing()) return set_error(ERROR_TIMING_REFUSED);
  *ms = std::chrono::duration<float, std::milli>(end->time - start->time).count();
  return 0;
}
}  // namespace cupycpu
