// cuda_bf16.h: __nv_bfloat16, the upper half of a float, rounded to nearest even.
#pragma once
#include "cupycpu_prelude.h"
struct __nv_bfloat16_raw {
  unsigned short x;
};
struct __nv_bfloat16 {
  unsigned short __x;
  __nv_bfloat16() = default;
  __nv_bfloat16(const __nv_bfloat16_raw &r) : __x(r.x) {}
  __nv_bfloat16(float f) {
    unsigned u;
    memcpy(&u, &f, 4);
    if ((u & 0x7fffffffu) > 0x7f800000u)
      __x = 0x7fff;
    else {
      u += 0x7fffu + ((u >> 16) & 1u);
      __x = u >> 16;
    }
  }
  __nv_bfloat16(double f) : __nv_bfloat16((float)f) {}
  operator float() const {
    unsigned u = (unsigned)__x << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
  }
};
static inline bool operator==(const __nv_bfloat16 &a, const __nv_bfloat16 &b) {
  return float(a) == float(b);
}
static inline bool operator!=(const __nv_bfloat16 &a, const __nv_bfloat16 &b) {
  return float(a) != float(b);
}
static inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 v) { return v.__x; }
static inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short v) {
  return __nv_bfloat16(__nv_bfloat16_raw{v});
}
static inline bool __hisnan(__nv_bfloat16 v) { return (v.__x & 0x7fff) > 0x7f80; }
static inline int __hisinf(__nv_bfloat16 v) { return (v.__x & 0x7fff) == 0x7f80; }
static inline float __bfloat162float(__nv_bfloat16 v) { return float(v); }
static inline __nv_bfloat16 __float2bfloat16(float v) { return __nv_bfloat16(v); }
static inline __nv_bfloat16 __float2bfloat16_rn(float v) { return __nv_bfloat16(v); }
