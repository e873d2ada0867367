// mathematics.h: the functions that CUDA has and <math.h> has not, on top of it.
// Results are the host library's, not CUDA's: the last bits differ.
#pragma once

// ---- min and max: CUDA mixes signed and unsigned where C++ would not choose
#define CUPYCPU_MIN_MAX(X, Y, T)                                      \
  static inline T min(X x, Y y) { return (T)x < (T)y ? (T)x : (T)y; } \
  static inline T max(X x, Y y) { return (T)x > (T)y ? (T)x : (T)y; }
CUPYCPU_MIN_MAX(int, int, int)
CUPYCPU_MIN_MAX(unsigned, unsigned, unsigned)
CUPYCPU_MIN_MAX(long, long, long)
CUPYCPU_MIN_MAX(long, unsigned long, unsigned long)
CUPYCPU_MIN_MAX(unsigned long, long, unsigned long)
CUPYCPU_MIN_MAX(unsigned long, unsigned long, unsigned long)
CUPYCPU_MIN_MAX(long long, long long, long long)
CUPYCPU_MIN_MAX(long long, unsigned long long, unsigned long long)
CUPYCPU_MIN_MAX(unsigned long long, long long, unsigned long long)
CUPYCPU_MIN_MAX(unsigned long long, unsigned long long, unsigned long long)
#define CUPYCPU_FMIN_FMAX(X, Y, T)                                \
  static inline T min(X x, Y y) { return std::fmin((T)x, (T)y); } \
  static inline T max(X x, Y y) { return std::fmax((T)x, (T)y); }
CUPYCPU_FMIN_FMAX(float, float, float)
CUPYCPU_FMIN_FMAX(double, double, double)
CUPYCPU_FMIN_FMAX(float, double, double)
CUPYCPU_FMIN_FMAX(double, float, double)

// ---- functions of one argument: f(double), f(float) and ff(float)
#define CUPYCPU_FUNCTION(NAME, VALUE)                                  \
  static inline double NAME(double x) { return VALUE; }                \
  static inline float NAME(float x) { return (float)NAME((double)x); } \
  static inline float NAME##f(float x) { return (float)NAME((double)x); }
CUPYCPU_FUNCTION(rsqrt, 1.0 / ::sqrt(x))
CUPYCPU_FUNCTION(rcbrt, 1.0 / ::cbrt(x))
CUPYCPU_FUNCTION(sinpi, ::sin(M_PI * ::fmod(x, 2.0)))
CUPYCPU_FUNCTION(cospi, ::cos(M_PI * ::fmod(x, 2.0)))
CUPYCPU_FUNCTION(normcdf, 0.5 * ::erfc(-x * M_SQRT1_2))
CUPYCPU_FUNCTION(erfcx,
                 x < 25 ? ::exp(x * x) * ::erfc(x) : M_2_SQRTPI / 2 / x / (1 + 0.5 / (x * x)))

static inline double cupycpu_polynomial(double x, std::initializer_list<double> coefficients) {
  double y = 0;
  for (double c : coefficients) y = y * x + c;
  return y;
}
// M. Giles, "Approximating the erfinv function" (2010), single precision, then
// Halley's iteration to double.
static inline double cupycpu_erfinv(double y) {
  if (!(y > -1 && y < 1)) return y == 1 ? INFINITY : y == -1 ? -INFINITY : NAN;
  double w = -::log((1 - y) * (1 + y)), x;
  if (w < 5)
    x = cupycpu_polynomial(
        w - 2.5, {2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06,
                  0.00021858087, -0.00125372503, -0.00417768164, 0.246640727, 1.50140941});
  else
    x = cupycpu_polynomial(
        ::sqrt(w) - 3, {-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844,
                        0.00573950773, -0.0076224613, 0.00943887047, 1.00167406, 2.83297682});
  x *= y;
  for (int i = 0; i < 3; i++) {
    double e = (::erf(x) - y) / (M_2_SQRTPI * ::exp(-x * x));
    x -= e / (1 + x * e);
  }
  return x;
}
CUPYCPU_FUNCTION(erfinv, cupycpu_erfinv(x))
static inline double cupycpu_erfcinv(double y) {
  if (y > 0.1) return cupycpu_erfinv(1 - y);
  if (!(y > 0)) return y == 0 ? INFINITY : NAN;
  double x = ::sqrt(-::log(y * ::sqrt(M_PI) * ::sqrt(-::log(y))));
  for (int i = 0; i < 12; i++) {
    double e = (::erfc(x) - y) / (-M_2_SQRTPI * ::exp(-x * x));
    x -= e / (1 + x * e);
  }
  return x;
}
CUPYCPU_FUNCTION(erfcinv, cupycpu_erfcinv(x))
CUPYCPU_FUNCTION(normcdfinv, -M_SQRT2 *cupycpu_erfcinv(2 * x))

