// graphs.cpp: stream capture, the rules that it enforces, and replay.
//
// A capture records submitted work (streams.cpp) in the order of its
// submission, which is one order that its dependencies allow; replay follows it.
// Vector clocks say whether the streams that joined have joined back.
#include "internal.h"
#include <thread>

namespace cupycpu {
typedef std::lock_guard<std::recursive_mutex> Lock;
std::vector<Graph *> captures;

size_t this_thread() { return std::hash<std::thread::id>()(std::this_thread::get_id()); }

bool still_capturing(const Graph *g) {
  return g && std::find(captures.begin(), captures.end(), g) != captures.end();
}

int unsafe_in_capture() {
  if (int e = forked()) return e;
  Lock lock(state_mutex);
  int e = 0;
  for (Graph *g : captures)
    if (g->mode == 0 || (g->mode == 1 && g->thread == this_thread())) {
      g->invalid = true;
      e = cudaErrorStreamCaptureUnsupported;
    }
  return e;
}

int waiting_in_capture(Stream *s) {
  Lock lock(state_mutex);
  if (s && s->capture) {
    s->capture->invalid = true;
    return cudaErrorStreamCaptureUnsupported;
  }
  if (s && s != &legacy_stream) return 0;
  // the device waits for every stream, the legacy stream for every blocking one
  for (Graph *g : captures)
    for (Stream *other : g->streams)
      if (!s || other->blocking()) {
        g->invalid = true;
        return s ? cudaErrorStreamCaptureImplicit : cudaErrorStreamCaptureUnsupported;
      }
  return 0;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  Lock lock(state_mutex);
  Stream *s = stream_of(stream);
  if (s == &legacy_stream) return set_error(cudaErrorStreamCaptureUnsupported);
  if (s->capture) return set_error(cudaErrorInvalidValue);
  Graph *g = new CUgraph_st;
  g->origin = s;
  g->mode = mode;
  g->thread = this_thread();
  g->streams.insert(s);
  s->capture = g;
  captures.push_back(g);
  return 0;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *out) {
  Lock lock(state_mutex);
  Stream *s = stream_of(stream);
  *out = nullptr;
  Graph *g = s->capture;
  if (!g) return set_error(ERROR_ILLEGAL_STATE);
  if (g->origin != s) {
    g->invalid = true;
    return set_error(cudaErrorStreamCaptureUnmatched);
  }
  bool unjoined = false;
  for (Stream *other : g->streams) unjoined |= g->clocks[s][other] < g->clocks[other][other];
  for (Stream *other : g->streams) other->capture = nullptr;
  g->streams.clear();
  captures.erase(std::find(captures.begin(), captures.end(), g));
  if (g->invalid || unjoined) {
    int e = g->invalid ? cudaErrorStreamCaptureInvalidated : cudaErrorStreamCaptureUnjoined;
    delete static_cast<CUgraph_st *>(g);
    return set_error(e);
  }
  *out = static_cast<CUgraph_st *>(g);
  return 0;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus *status) {
  Lock lock(state_mutex);
  Stream *s = stream_of(stream);
  if (s == &legacy_stream)
    for (Graph *g : captures)
      for (Stream *other : g->streams)
        if (other->blocking()) return set_error(cudaErrorStreamCaptureImplicit);
  *status = s->capture ? (s->capture->invalid ? 2 : 1) : 0;
  return 0;
}

cudaError_t cudaGraphDestroy(cudaGraph_t g) {  // a thing of the host's alone
  delete g;
  return 0;
}
// What is refused stays, as on a device: CuPy frees in destructors and asks once.
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t e) {
  if (int error = unsafe_in_capture()) return set_error(error);
  delete e;
  return 0;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *e, cudaGraph_t g, unsigned long long) {
  *e = new CUgraphExec_st{g->nodes};
  return 0;
}
cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) { return 0; }

cudaError_t cudaGraphLaunch(cudaGraphExec_t e, cudaStream_t stream) {
  if (Graph *g = stream_of(stream)->capture) {  // in no mode does a launch become a node
    g->invalid = true;
    return set_error(cudaErrorStreamCaptureUnsupported);
  }
  std::vector<Node> nodes = e->nodes;  // the graph may go before its work is done
  for (Node &n : nodes)
    count((std::string("replayed ") + n.work.group).c_str(), n.work.name, n.work.bytes);
  return submit(stream, {"graph", "launch"}, [nodes] {
    for (const Node &n : nodes)
      if (int status = n.op()) return status;
    return 0;
  });
}

cudaError_t cudaGraphDebugDotPrint(cudaGraph_t g, const char *path, unsigned flags) {
  FILE *f = fopen(path, "w");
  if (!f) return set_error(cudaErrorInvalidValue);
  bool verbose = flags & 1;
  fprintf(f, "digraph dot {\n");
  for (size_t i = 0; i < g->nodes.size(); i++) {
    std::string number = verbose ? "node " + std::to_string(i) + ": " : "";
    fprintf(f, "  n%zu [label=\"%s%s\"];\n", i, number.c_str(), g->nodes[i].work.name.c_str());
    if (i) fprintf(f, "  n%zu -> n%zu;\n", i - 1, i);
  }
  fprintf(f, "}\n");
  fclose(f);
  return 0;
}
}  // namespace cupycpu
