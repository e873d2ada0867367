// counters.cpp: how often what was done, for `cupy_cpu.counters()`, and the
// regions in which waiting for the device is refused. The package reads both
// through the C functions at the end.
#include "internal.h"

namespace cupycpu {
extern thread_local std::string waiting_call;
namespace {
struct Count {
  uint64_t calls = 0, bytes = 0;
};
std::mutex mutex;
std::map<std::pair<std::string, std::string>, Count> counts;  // by group and name
thread_local int forbidden = 0;                               // depth of marked regions
thread_local std::vector<std::string> refusals;               // calls made in them
}  // namespace

void count(const char *group, const std::string &name, uint64_t bytes) {
  std::lock_guard<std::mutex> lock(mutex);
  Count &c = counts[{group, name}];
  c.calls++;
  c.bytes += bytes;
}

int waits(const char *call) {
  count("synchronisation", call);
  if (!forbidden) return 0;
  waiting_call = call;
  refusals.push_back(call);
  return ERROR_SYNCHRONISATION_FORBIDDEN;
}
}  // namespace cupycpu

using namespace cupycpu;
namespace {
// Copies `text` into `out` where it fits; returns the room it needs.
size_t give(const std::string &text, char *out, size_t room) {
  if (text.size() + 1 <= room) memcpy(out, text.c_str(), text.size() + 1);
  return text.size() + 1;
}
}  // namespace

// All counters, one a line: group, name, calls, bytes, separated by tabs.
extern "C" size_t cupycpu_counters(char *out, size_t room) {
  std::lock_guard<std::mutex> lock(mutex);
  std::string text;
  for (auto &[key, c] : counts)
    text += key.first + "\t" + key.second + "\t" + std::to_string(c.calls) + "\t" +
            std::to_string(c.bytes) + "\n";
  return give(text, out, room);
}
// Enters (+1) or leaves (-1) a region of this thread that forbids waiting.
extern "C" void cupycpu_forbid_waiting(int change) { forbidden += change; }
// The waiting calls that this thread's regions refused so far, one a line.
extern "C" size_t cupycpu_refusals(char *out, size_t room) {
  std::string text;
  for (auto &call : refusals) text += call + "\n";
  return give(text, out, room);
}