// Modified Bessel functions of order 0 and 1: the power series, and for large
// arguments the asymptotic one until its terms grow.
static inline double cupycpu_bessel_i(int order, double x) {
  double ax = ::fabs(x), result;
  if (ax < 30) {
    double term = order ? ax / 2 : 1, sum = term, q = ax * ax / 4;
    for (int k = 1; k < 500 && term > sum * 1e-17; k++)
      sum += term *= q / ((double)k * (k + order));
    result = sum;
  } else {
    double term = 1, sum = 1;
    for (int k = 1; k < 30; k++) {
      double odd = 2.0 * k - 1, next = term * (odd * odd - 4 * order) / (8.0 * k * ax);
      if (::fabs(next) > ::fabs(term)) break;
      sum += term = next;
    }
    result = ::exp(ax) / ::sqrt(2 * M_PI * ax) * sum;
  }
  return order && x < 0 ? -result : result;
}
static inline double cyl_bessel_i0(double x) { return cupycpu_bessel_i(0, x); }
static inline double cyl_bessel_i1(double x) { return cupycpu_bessel_i(1, x); }
static inline float cyl_bessel_i0f(float x) { return (float)cupycpu_bessel_i(0, x); }
static inline float cyl_bessel_i1f(float x) { return (float)cupycpu_bessel_i(1, x); }

static inline float exp10(float x) { return ::exp10f(x); }
static inline float j0(float x) { return ::j0f(x); }
static inline float j1(float x) { return ::j1f(x); }
static inline float y0(float x) { return ::y0f(x); }
static inline float y1(float x) { return ::y1f(x); }
static inline float jn(int n, float x) { return ::jnf(n, x); }
static inline float yn(int n, float x) { return ::ynf(n, x); }
static inline void sincos(float x, float *s, float *c) { ::sincosf(x, s, c); }
static inline double rhypot(double x, double y) { return 1.0 / ::hypot(x, y); }
static inline double norm3d(double x, double y, double z) {
  return ::sqrt(x * x + y * y + z * z);
}
static inline float norm3df(float x, float y, float z) {
  return ::sqrtf(x * x + y * y + z * z);
}

// ---- CUDA's fast and explicitly rounded forms: here, the plain ones
#define __expf(x) (::expf(x))
#define __exp10f(x) (::exp10f(x))
#define __logf(x) (::logf(x))
#define __log2f(x) (::log2f(x))
#define __log10f(x) (::log10f(x))
#define __sinf(x) (::sinf(x))
#define __cosf(x) (::cosf(x))
#define __tanf(x) (::tanf(x))
#define __powf(x, y) (::powf(x, y))
static inline float __fdividef(float x, float y) { return x / y; }
static inline float __frcp_rn(float x) { return 1.0f / x; }
static inline float __fsqrt_rn(float x) { return ::sqrtf(x); }
static inline float __frsqrt_rn(float x) { return 1.0f / ::sqrtf(x); }
static inline float __fadd_rn(float x, float y) { return x + y; }
static inline float __fsub_rn(float x, float y) { return x - y; }
static inline float __fmul_rn(float x, float y) { return x * y; }
static inline float __fdiv_rn(float x, float y) { return x / y; }
static inline float __fmaf_rn(float x, float y, float z) { return ::fmaf(x, y, z); }
static inline double __dadd_rn(double x, double y) { return x + y; }
static inline double __dmul_rn(double x, double y) { return x * y; }
static inline double __fma_rn(double x, double y, double z) { return ::fma(x, y, z); }
static inline float __saturatef(float x) { return x < 0 ? 0 : x > 1 ? 1 : x == x ? x : 0; }
