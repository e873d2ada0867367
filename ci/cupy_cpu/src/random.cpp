// random.cpp: the host part of cuRAND that CuPy calls, and the kernels of its
// random.Generator. The same interfaces, ranges and distributions as on a GPU,
// not the same numbers. The generator is xoshiro256** (Blackman and Vigna, 2018),
// seeded by splitmix64.
#include "internal.h"
#include "cupy_curand.h"
#include <cmath>
#include <random>

namespace {
struct Generator {
  typedef uint64_t result_type;
  uint64_t s[4];
  static constexpr uint64_t min() { return 0; }
  static constexpr uint64_t max() { return ~0ull; }
  static uint64_t rotate(uint64_t x, int k) { return x << k | x >> (64 - k); }

  void seed(uint64_t seed, uint64_t sequence) {
    uint64_t state = seed * 0x9E3779B97F4A7C15ull + sequence * 0xD1B54A32D192ED03ull + 1;
    for (uint64_t &v : s) {
      uint64_t x = state += 0x9E3779B97F4A7C15ull;
      x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9ull;
      x = (x ^ x >> 27) * 0x94D049BB133111EBull;
      v = x ^ x >> 31;
    }
  }
  uint64_t operator()() {
    uint64_t result = rotate(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate(s[3], 45);
    return result;
  }
  uint32_t bits32() { return (uint32_t)((*this)() >> 32); }
  double uniform() { return ((*this)() >> 11) * 0x1p-53; }  // [0, 1)
  float uniform_float() { return ((*this)() >> 40) * 0x1p-24f; }
  double normal() {  // Box and Muller, 1958
    double a = 1 - uniform(), b = uniform();
    return std::sqrt(-2 * std::log(a)) * std::cos(2 * M_PI * b);
  }
  double gamma(double shape) {
    return shape <= 0 ? 0 : std::gamma_distribution<double>(shape, 1.0)(*this);
  }
};

// ---- cuRAND
enum { SUCCESS = 0, LENGTH_NOT_MULTIPLE = 105, LAUNCH_FAILURE = 201 };
struct HostGenerator {
  Generator generator;
  cudaStream_t stream = nullptr;
  uint64_t seed = 0, offset = 0;
};
HostGenerator &get(curandGenerator_t g) { return *(HostGenerator *)g; }

template <class T, class F>
int fill(const char *name, curandGenerator_t g, T *out, size_t n, F draw) {
  HostGenerator *h = &get(g);
  int e = cupycpu::submit(h->stream, {"library", name}, [=] {
    for (size_t i = 0; i < n; i++) out[i] = (T)draw(h->generator);
    return 0;
  });
  return e ? LAUNCH_FAILURE : SUCCESS;
}

// ---- the kernels of random.Generator
// A parameter that CuPy passes as pointer, ndim, shape, strides.
template <class T>
T parameter(intptr_t array, ssize_t i) {
  const int64_t *description = (const int64_t *)array;
  int ndim = (int)description[1];
  const int64_t *shape = description + 2, *strides = shape + ndim;
  ptrdiff_t offset = 0;
  for (int k = ndim; --k >= 0; i /= shape[k]) offset += strides[k] * (i % shape[k]);
  return *(T *)(description[0] + offset);
}
// out[i] = draw(the state of its thread, i)
template <class R, class F>
void draw_each(const char *name, intptr_t states, ssize_t n_states, intptr_t out, ssize_t n,
               intptr_t stream, F draw) {
  cupycpu::submit((cudaStream_t)stream, {"library", name}, [=] {
    for (ssize_t i = 0; i < n; i++)
      ((R *)out)[i] = (R)draw(((Generator *)states)[i % n_states], i);
    return 0;
  });
}
}  // namespace

namespace cupycpu {
typedef curandStatus_t Status;
Status curandCreateGenerator(curandGenerator_t *g, int) {
  auto *h = new HostGenerator;
  h->generator.seed(0, 0);
  *g = h;
  return SUCCESS;
}
Status curandDestroyGenerator(curandGenerator_t g) {
  delete &get(g);
  return SUCCESS;
}
Status curandGetVersion(int *v) {
  *v = 10400;
  return SUCCESS;
}
Status curandSetStream(curandGenerator_t g, cudaStream_t s) {
  get(g).stream = s;
  return SUCCESS;
}
Status curandSetPseudoRandomGeneratorSeed(curandGenerator_t g, unsigned long long seed) {
  get(g).seed = seed;
  get(g).generator.seed(seed, get(g).offset);
  return SUCCESS;
}
Status curandSetGeneratorOffset(curandGenerator_t g, unsigned long long offset) {
  get(g).offset = offset;
  get(g).generator.seed(get(g).seed, offset);
  return SUCCESS;
}
Status curandSetGeneratorOrdering(curandGenerator_t, curandOrdering_t) { return SUCCESS; }

#define FILL(NAME, T, DRAW)                                           \
  Status NAME(curandGenerator_t g, T *out, size_t n) {                \
    return fill(#NAME, g, out, n, [](Generator &r) { return DRAW; }); \
  }
FILL(curandGenerate, unsigned, r.bits32())
FILL(curandGenerateLongLong, unsigned long long, r())
FILL(curandGenerateUniform, float, 1.0f - r.uniform_float())  // (0, 1]
FILL(curandGenerateUniformDouble, double, 1.0 - r.uniform())
#define FILL_NORMAL(NAME, T, DRAW)                                          \
  Status NAME(curandGenerator_t g, T *out, size_t n, T mean, T deviation) { \
    if (n & 1) return LENGTH_NOT_MULTIPLE; /* as cuRAND */                  \
    return fill(#NAME, g, out, n, [=](Generator &r) { return DRAW; });      \
  }
FILL_NORMAL(curandGenerateNormal, float, mean + deviation * r.normal())
FILL_NORMAL(curandGenerateNormalDouble, double, mean + deviation * r.normal())
FILL_NORMAL(curandGenerateLogNormal, float, std::exp(mean + deviation * r.normal()))
FILL_NORMAL(curandGenerateLogNormalDouble, double, std::exp(mean + deviation * r.normal()))
Status curandGeneratePoisson(curandGenerator_t g, unsigned *out, size_t n, double mean) {
  return fill("curandGeneratePoisson", g, out, n,
              [=](Generator &r) { return std::poisson_distribution<unsigned>(mean)(r); });
}
}  // namespace cupycpu

void init_curand_generator(int, intptr_t states, uint64_t seed, ssize_t n, intptr_t stream) {
  cupycpu::submit((cudaStream_t)stream, {"library", "init_curand_generator"}, [=] {
    for (ssize_t i = 0; i < n; i++) ((Generator *)states)[i].seed(seed, i);
    return 0;
  });
}
// EACH(name, type of the output, value for element i from r, further parameters...)
#define EACH(NAME, R, DRAW, ...)                                                         \
  void NAME(int, intptr_t states, ssize_t n_states, intptr_t out, ssize_t n,             \
            intptr_t stream __VA_OPT__(, ) __VA_ARGS__) {                                \
    draw_each<R>(#NAME, states, n_states, out, n, stream, [=](Generator &r, ssize_t i) { \
      (void)i;                                                                           \
      return DRAW;                                                                       \
    });                                                                                  \
  }
namespace {
template <class U>
U below_or_equal(Generator &r, U most, U mask) {  // by rejection
  U v;
  do v = (U)(sizeof(U) == 4 ? r.bits32() : r()) & mask;
  while (v > most);
  return v;
}
double draw_beta(Generator &r, double a, double b) {
  double x = r.gamma(a), y = r.gamma(b);
  return x / (x + y);
}
int64_t draw_hypergeometric(Generator &r, int64_t good, int64_t bad, int64_t sample) {
  int64_t hits = 0;
  for (; sample > 0; sample--) {
    if (r.uniform() * (good + bad) < good)
      good--, hits++;
    else
      bad--;
  }
  return hits;
}
int64_t draw_logseries(Generator &r, double p) {  // by inversion
  double u = r.uniform(), term = -p / std::log1p(-p), sum = term;
  int64_t k = 1;
  for (; u > sum && k < 1000000; k++) {
    term *= p * k / (k + 1);
    sum += term;
  }
  return k;
}
int64_t draw_poisson(Generator &r, double mean) {
  return mean > 0 ? std::poisson_distribution<int64_t>(mean)(r) : 0;
}
}  // namespace
EACH(random_uniform, double, r.uniform())
EACH(random_uniform_float, float, r.uniform_float())
EACH(raw, int32_t, r.bits32())
EACH(interval_32, int32_t, below_or_equal(r, most, mask), uint32_t most, uint32_t mask)
EACH(interval_64, int64_t, below_or_equal(r, most, mask), uint64_t most, uint64_t mask)
EACH(exponential, double, -std::log1p(-r.uniform()))
EACH(standard_normal, double, r.normal())
EACH(standard_normal_float, float, r.normal())
EACH(standard_gamma, double, r.gamma(parameter<double>(shape, i)), intptr_t shape)
EACH(beta, double, draw_beta(r, parameter<double>(a, i), parameter<double>(b, i)), intptr_t a,
     intptr_t b)
EACH(poisson, int64_t, draw_poisson(r, parameter<double>(mean, i)), intptr_t mean)
EACH(geometric, int64_t, 1 + std::geometric_distribution<int64_t>(parameter<double>(p, i))(r),
     intptr_t p)
EACH(logseries, int64_t, draw_logseries(r, parameter<double>(p, i)), intptr_t p)
EACH(hypergeometric, int64_t,
     draw_hypergeometric(r, parameter<int64_t>(good, i), parameter<int64_t>(bad, i),
                         parameter<int64_t>(sample, i)),
     intptr_t good, intptr_t bad, intptr_t sample)
EACH(binomial, int64_t,
     std::binomial_distribution<int64_t>(parameter<int64_t>(trials, i),
                                         parameter<double>(p, i))(r),
     intptr_t trials, intptr_t p, intptr_t)
