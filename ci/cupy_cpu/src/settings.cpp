// settings.cpp: the CUPYCPU_* environment variables, each read once, at first use.
#include "internal.h"

namespace cupycpu {
namespace settings {
namespace {
size_t number(const char *name, size_t otherwise) {
  const char *s = getenv(name);
  return s && *s ? strtoull(s, nullptr, 0) : otherwise;
}
std::string text(const char *name, const std::string &otherwise) {
  const char *s = getenv(name);
  return s && *s ? s : otherwise;
}
}  // namespace

#define SETTING(TYPE, NAME, VALUE) \
  TYPE NAME() {                    \
    static const TYPE v = VALUE;   \
    return v;                      \
  }
SETTING(bool, deferred, number("CUPYCPU_DEFER", 0))
SETTING(bool, guard, number("CUPYCPU_GUARD", 0))
SETTING(bool, poison, number("CUPYCPU_POISON", 0))
SETTING(bool, traps, number("CUPYCPU_TRAP", 1))
SETTING(bool, allow_timing, number("CUPYCPU_ALLOW_TIMING", 0))
SETTING(bool, allow_fork, number("CUPYCPU_ALLOW_FORK", 0))
SETTING(size_t, total_memory, number("CUPYCPU_TOTAL_MEMORY", size_t(8) << 30))
SETTING(int, device_count, (int)number("CUPYCPU_DEVICE_COUNT", 1))
SETTING(int, compute_capability, (int)number("CUPYCPU_COMPUTE_CAPABILITY", 80))
SETTING(bool, fused_multiply_add,
        number("CUPYCPU_FMA", 1) && __builtin_cpu_supports("fma") &&
            __builtin_cpu_supports("avx2"))
SETTING(bool, precompile, number("CUPYCPU_PRECOMPILE", 1))
SETTING(bool, keep, number("CUPYCPU_KEEP", 0))
SETTING(bool, verbose, number("CUPYCPU_VERBOSE", 0))
SETTING(std::string, compiler, text("CUPYCPU_CXX", "g++"))
SETTING(std::string, optimise, text("CUPYCPU_OPT", "-O1"))
SETTING(std::string, cache_dir,
        text("CUPYCPU_CACHE_DIR",
             text("XDG_CACHE_HOME", text("HOME", "/tmp") + "/.cache") + "/cupycpu"))

static std::string include_directory;
std::string include_dir() { return include_directory; }
}  // namespace settings
}  // namespace cupycpu

// Where the headers of kernels are; the Python package says so when it loads us.
extern "C" void cupycpu_set_include_dir(const char *path) {
  cupycpu::settings::include_directory = path;
}
