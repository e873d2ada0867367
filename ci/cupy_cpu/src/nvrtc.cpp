// nvrtc.cpp: the NVRTC calls that CuPy makes, on top of the host compiler.
//
// A source is compiled as C++17 behind the headers in device/, with a table of
// its kernels and variables appended (module.h); the shared object that results
// is the "cubin". The headers are precompiled once per set of options.
#include "module.h"
#include "scanner.h"
#include <sstream>
#include <dirent.h>
#include <fcntl.h>
#include <spawn.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

struct _nvrtcProgram {
  std::string source, name, log, image;
  std::vector<std::string> expressions;  // names that CuPy asks for, "f<float>" or "&variable"
};

namespace {
using namespace cupycpu;
typedef std::vector<std::string> Strings;
enum {  // nvrtcResult
  SUCCESS = 0,
  INVALID_OPTION = 5,
  COMPILATION = 6,
  NAME_EXPRESSION_NOT_VALID = 9,
  INTERNAL_ERROR = 11,
};

Strings words(const std::string &text) {
  Strings result;
  std::istringstream stream(text);
  for (std::string word; stream >> word;) result.push_back(word);
  return result;
}

// ---- files and processes
std::string read_file(const std::string &path) {
  std::string s;
  FILE *f = fopen(path.c_str(), "rb");
  if (!f) return s;
  char buffer[65536];
  while (size_t n = fread(buffer, 1, sizeof buffer, f)) s.append(buffer, n);
  fclose(f);
  return s;
}
bool write_file(const std::string &path, const std::string &text) {
  FILE *f = fopen(path.c_str(), "wb");
  if (!f) return false;
  bool ok = fwrite(text.data(), 1, text.size(), f) == text.size();
  return fclose(f) == 0 && ok;
}
bool exists(const std::string &path) {
  struct stat s;
  return stat(path.c_str(), &s) == 0;
}
void make_directories(const std::string &path) {
  for (size_t i = 1; (i = path.find('/', i)) != std::string::npos; i++)
    mkdir(path.substr(0, i).c_str(), 0755);
  mkdir(path.c_str(), 0755);
}
// Runs a command with its output in the file `output`; returns its exit status.
int run(const Strings &command, const std::string &output) {
  std::vector<char *> argv;
  for (auto &s : command) argv.push_back((char *)s.c_str());
  argv.push_back(nullptr);
  if (settings::verbose()) {
    for (auto &s : command) fprintf(stderr, "%s ", s.c_str());
    fprintf(stderr, "\n");
  }
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 1, output.c_str(), O_WRONLY | O_CREAT | O_TRUNC,
                                   0600);
  posix_spawn_file_actions_adddup2(&actions, 1, 2);
  pid_t pid;
  int e = posix_spawnp(&pid, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (e) {
    write_file(output, std::string("cannot run ") + argv[0] + ": " + strerror(e));
    return 127;
  }
  int status;
  while (waitpid(pid, &status, 0) < 0)
    if (errno != EINTR) return 127;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

// ---- identity: what a compiled kernel depends on besides its source
uint64_t hash(const std::string &s, uint64_t h = 1469598103934665603ull) {  // FNV-1a
  for (unsigned char c : s) h = (h ^ c) * 1099511628211ull;
  return h;
}
std::string hex(uint64_t v) {
  char text[20];
  snprintf(text, sizeof text, "%016llx", (unsigned long long)v);
  return text;
}
uint64_t hash_directory(const std::string &path, uint64_t h) {
  Strings names;
  if (DIR *d = opendir(path.c_str())) {
    while (dirent *e = readdir(d))
      if (e->d_name[0] != '.') names.push_back(e->d_name);
    closedir(d);
  }
  std::sort(names.begin(), names.end());
  for (auto &n : names) h = hash(read_file(path + "/" + n), hash(n, h));
  return h;
}
std::string device_headers() { return settings::include_dir(); }  // .../cupy/_cupycpu
std::string cupy_headers() { return device_headers().substr(0, device_headers().rfind('/')); }
std::string include_root() { return cupy_headers().substr(0, cupy_headers().rfind('/')); }

Strings base_flags() {
  std::string flags =
      "-x c++ -fPIC -w -fvisibility=hidden -fno-strict-aliasing -fwrapv -fno-math-errno "
      "-fno-trapping-math -fno-stack-protector -fno-exceptions -fno-threadsafe-statics "
      "-fno-asynchronous-unwind-tables ";
  // A GPU's compiler fuses multiplication and addition by default; at -O1 the
  // pass that does it is off.
  flags += settings::fused_multiply_add()
               ? "-march=x86-64-v3 -ffp-contract=fast -fexpensive-optimizations "
               : "-march=x86-64-v2 -ffp-contract=off ";
  return words(flags + settings::optimise());
}
// The compiler, its flags, and every header: CuPy keys its cache of compiled
// kernels by this text, and g++ does not notice that a precompiled header's own
// headers have changed.
const std::string &version_text() {
  static const std::string text = [] {
    std::string file = "/tmp/cupy_cpu-version-XXXXXX";
    int fd = mkstemp(&file[0]);
    if (fd >= 0) close(fd);
    run({settings::compiler(), "--version"}, file);
    std::string compiler = read_file(file);
    unlink(file.c_str());
    uint64_t h = hash(std::string(IMAGE_MAGIC, sizeof IMAGE_MAGIC));
    for (auto &f : base_flags()) h = hash(f, h);
    for (auto &d : {device_headers(), device_headers() + "/cupycpu", cupy_headers(),
                    cupy_headers() + "/complex"})
      h = hash_directory(d, h);
    return "// cupy_cpu " + compiler.substr(0, compiler.find('\n')) + " " + hex(h);
  }();
  return text;
}

// The headers of all kernels, precompiled for these options: a directory with
// cupycpu_all.h.gch, or "" where that did not work.
std::string precompiled_headers(const Strings &options) {
  static std::mutex mutex;
  static std::map<std::string, std::string> known;
  if (!settings::precompile()) return "";
  std::string key = version_text();
  for (auto &o : options) key += "\n" + o;
  std::lock_guard<std::mutex> lock(mutex);
  auto found = known.find(key);
  if (found != known.end()) return found->second;

  std::string directory = settings::cache_dir() + "/headers-" + hex(hash(key));
  std::string header = directory + "/cupycpu_all.h", compiled = header + ".gch";
  make_directories(directory);
  int fd = open((directory + "/lock").c_str(), O_CREAT | O_RDWR, 0644);
  if (fd < 0) return known[key] = "";
  flock(fd, LOCK_EX);  // another process may be at it
  if (!exists(compiled)) {
    write_file(header,
               "#include \"cupycpu_prelude.h\"\n"
               "#include <cupy/complex.cuh>\n"
               "#include <cupy/carray.cuh>\n"
               "#include <cupy/atomics.cuh>\n"
               "#include <cupy/math_constants.h>\n");
    Strings command = {settings::compiler()};
    for (auto &f : base_flags()) command.push_back(f == "c++" ? "c++-header" : f);
    command.insert(command.end(), options.begin(), options.end());
    std::string unfinished = compiled + ".tmp";
    command.insert(command.end(), {header, "-o", unfinished});
    if (run(command, directory + "/log") == 0)
      rename(unfinished.c_str(), compiled.c_str());
    else
      unlink(unfinished.c_str());
  }
  flock(fd, LOCK_UN);
  close(fd);
  return known[key] = exists(compiled) ? directory : "";
}

// ---- options
struct Options {
  Strings includes, defines, others;
  std::string standard = "-std=gnu++17";
};
bool takes(const std::string &option, const std::string &prefix) {
  return option.compare(0, prefix.size(), prefix) == 0;
}
const char IGNORED[] =
    "-arch --gpu-architecture -ftz --ftz -prec- --prec- -fmad --fmad -use_fast_math "
    "--use_fast_math -default-device --device-as-default -dlto -lineinfo --generate-line-info "
    "--pch -rdc --relocatable -dc --device-c -maxrregcount --maxrregcount -w -restrict "
    "--restrict --extra-device -diag --diag --disable-warnings -dopt --dopt -Xptxas --ptxas "
    "-ewp --extensible-whole-program -split --split";
bool ignored(const std::string &option) {
  for (auto &prefix : words(IGNORED))
    if (takes(option, prefix)) return true;
  return false;
}
// Returns "" or what is wrong.
std::string parse(int n, const char **given, Options &options) {
  for (int i = 0; i < n; i++) {
    std::string o = given[i];
    auto with_value = [&] { return o.size() == 2 && i + 1 < n ? o + given[++i] : o; };
    if (takes(o, "-I"))
      options.includes.push_back(with_value());
    else if (takes(o, "--include-path="))
      options.includes.push_back("-I" + o.substr(o.find('=') + 1));
    else if (takes(o, "-D"))
      options.defines.push_back(with_value());
    else if (takes(o, "--define-macro="))
      options.defines.push_back("-D" + o.substr(o.find('=') + 1));
    else if (takes(o, "-U"))
      options.defines.push_back(o);
    else if (takes(o, "-std=") || takes(o, "--std=")) {
      std::string standard = o.substr(o.find('=') + 1);
      if (standard == "c++20")
        options.standard = "-std=gnu++20";
      else if (standard != "c++03" && standard != "c++11" && standard != "c++14" &&
               standard != "c++17")
        return "unsupported " + o;
    } else if (o == "-G" || o == "--device-debug")
      options.others.push_back("-g");
    else if (o == "--fmad=false" || o == "-fmad=false")
      options.others.push_back("-ffp-contract=off");
    else if (!ignored(o))
      return "nvrtc: error: invalid value for --option: " + o + "\n";
  }
  return "";
}

// ---- compiling
const char RENAMED[] = "__cupycpu_kernel";  // suffix of a kernel's own name

// The tables that make a module of a source: kernels, variables, their counts.
std::string module_tables(const Scan &found, const std::set<std::string> &renamed,
                          const Strings &expressions) {
  auto renamed_or_not = [&](const std::string &name) {
    return renamed.count(name) ? name + RENAMED : name;
  };
  std::string kernels, variables;
  size_t n_kernels = 0, n_variables = 0;
  auto add_kernel = [&](const std::string &name, const std::string &function) {
    kernels += "CUPYCPU_KERNEL(\"" + name + "\", " + function + ")\n";
    n_kernels++;
  };
  auto add_variable = [&](const std::string &name, const std::string &variable) {
    variables += "CUPYCPU_VARIABLE(\"" + name + "\", " + variable + ")\n";
    n_variables++;
  };
  for (auto &k : found.kernels) add_kernel(k, renamed_or_not(k));
  for (auto &v : found.variables) add_variable(v, v);
  for (auto &e : expressions) {
    size_t first = e.find_first_not_of(" \t");
    if (first != std::string::npos && e[first] == '&')
      add_variable(e, e.substr(first + 1));
    else
      add_kernel(e, renamed_or_not(e));
  }
  bool one_thread_will_do = found.grid_stride && !found.shape && !found.fibers;
  int flags = (found.fibers ? NEEDS_FIBERS : 0) | (one_thread_will_do ? SHAPE_FREE : 0);
  return "\n;\nCUPYCPU_KERNELS(\n" + kernels + ")\nCUPYCPU_VARIABLES(\n" + variables +
         ")\nCUPYCPU_MODULE(" + std::to_string(FORMAT) + ", " + std::to_string(flags) + ", " +
         std::to_string(n_kernels) + ", " + std::to_string(n_variables) + ")\n";
}

struct Workplace {  // a temporary directory
  std::string directory, source, object, log, expanded;
  bool made;
  Workplace() {
    const char *root = getenv("TMPDIR");
    directory = std::string(root && *root ? root : "/tmp") + "/cupy_cpu-XXXXXX";
    made = mkdtemp(&directory[0]);
    source = directory + "/kernel.cpp";
    object = directory + "/kernel.so";
    log = directory + "/log";
    expanded = directory + "/kernel.ii";
  }
  ~Workplace() {
    if (settings::keep()) {
      fprintf(stderr, "cupy_cpu: kept %s\n", directory.c_str());
      return;
    }
    for (auto &f : {source, object, log, expanded}) unlink(f.c_str());
    rmdir(directory.c_str());
  }
};

int compile(_nvrtcProgram *p, const Options &options) {
  Workplace work;
  if (!work.made) return INTERNAL_ERROR;
  // Precompiled headers must agree in these; -D and -I of the user come after.
  Strings key = {options.standard, "-I" + device_headers(), "-I" + include_root()};
  for (auto &d : options.defines)
    if (d.find("CUPY_JIT") != std::string::npos) key.push_back(d);
  key.insert(key.end(), options.others.begin(), options.others.end());
  Strings common = base_flags();
  for (auto *part :
       std::initializer_list<const Strings *>{&key, &options.defines, &options.includes})
    common.insert(common.end(), part->begin(), part->end());

  // A kernel may share its name with device functions: it gets one of its own.
  std::string source = rewrite_dynamic_shared(p->source);
  Scan found = scan(source, false);
  for (size_t i = found.kernel_ends.size(); i-- > 0;)
    source.insert(found.kernel_ends[i], RENAMED);
  std::set<std::string> renamed(found.kernels.begin(), found.kernels.end());

  if (found.unsure) {  // look at the preprocessed text
    write_file(work.source,
               "#include \"cupycpu_prelude.h\"\n#undef __global__\n"
               "#undef __device__\n#undef __constant__\n" +
                   source);
    Strings command = {settings::compiler()};
    command.insert(command.end(), common.begin(), common.end());
    command.insert(command.end(), {"-E", "-P", work.source, "-o", work.expanded});
    if (run(command, work.log) == 0)
      for (auto &k : scan(read_file(work.expanded), true).kernels) {
        bool known =
            std::find(found.kernels.begin(), found.kernels.end(), k) != found.kernels.end();
        if (!known && k.find(RENAMED) == std::string::npos) found.kernels.push_back(k);
      }
  }

  std::string headers = precompiled_headers(key);
  std::string text =
      headers.empty() ? "#include \"cupycpu_prelude.h\"\n" : "#include \"cupycpu_all.h\"\n";
  // errors are reported against the user's own line numbers
  text += "#line 1 \"" + (p->name.empty() ? "default_program" : p->name) + "\"\n" + source;
  write_file(work.source, text + module_tables(found, renamed, p->expressions));
  Strings command = {settings::compiler()};
  if (!headers.empty()) command.push_back("-I" + headers);
  command.insert(command.end(), common.begin(), common.end());
  command.insert(command.end(),
                 {"-fwhole-program", "-shared", "-nostdlib", "-Wl,--hash-style=gnu",
                  work.source, "-o", work.object, "-lgcc"});
  int status = run(command, work.log);
  p->log = read_file(work.log);
  std::string object = status == 0 ? read_file(work.object) : "";
  if (object.empty()) return COMPILATION;
  uint64_t size = object.size();
  p->image.assign(IMAGE_MAGIC, sizeof IMAGE_MAGIC);
  p->image.append((const char *)&size, sizeof size);
  p->image += object;
  return SUCCESS;
}
// CuPy hashes the "PTX" of an empty program into its cache key.
std::string ptx(const _nvrtcProgram *p) {
  return p->image.empty() ? version_text() + "\n" : p->image;
}
void give(const std::string &s, char *out) {
  memcpy(out, s.data(), s.size());
  out[s.size()] = 0;
}
}  // namespace

extern "C" {
#define API int
const char *nvrtcGetErrorString(int result) {
  static const char *const texts[] = {"NVRTC_SUCCESS",
                                      "NVRTC_ERROR_OUT_OF_MEMORY",
                                      "NVRTC_ERROR_PROGRAM_CREATION_FAILURE",
                                      "NVRTC_ERROR_INVALID_INPUT",
                                      "NVRTC_ERROR_INVALID_PROGRAM",
                                      "NVRTC_ERROR_INVALID_OPTION",
                                      "NVRTC_ERROR_COMPILATION"};
  return result >= 0 && result <= COMPILATION ? texts[result] : "NVRTC_ERROR_INTERNAL_ERROR";
}
API nvrtcVersion(int *major, int *minor) {
  *major = 13;
  *minor = 0;
  return SUCCESS;
}
static const int ARCHITECTURES[] = {75, 80, 86, 89, 90};
API nvrtcGetNumSupportedArchs(int *n) {
  *n = sizeof ARCHITECTURES / sizeof *ARCHITECTURES;
  return SUCCESS;
}
API nvrtcGetSupportedArchs(int *out) {
  memcpy(out, ARCHITECTURES, sizeof ARCHITECTURES);
  return SUCCESS;
}
API nvrtcCreateProgram(_nvrtcProgram **p, const char *source, const char *name, int,
                       const char **, const char **) {
  *p = new _nvrtcProgram{source, name ? name : ""};
  return SUCCESS;
}
API nvrtcDestroyProgram(_nvrtcProgram **p) {
  delete *p;
  *p = nullptr;
  return SUCCESS;
}
API nvrtcAddNameExpression(_nvrtcProgram *p, const char *expression) {
  p->expressions.push_back(expression);
  return SUCCESS;
}
// An instantiation's "lowered" name is the expression itself: it is what the
// module's table and the counters call it.
API nvrtcGetLoweredName(_nvrtcProgram *p, const char *expression, const char **out) {
  for (auto &e : p->expressions)
    if (e == expression) {
      *out = e.c_str();
      return SUCCESS;
    }
  return NAME_EXPRESSION_NOT_VALID;
}
API nvrtcCompileProgram(_nvrtcProgram *p, int n_options, const char **options) {
  p->image.clear();
  if (p->source.find_first_not_of(" \t\r\n") == std::string::npos) return SUCCESS;
  Options parsed;
  p->log = parse(n_options, options, parsed);
  if (!p->log.empty()) return INVALID_OPTION;
  return compile(p, parsed);
}
API nvrtcGetCUBINSize(_nvrtcProgram *p, size_t *n) {
  *n = p->image.size() + 1;
  return SUCCESS;
}
API nvrtcGetCUBIN(_nvrtcProgram *p, char *out) {
  give(p->image, out);
  return SUCCESS;
}
API nvrtcGetPTXSize(_nvrtcProgram *p, size_t *n) {
  *n = ptx(p).size() + 1;
  return SUCCESS;
}
API nvrtcGetPTX(_nvrtcProgram *p, char *out) {
  give(ptx(p), out);
  return SUCCESS;
}
API nvrtcGetLTOIRSize(_nvrtcProgram *, size_t *n) {
  *n = 0;
  return SUCCESS;
}
API nvrtcGetLTOIR(_nvrtcProgram *, char *) { return COMPILATION; }
API nvrtcGetProgramLogSize(_nvrtcProgram *p, size_t *n) {
  *n = p->log.size() + 1;
  return SUCCESS;
}
API nvrtcGetProgramLog(_nvrtcProgram *p, char *out) {
  give(p->log, out);
  return SUCCESS;
}
}
