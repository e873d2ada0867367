// scanner.cpp: a small scanner over CUDA C++. It splits the source into tokens,
// follows braces as far as namespaces and extern "C" blocks, and recognises
// kernel definitions and global variables. It need not understand more: g++
// compiles the same text afterwards, and a name it gets wrong is a compile error.
#include "scanner.h"
#include <ctype.h>
#include <string.h>
#include <algorithm>

namespace cupycpu {
namespace {
// Headers that bring neither barriers nor kernels; any other makes the kernel
// run as fibers, to be safe.
const char *const PLAIN_HEADERS[] = {
    "cupy/",       "cstd",        "cmath",  "math.h",  "cuComplex.h", "cuda_fp16.h",
    "cuda_bf16.h", "type_traits", "limits", "stdio",   "stdint",      "cstdint",
    "cuda/std",    "utility",     "tuple",  "float.h", "cfloat"};

struct Token {
  std::string text;
  size_t end;  // offset just after it
};
typedef std::vector<Token> Tokens;

bool contains(const std::string &s, std::initializer_list<const char *> parts) {
  for (const char *p : parts)
    if (s.find(p) != std::string::npos) return true;
  return false;
}
bool starts(const std::string &s, const char *prefix) {
  return s.compare(0, strlen(prefix), prefix) == 0;
}
bool ends(const std::string &s, const char *suffix) {
  size_t n = strlen(suffix);
  return s.size() > n && s.compare(s.size() - n, n, suffix) == 0;
}
bool is_name(const std::string &t) { return isalpha((unsigned char)t[0]) || t[0] == '_'; }
void add_once(std::vector<std::string> &names, const std::string &name) {
  if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
}

void read_directive(const std::string &line, Scan &result) {
  if (contains(line, {"define"})) {
    if (contains(line, {"__global__"})) result.unsure = true;
    if (contains(line, {"__sync", "__shfl", "_sync("})) result.fibers = true;
    if (contains(line,
                 {"threadIdx", "blockIdx", "blockDim", "gridDim", "return", "break", "goto"}))
      result.shape = true;
  }
  size_t include = line.find("include");
  if (include == std::string::npos) return;
  size_t name = line.find_first_of("<\"", include);
  if (name != std::string::npos)
    for (const char *h : PLAIN_HEADERS)
      if (line.compare(name + 1, strlen(h), h) == 0) return;
  result.fibers = result.shape = true;
}

Tokens tokenise(const std::string &s, bool preprocessed, Scan &result) {
  Tokens tokens;
  size_t i = 0, n = s.size();
  bool line_start = true;
  auto take = [&](size_t from, size_t to) {
    tokens.push_back({s.substr(from, to - from), to});
    i = to;
  };
  auto until = [&](const std::string &end, size_t from) {
    size_t e = s.find(end, from);
    return e == std::string::npos ? n : e + end.size();
  };
  while (i < n) {
    char c = s[i], next = i + 1 < n ? s[i + 1] : 0;
    if (c == '\n') {
      line_start = true;
      i++;
    } else if (isspace((unsigned char)c)) {
      i++;
    } else if (c == '/' && next == '/') {
      while (i < n && s[i] != '\n') i++;
    } else if (c == '/' && next == '*') {
      i = until("*/", i + 2);
    } else if (c == '#' && line_start) {
      size_t begin = i;
      for (; i < n && s[i] != '\n'; i++)
        if (s[i] == '\\' && i + 1 < n && s[i + 1] == '\n') i++;
      if (!preprocessed) read_directive(s.substr(begin, i - begin), result);
    } else {
      line_start = false;
      size_t e = i + 1;
      if (c == '"' && i && s[i - 1] == 'R') {  // a raw string
        size_t open = s.find('(', i);
        e = until(")" + s.substr(i + 1, open - i - 1) + "\"", open);
        tokens.push_back({"\"\"", e});
        i = e;
        continue;
      }
      if (c == '"' || c == '\'') {
        for (; e < n && s[e] != c; e++)
          if (s[e] == '\\') e++;
        e++;
      } else if (isalpha((unsigned char)c) || c == '_') {
        while (e < n && (isalnum((unsigned char)s[e]) || s[e] == '_')) e++;
      } else if (isdigit((unsigned char)c)) {  // with separators, as in 1'000
        while (e < n && (isalnum((unsigned char)s[e]) || s[e] == '.' || s[e] == '\'')) e++;
      }
      take(i, std::min(e, n));
    }
  }
  return tokens;
}

// Barriers, and whatever makes the launch's shape visible. A grid-stride loop
// that nothing leaves early, in a source without these, gives the same result
// for one thread as for many.
void read_uses(const Tokens &tokens, Scan &result) {
  for (size_t k = 0; k < tokens.size(); k++) {
    const std::string &t = tokens[k].text;
    bool leaves =
        (t == "return" || t == "break") && k + 1 < tokens.size() && tokens[k + 1].text == ";";
    if (leaves || t == "goto" || t == "threadIdx" || t == "blockIdx" || t == "blockDim" ||
        t == "gridDim" || t == "clock64" || t == "clock")
      result.shape = true;
    if (starts(t, "__sync") || starts(t, "__shfl") || t == "__activemask" ||
        (starts(t, "__") && ends(t, "_sync")) || t == "cooperative_groups" || t == "cub")
      result.fibers = true;
    if (t == "CUPY_FOR") result.grid_stride = true;
  }
}

// The index of the token that closes what tokens[k] opens.
size_t closing(const Tokens &tokens, size_t k, const char *open, const char *close) {
  int depth = 0;
  for (; k < tokens.size(); k++) {
    if (tokens[k].text == open) depth++;
    if (tokens[k].text == close && --depth == 0) break;
  }
  return k;
}
bool is_extern_c(const Tokens &tokens, size_t k) {
  return tokens[k].text == "extern" && k + 1 < tokens.size() && tokens[k + 1].text == "\"C\"";
}

// tokens[k] is __global__, its statement begins at `start`.
void read_kernel(const Tokens &tokens, size_t start, size_t k, bool extern_c, Scan &result) {
  for (size_t q = start; q < k; q++) {
    if (tokens[q].text == "template") return;  // reached by name expressions only
    extern_c |= is_extern_c(tokens, q);
  }
  size_t name = 0;  // the last name before the parameter list
  for (size_t q = k + 1; q < tokens.size(); q++) {
    const std::string &t = tokens[q].text;
    if (t == ";" || t == "{") return;
    if (t == "(") {
      const std::string last = name ? tokens[name].text : "";
      if (last != "__launch_bounds__" && last != "__attribute__" && last != "__cluster_dims__")
        break;
      q = closing(tokens, q, "(", ")");
      name = 0;
    } else if (is_name(t)) {
      extern_c |= is_extern_c(tokens, q);
      name = q;
    }
  }
  if (!extern_c || !name) return;
  result.kernel_ends.push_back(tokens[name].end);
  add_once(result.kernels, tokens[name].text);
}

// tokens[k] is __device__, __constant__ or __managed__: a variable, or a function?
void read_variable(const Tokens &tokens, size_t start, size_t k, Scan &result) {
  for (size_t q = start; q < k; q++) {
    const std::string &t = tokens[q].text;
    if (t == "template" || t == "struct" || t == "class") return;
    if (t == "extern" && !(q + 1 < k && is_extern_c(tokens, q))) return;
  }
  std::string name;
  for (size_t q = k + 1; q < tokens.size(); q++) {
    const std::string &t = tokens[q].text;
    if (t == "operator" || t == "friend") return;
    if (t == "(") {
      if (name != "__align__" && name != "__attribute__" && name != "alignas") return;
      q = closing(tokens, q, "(", ")");
    } else if (t == "<") {
      q = closing(tokens, q, "<", ">");
    } else if (t == ";" || t == "=" || t == "[" || t == "{" || t == ",") {
      if (!name.empty()) add_once(result.variables, name);
      return;
    } else if (is_name(t)) {
      name = t;
    }
  }
}

void read_definitions(const Tokens &tokens, Scan &result) {
  enum Scope { NAMESPACE, EXTERN_C, OTHER };
  std::vector<Scope> scopes;
  size_t start = 0;  // first token of the current statement
  auto inside = [&](Scope s) {
    return std::find(scopes.begin(), scopes.end(), s) != scopes.end();
  };
  for (size_t k = 0; k < tokens.size(); k++) {
    const std::string &t = tokens[k].text;
    if (!inside(OTHER) && !inside(NAMESPACE)) {
      if (t == "__global__") read_kernel(tokens, start, k, inside(EXTERN_C), result);
      if (t == "__device__" || t == "__constant__" || t == "__managed__")
        read_variable(tokens, start, k, result);
    }
    if (t == "{") {
      Scope scope = OTHER;
      for (size_t q = start; q < k; q++) {
        if (tokens[q].text == "namespace") scope = NAMESPACE;
        if (is_extern_c(tokens, q) && q + 2 == k) scope = EXTERN_C;
      }
      scopes.push_back(scope);
      start = k + 1;
    } else if (t == "}") {
      if (scopes.empty())
        result.unsure = true;  // braces in #if branches
      else
        scopes.pop_back();
      start = k + 1;
    } else if (t == ";") {
      start = k + 1;
    }
  }
  if (!scopes.empty()) result.unsure = true;
}
}  // namespace

Scan scan(const std::string &source, bool preprocessed) {
  Scan result;
  Tokens tokens = tokenise(source, preprocessed, result);
  read_uses(tokens, result);
  read_definitions(tokens, result);
  return result;
}

std::string rewrite_dynamic_shared(const std::string &s) {
  std::string out;
  size_t done = 0;
  for (size_t at = s.find("extern"); at != std::string::npos; at = s.find("extern", at + 1)) {
    size_t type = at + strlen("extern");
    while (type < s.size() && isspace((unsigned char)s[type])) type++;
    if (s.compare(type, strlen("__shared__"), "__shared__") != 0) continue;
    type += strlen("__shared__");
    size_t semicolon = s.find(';', type);
    if (semicolon == std::string::npos) break;
    std::string declaration = s.substr(type, semicolon - type);
    for (const char *attribute : {"__align__", "alignas", "__attribute__"})
      for (size_t a; (a = declaration.find(attribute)) != std::string::npos;) {
        size_t e = declaration.find('(', a), depth = 0;
        for (; e < declaration.size(); e++) {
          if (declaration[e] == '(') depth++;
          if (declaration[e] == ')' && --depth == 0) break;
        }
        declaration.erase(a, e + 1 - a);
      }
    size_t bracket = declaration.rfind('[');
    if (bracket == std::string::npos) continue;
    size_t end = bracket;
    while (end && isspace((unsigned char)declaration[end - 1])) end--;
    size_t begin = end;
    while (begin &&
           (isalnum((unsigned char)declaration[begin - 1]) || declaration[begin - 1] == '_'))
      begin--;
    std::string element = declaration.substr(0, begin);
    std::string name = declaration.substr(begin, end - begin);
    out.append(s, done, at - done);
    out +=
        element + "* const " + name + " = (" + element + "*)cupycpu_runtime->dynamic_shared();";
    done = semicolon + 1;
    at = semicolon;
  }
  return out.append(s, done, std::string::npos);
}
}  // namespace cupycpu
