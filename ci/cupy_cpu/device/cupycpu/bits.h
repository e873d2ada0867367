// bits.h: CUDA's integer intrinsics, reinterpreting casts and conversions.
#pragma once

// ---- the same bits as another type
template <class To, class From>
static inline To cupycpu_bits(From v) {
  static_assert(sizeof(To) == sizeof(From), "");
  To result;
  memcpy(&result, &v, sizeof result);
  return result;
}
static inline int __float_as_int(float v) { return cupycpu_bits<int>(v); }
static inline unsigned __float_as_uint(float v) { return cupycpu_bits<unsigned>(v); }
static inline float __int_as_float(int v) { return cupycpu_bits<float>(v); }
static inline float __uint_as_float(unsigned v) { return cupycpu_bits<float>(v); }
static inline long long __double_as_longlong(double v) { return cupycpu_bits<long long>(v); }
static inline double __longlong_as_double(long long v) { return cupycpu_bits<double>(v); }
static inline int __double2hiint(double v) { return int(__double_as_longlong(v) >> 32); }
static inline int __double2loint(double v) { return int(__double_as_longlong(v)); }
static inline double __hiloint2double(int hi, int lo) {
  unsigned long long bits = (unsigned long long)(unsigned)hi << 32 | (unsigned)lo;
  return __longlong_as_double((long long)bits);
}

// ---- integers
typedef unsigned long long cupycpu_u64;
static inline int __popc(unsigned v) { return __builtin_popcount(v); }
static inline int __popcll(cupycpu_u64 v) { return __builtin_popcountll(v); }
static inline int __clz(int v) { return v ? __builtin_clz((unsigned)v) : 32; }
static inline int __clzll(long long v) { return v ? __builtin_clzll((cupycpu_u64)v) : 64; }
static inline int __ffs(int v) { return __builtin_ffs(v); }
static inline int __ffsll(long long v) { return __builtin_ffsll(v); }
static inline unsigned __brev(unsigned v) {
  unsigned r = 0;
  for (int i = 0; i < 32; i++) r |= (v >> i & 1u) << (31 - i);
  return r;
}
static inline cupycpu_u64 __brevll(cupycpu_u64 v) {
  return (cupycpu_u64)__brev((unsigned)v) << 32 | __brev((unsigned)(v >> 32));
}
static inline int __mulhi(int a, int b) { return int((long long)a * b >> 32); }
static inline unsigned __umulhi(unsigned a, unsigned b) {
  return unsigned((cupycpu_u64)a * b >> 32);
}
static inline long long __mul64hi(long long a, long long b) {
  return (long long)((__int128)a * b >> 64);
}
static inline cupycpu_u64 __umul64hi(cupycpu_u64 a, cupycpu_u64 b) {
  return (cupycpu_u64)((unsigned __int128)a * b >> 64);
}
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  cupycpu_u64 bytes = (cupycpu_u64)b << 32 | a;
  unsigned r = 0;
  for (int i = 0; i < 4; i++)
    r |= unsigned(bytes >> (8 * (selector >> (4 * i) & 7)) & 0xff) << (8 * i);
  return r;
}
static inline unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned s) {
  s &= 31;
  return s ? hi << s | lo >> (32 - s) : hi;
}
static inline unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned s) {
  s &= 31;
  return s ? lo >> s | hi << (32 - s) : lo;
}

// ---- loads and stores with cache hints
template <class T>
static inline T __ldg(const T *p) {
  return *p;
}
template <class T>
static inline T __ldcg(const T *p) {
  return *p;
}
template <class T>
static inline T __ldcs(const T *p) {
  return *p;
}
template <class T>
static inline void __stcg(T *p, T v) {
  *p = v;
}
template <class T>
static inline void __stcs(T *p, T v) {
  *p = v;
}

// ---- conversions: to integers they saturate, and NaN becomes 0
template <class T>
static inline T cupycpu_saturate(double v) {
  if (v != v) return 0;
  if (v >= (double)std::numeric_limits<T>::max()) return std::numeric_limits<T>::max();
  if (v <= (double)std::numeric_limits<T>::min()) return std::numeric_limits<T>::min();
  return (T)v;
}
#define CUPYCPU_TO_INTEGER(FROM, TO_NAME, TO)          \
  static inline TO __##FROM##2##TO_NAME##_rn(FROM v) { \
    return cupycpu_saturate<TO>(::rint((double)v));    \
  }                                                    \
  static inline TO __##FROM##2##TO_NAME##_rz(FROM v) { \
    return cupycpu_saturate<TO>(::trunc((double)v));   \
  }                                                    \
  static inline TO __##FROM##2##TO_NAME##_rd(FROM v) { \
    return cupycpu_saturate<TO>(::floor((double)v));   \
  }                                                    \
  static inline TO __##FROM##2##TO_NAME##_ru(FROM v) { \
    return cupycpu_saturate<TO>(::ceil((double)v));    \
  }
CUPYCPU_TO_INTEGER(float, int, int)
CUPYCPU_TO_INTEGER(float, uint, unsigned)
CUPYCPU_TO_INTEGER(float, ll, long long)
CUPYCPU_TO_INTEGER(float, ull, unsigned long long)
CUPYCPU_TO_INTEGER(double, int, int)
CUPYCPU_TO_INTEGER(double, uint, unsigned)
CUPYCPU_TO_INTEGER(double, ll, long long)
CUPYCPU_TO_INTEGER(double, ull, unsigned long long)
// To floating point they round to nearest, whatever the suffix asks for.
#define CUPYCPU_TO_FLOATING(FROM_NAME, FROM, TO)                       \
  static inline TO __##FROM_NAME##2##TO##_rn(FROM v) { return (TO)v; } \
  static inline TO __##FROM_NAME##2##TO##_rz(FROM v) { return (TO)v; } \
  static inline TO __##FROM_NAME##2##TO##_rd(FROM v) { return (TO)v; } \
  static inline TO __##FROM_NAME##2##TO##_ru(FROM v) { return (TO)v; }
CUPYCPU_TO_FLOATING(int, int, float)
CUPYCPU_TO_FLOATING(int, int, double)
CUPYCPU_TO_FLOATING(uint, unsigned, float)
CUPYCPU_TO_FLOATING(uint, unsigned, double)
CUPYCPU_TO_FLOATING(ll, long long, float)
CUPYCPU_TO_FLOATING(ll, long long, double)
CUPYCPU_TO_FLOATING(ull, unsigned long long, float)
CUPYCPU_TO_FLOATING(ull, unsigned long long, double)
CUPYCPU_TO_FLOATING(double, double, float)
