// atomics.h: one launch runs at a time and fibers switch at barriers only, so
// plain code is atomic.
#pragma once

// The function on T, and the same for the narrower and wider scopes.
#define CUPYCPU_ATOMIC(NAME, T, RESULT)                          \
  static inline T NAME(T *p, T v) {                              \
    T old = *p;                                                  \
    *p = RESULT;                                                 \
    return old;                                                  \
  }                                                              \
  static inline T NAME##_block(T *p, T v) { return NAME(p, v); } \
  static inline T NAME##_system(T *p, T v) { return NAME(p, v); }
#define CUPYCPU_ATOMIC_32(NAME, RESULT) \
  CUPYCPU_ATOMIC(NAME, int, RESULT)     \
  CUPYCPU_ATOMIC(NAME, unsigned, RESULT)
#define CUPYCPU_ATOMIC_64(NAME, RESULT)   \
  CUPYCPU_ATOMIC(NAME, long long, RESULT) \
  CUPYCPU_ATOMIC(NAME, unsigned long long, RESULT)

CUPYCPU_ATOMIC_32(atomicAdd, old + v)
CUPYCPU_ATOMIC(atomicAdd, unsigned long, old + v)
CUPYCPU_ATOMIC(atomicAdd, unsigned long long, old + v)
CUPYCPU_ATOMIC(atomicAdd, float, old + v)
CUPYCPU_ATOMIC(atomicAdd, double, old + v)
CUPYCPU_ATOMIC_32(atomicSub, old - v)
CUPYCPU_ATOMIC_32(atomicExch, v)
CUPYCPU_ATOMIC_64(atomicExch, v)
CUPYCPU_ATOMIC(atomicExch, float, v)
CUPYCPU_ATOMIC_32(atomicMin, old < v ? old : v)
CUPYCPU_ATOMIC_64(atomicMin, old < v ? old : v)
CUPYCPU_ATOMIC_32(atomicMax, old > v ? old : v)
CUPYCPU_ATOMIC_64(atomicMax, old > v ? old : v)
CUPYCPU_ATOMIC_32(atomicAnd, old &v)
CUPYCPU_ATOMIC_64(atomicAnd, old &v)
CUPYCPU_ATOMIC_32(atomicOr, old | v)
CUPYCPU_ATOMIC_64(atomicOr, old | v)
CUPYCPU_ATOMIC_32(atomicXor, old ^ v)
CUPYCPU_ATOMIC_64(atomicXor, old ^ v)
CUPYCPU_ATOMIC(atomicInc, unsigned, old >= v ? 0 : old + 1)
CUPYCPU_ATOMIC(atomicDec, unsigned, old == 0 || old > v ? v : old - 1)

#define CUPYCPU_CAS(T)                                                                       \
  static inline T atomicCAS(T *p, T compare, T v) {                                          \
    T old = *p;                                                                              \
    if (old == compare) *p = v;                                                              \
    return old;                                                                              \
  }                                                                                          \
  static inline T atomicCAS_block(T *p, T compare, T v) { return atomicCAS(p, compare, v); } \
  static inline T atomicCAS_system(T *p, T compare, T v) { return atomicCAS(p, compare, v); }
CUPYCPU_CAS(int)
CUPYCPU_CAS(unsigned)
CUPYCPU_CAS(long long)
CUPYCPU_CAS(unsigned long long)
CUPYCPU_CAS(unsigned short)
