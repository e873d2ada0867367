// sort.cpp: the three sorting functions that CuPy compiles from its Thrust file.
#include "internal.h"
#include <cmath>
#include <complex>
#include <numeric>

namespace {
struct Half {
  uint16_t bits;
  float value() const {
    _Float16 h;
    memcpy(&h, &bits, 2);
    return (float)h;
  }
};
// NumPy's order: NaN comes last.
template <class T>
bool less(const T &a, const T &b) {
  return a < b;
}
template <class T>
bool less_nan_last(T a, T b) {
  return !std::isnan(a) && (std::isnan(b) || a < b);
}
bool less(float a, float b) { return less_nan_last(a, b); }
bool less(double a, double b) { return less_nan_last(a, b); }
bool less(Half a, Half b) { return less_nan_last(a.value(), b.value()); }
template <class T>
bool less(const std::complex<T> &a, const std::complex<T> &b) {
  bool ar = std::isnan(a.real()), ai = std::isnan(a.imag());
  bool br = std::isnan(b.real()), bi = std::isnan(b.imag());
  bool a_nan = ar || ai, b_nan = br || bi;
  if (!a_nan && !b_nan) return a.real() != b.real() ? a.real() < b.real() : a.imag() < b.imag();
  if (a_nan != b_nan) return b_nan;
  if (ar != br) return br;
  if (ai != bi) return bi;
  return (ai && bi && a.real() < b.real()) || (ar && br && a.imag() < b.imag());
}
// Calls f with a value of the type that CuPy numbers so.
template <class F>
void with_type(int number, F f) {
  switch (number) {
    case 0: return f(int8_t());
    case 1: return f(uint8_t());
    case 2: return f(int16_t());
    case 3: return f(uint16_t());
    case 4: return f(int32_t());
    case 5: return f(uint32_t());
    case 6: return f(int64_t());
    case 7: return f(uint64_t());
    case 8: return f(Half());
    case 9: return f(float());
    case 10: return f(double());
    case 11: return f(std::complex<float>());
    case 12: return f(std::complex<double>());
    case 13: return f((unsigned char)0);  // bool
  }
}
template <class F>
void submit_sort(const char *name, intptr_t stream, int type, F sort) {
  cupycpu::submit((cudaStream_t)stream, {"library", name}, [=] {
    with_type(type, sort);
    return 0;
  });
}
size_t product(const std::vector<ptrdiff_t> &shape) {
  size_t n = 1;
  for (ptrdiff_t v : shape) n *= v;
  return n;
}
template <class T>
void sort_indices(size_t *out, const T *keys, size_t n) {
  std::stable_sort(out, out + n, [=](size_t a, size_t b) { return less(keys[a], keys[b]); });
}
}  // namespace

void thrust_sort(int type, void *data, size_t *, const std::vector<ptrdiff_t> &shape,
                 intptr_t stream, void *) {
  size_t n = product(shape), row = shape.back();
  submit_sort("thrust::sort", stream, type, [=](auto example) {
    typedef decltype(example) T;
    for (size_t r = 0; row && r < n; r += row)
      std::stable_sort((T *)data + r, (T *)data + r + row,
                       [](const T &a, const T &b) { return less(a, b); });
  });
}
void thrust_lexsort(int type, size_t *out, void *keys, size_t n_keys, size_t n, intptr_t stream,
                    void *) {
  submit_sort("thrust::lexsort", stream, type, [=](auto example) {
    typedef decltype(example) T;
    std::iota(out, out + n, size_t(0));
    for (size_t k = 0; k < n_keys; k++) sort_indices(out, (const T *)keys + k * n, n);
  });
}
void thrust_argsort(int type, size_t *out, void *data, void *,
                    const std::vector<ptrdiff_t> &shape, intptr_t stream, void *) {
  size_t n = product(shape), row = shape.back();
  submit_sort("thrust::argsort", stream, type, [=](auto example) {
    typedef decltype(example) T;
    for (size_t r = 0; row && r < n; r += row) {
      std::iota(out + r, out + r + row, size_t(0));
      sort_indices(out + r, (const T *)data + r, row);
    }
  });
}
