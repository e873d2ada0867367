// cuda_fp16.h: __half on the compiler's _Float16 (IEEE binary16, round to nearest even);
// arithmetic is done in float.
#pragma once
#include "cupycpu_prelude.h"
struct __half_raw {
  unsigned short x;
};
struct __half2_raw {
  unsigned short x, y;
};
template <class T>
static inline unsigned short cupycpu_to_half(T value) {
  _Float16 half = (_Float16)value;
  unsigned short bits;
  memcpy(&bits, &half, 2);
  return bits;
}
static inline float cupycpu_from_half(unsigned short bits) {
  _Float16 half;
  memcpy(&half, &bits, 2);
  return (float)half;
}
struct __half {
  unsigned short __x;
  __half() = default;
  __half(const __half_raw &r) : __x(r.x) {}
  __half(float f) : __x(cupycpu_to_half(f)) {}
  __half(double f) : __x(cupycpu_to_half(f)) {}
  __half(int v) : __x(cupycpu_to_half((double)v)) {}
  __half(unsigned v) : __x(cupycpu_to_half((double)v)) {}
  __half(short v) : __x(cupycpu_to_half((double)v)) {}
  __half(unsigned short v) : __x(cupycpu_to_half((double)v)) {}
  __half(long v) : __x(cupycpu_to_half((double)v)) {}
  __half(unsigned long v) : __x(cupycpu_to_half((double)v)) {}
  __half(long long v) : __x(cupycpu_to_half((double)v)) {}
  __half(unsigned long long v) : __x(cupycpu_to_half((double)v)) {}
  operator float() const { return cupycpu_from_half(__x); }
  operator __half_raw() const { return {__x}; }
  __half &operator=(float f) {
    __x = cupycpu_to_half(f);
    return *this;
  }
  __half &operator+=(const __half &o) { return *this = float(*this) + float(o); }
  __half &operator-=(const __half &o) { return *this = float(*this) - float(o); }
  __half &operator*=(const __half &o) { return *this = float(*this) * float(o); }
  __half &operator/=(const __half &o) { return *this = float(*this) / float(o); }
};
typedef __half half;
static inline __half operator+(const __half &a, const __half &b) {
  return __half(float(a) + float(b));
}
static inline __half operator-(const __half &a, const __half &b) {
  return __half(float(a) - float(b));
}
static inline __half operator*(const __half &a, const __half &b) {
  return __half(float(a) * float(b));
}
static inline __half operator/(const __half &a, const __half &b) {
  return __half(float(a) / float(b));
}
static inline __half operator-(const __half &a) {
  return __half(__half_raw{(unsigned short)(a.__x ^ 0x8000)});
}
static inline bool operator==(const __half &a, const __half &b) { return float(a) == float(b); }
static inline bool operator!=(const __half &a, const __half &b) { return float(a) != float(b); }
static inline bool operator<(const __half &a, const __half &b) { return float(a) < float(b); }
static inline bool operator>(const __half &a, const __half &b) { return float(a) > float(b); }
static inline bool operator<=(const __half &a, const __half &b) { return float(a) <= float(b); }
static inline bool operator>=(const __half &a, const __half &b) { return float(a) >= float(b); }
static inline __half __float2half(float f) { return __half(f); }
static inline __half __float2half_rn(float f) { return __half(f); }
static inline __half __double2half(double f) { return __half(f); }
static inline float __half2float(__half h) { return float(h); }
static inline __half __int2half_rn(int v) { return __half(v); }
static inline int __half2int_rn(__half h) { return (int)rintf(float(h)); }
static inline unsigned short __half_as_ushort(__half h) { return h.__x; }
static inline short __half_as_short(__half h) { return (short)h.__x; }
static inline __half __ushort_as_half(unsigned short v) { return __half(__half_raw{v}); }
static inline __half __short_as_half(short v) { return __half(__half_raw{(unsigned short)v}); }
static inline bool __hisnan(__half a) { return (a.__x & 0x7fff) > 0x7c00; }
static inline int __hisinf(__half a) { return (a.__x & 0x7fff) == 0x7c00; }
static inline __half __hadd(__half a, __half b) { return a + b; }
static inline __half __hsub(__half a, __half b) { return a - b; }
static inline __half __hmul(__half a, __half b) { return a * b; }
static inline __half __hdiv(__half a, __half b) { return a / b; }
static inline __half __hneg(__half a) { return -a; }
static inline __half __habs(__half a) { return __ushort_as_half(a.__x & 0x7fff); }
static inline __half __hfma(__half a, __half b, __half c) {
  return __half(fmaf(float(a), float(b), float(c)));
}
static inline bool __heq(__half a, __half b) { return a == b; }
static inline bool __hlt(__half a, __half b) { return a < b; }
static inline bool __hgt(__half a, __half b) { return a > b; }
static inline __half __hmax(__half a, __half b) { return __half(fmaxf(float(a), float(b))); }
static inline __half __hmin(__half a, __half b) { return __half(fminf(float(a), float(b))); }
#define CUPYCPU_HALF_FUNCTION(N, F) \
  static inline __half N(__half a) { return __half(F(float(a))); }
CUPYCPU_HALF_FUNCTION(hexp, expf)
CUPYCPU_HALF_FUNCTION(hlog, logf) CUPYCPU_HALF_FUNCTION(hsqrt, sqrtf)
    CUPYCPU_HALF_FUNCTION(hsin, sinf) CUPYCPU_HALF_FUNCTION(hcos, cosf)
        CUPYCPU_HALF_FUNCTION(hfloor, floorf) CUPYCPU_HALF_FUNCTION(hceil, ceilf)
            CUPYCPU_HALF_FUNCTION(hrint, rintf) CUPYCPU_HALF_FUNCTION(htrunc, truncf)
                CUPYCPU_HALF_FUNCTION(hrcp, 1.0f /) static inline __half
    atomicAdd(__half *p, __half v) {
  __half o = *p;
  *p = o + v;
  return o;
}
struct __half2 {
  __half x, y;
};
typedef __half2 half2;
static inline __half2 __halves2half2(__half a, __half b) { return {a, b}; }
static inline __half2 __float2half2_rn(float f) { return {__half(f), __half(f)}; }
static inline __half2 __floats2half2_rn(float a, float b) { return {__half(a), __half(b)}; }
static inline __half2 __hadd2(__half2 a, __half2 b) { return {a.x + b.x, a.y + b.y}; }
static inline __half2 __hmul2(__half2 a, __half2 b) { return {a.x * b.x, a.y * b.y}; }
static inline __half2 __hfma2(__half2 a, __half2 b, __half2 c) {
  return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)};
}
static inline __half __low2half(__half2 a) { return a.x; }
static inline __half __high2half(__half2 a) { return a.y; }
static inline float __low2float(__half2 a) { return a.x; }
static inline float __high2float(__half2 a) { return a.y; }
