// cublas_math.h: what the cuBLAS calls compute, on plain loops. Column-major, in
// cuBLAS's terms: operation 0 as it is, 1 transposed, 2 conjugate-transposed;
// fill 0 lower, 1 upper; side 0 left, 1 right. Pointers are read when these run.
#pragma once
#include <algorithm>
#include <cmath>
#include <complex>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace cupycpu {
typedef std::complex<float> complex64;
typedef std::complex<double> complex128;

template <class T>
T conjugate(T x) {
  return x;
}
template <class T>
std::complex<T> conjugate(std::complex<T> x) {
  return std::conj(x);
}
template <class T>
struct Real {
  typedef T type;
};
template <class T>
struct Real<std::complex<T>> {
  typedef T type;
};

// Element (i, j) of op(A).
template <class T>
T element(int op, const T *A, int lda, int i, int j) {
  T v = op ? A[j + (size_t)i * lda] : A[i + (size_t)j * lda];
  return op == 2 ? conjugate(v) : v;
}
// Element i of a vector; a negative increment counts from its end.
template <class T>
T &at(T *x, int n, int increment, int i) {
  ptrdiff_t first = increment < 0 ? (ptrdiff_t)(1 - n) * increment : 0;
  return x[first + (ptrdiff_t)i * increment];
}

// ---- matrix products
// c += four columns of a, each times its b
template <class T>
inline void add_columns(int m, T *__restrict c, const T *__restrict a, size_t ld, const T *b) {
  const T b0 = b[0], b1 = b[1], b2 = b[2], b3 = b[3];
  for (int i = 0; i < m; i++)
    c[i] += a[i] * b0 + a[i + ld] * b1 + a[i + 2 * ld] * b2 + a[i + 3 * ld] * b3;
}
#define CUPYCPU_CLONES __attribute__((target_clones("avx2", "default")))
CUPYCPU_CLONES void add_4_columns(int m, float *c, const float *a, size_t ld, const float *b);
CUPYCPU_CLONES void add_4_columns(int m, double *c, const double *a, size_t ld,
                                  const double *b);
inline void add_4_columns(int m, complex64 *c, const complex64 *a, size_t ld,
                          const complex64 *b) {
  add_columns(m, c, a, ld, b);
}
inline void add_4_columns(int m, complex128 *c, const complex128 *a, size_t ld,
                          const complex128 *b) {
  add_columns(m, c, a, ld, b);
}

// op(A) with its columns contiguous: A itself, or a copy in `storage`.
template <class T>
const T *packed(std::vector<T> &storage, int op, int rows, int columns, const T *A, int lda,
                size_t *ld) {
  *ld = op ? rows : lda;
  if (!op) return A;
  storage.resize((size_t)rows * columns);
  for (int j = 0; j < columns; j++)
    for (int i = 0; i < rows; i++) storage[i + (size_t)j * rows] = element(op, A, lda, i, j);
  return storage.data();
}
// C = alpha op(A) op(B) + beta C, column by column; C is not read where beta is 0.
template <class T>
void gemm(int op_a, int op_b, int m, int n, int k, T alpha, const T *A, int lda, const T *B,
          int ldb, T beta, T *C, int ldc) {
  std::vector<T> a_copy, b_copy, column(m);
  size_t a_ld, b_ld;
  const T *a = packed(a_copy, op_a, m, k, A, lda, &a_ld);
  const T *b = packed(b_copy, op_b, k, n, B, ldb, &b_ld);
  for (int j = 0; j < n; j++) {
    std::fill(column.begin(), column.end(), T(0));
    const T *bj = b + j * b_ld;
    int p = 0;
    for (; p + 4 <= k; p += 4) add_4_columns(m, column.data(), a + p * a_ld, a_ld, bj + p);
    for (; p < k; p++)
      for (int i = 0; i < m; i++) column[i] += a[i + p * a_ld] * bj[p];
    T *c = C + (size_t)j * ldc;
    for (int i = 0; i < m; i++)
      c[i] = beta == T(0) ? alpha * column[i] : alpha * column[i] + beta * c[i];
  }
}

// ---- products of other types, computed in T
enum DataType { F32 = 0, F64 = 1, F16 = 2, I8 = 3, C64 = 4, C128 = 5, I32 = 10, BF16 = 14 };
const int TF32 = 1000;  // no cudaDataType: float32 that loses 13 bits when it is read
inline size_t item_size(int type) {
  switch (type) {
    case F32:
    case TF32:
    case I32: return 4;
    case F64:
    case C64: return 8;
    case F16:
    case BF16: return 2;
    case I8: return 1;
    case C128: return 16;
  }
  return 0;
}
inline float half_to_float(uint16_t bits) {
  _Float16 h;
  memcpy(&h, &bits, 2);
  return (float)h;
}
inline uint16_t float_to_half(float f) {
  _Float16 h = (_Float16)f;
  uint16_t bits;
  memcpy(&bits, &h, 2);
  return bits;
}
inline float bfloat_to_float(uint16_t bits) {
  uint32_t u = (uint32_t)bits << 16;
  float f;
  memcpy(&f, &u, 4);
  return f;
}
inline uint16_t float_to_bfloat(float f) {  // to nearest even; NaN stays one
  uint32_t u;
  memcpy(&u, &f, 4);
  if ((u & 0x7fffffff) > 0x7f800000) return (u >> 16) | 0x40;
  return (u + 0x7fff + ((u >> 16) & 1)) >> 16;
}
inline float float_to_tf32(float f) {  // the same with 11 significant bits
  uint32_t u;
  memcpy(&u, &f, 4);
  if ((u & 0x7fffffff) > 0x7f800000) return f;
  u = (u + 0xfff + ((u >> 13) & 1)) & ~0x1fffu;
  memcpy(&f, &u, 4);
  return f;
}
template <class T>
T load(const void *A, int type, size_t i) {
  switch (type) {
    case F32: return (T)((const float *)A)[i];
    case TF32: return (T)float_to_tf32(((const float *)A)[i]);
    case F64: return (T)((const double *)A)[i];
    case F16: return (T)half_to_float(((const uint16_t *)A)[i]);
    case BF16: return (T)bfloat_to_float(((const uint16_t *)A)[i]);
    case I8: return (T)((const int8_t *)A)[i];
    case I32: return (T)((const int32_t *)A)[i];
  }
  return T(0);
}
template <class T>
void store(void *C, int type, size_t i, T v) {
  switch (type) {
    case F32: ((float *)C)[i] = (float)v; break;
    case F64: ((double *)C)[i] = (double)v; break;
    case F16: ((uint16_t *)C)[i] = float_to_half((float)v); break;
    case BF16: ((uint16_t *)C)[i] = float_to_bfloat((float)v); break;
    case I32: ((int32_t *)C)[i] = (int32_t)v; break;
  }
}
template <class T>
std::vector<T> loaded(const void *A, int type, int rows, int columns, int ld) {
  std::vector<T> result((size_t)rows * columns);
  for (int j = 0; j < columns; j++)
    for (int i = 0; i < rows; i++)
      result[i + (size_t)j * rows] = load<T>(A, type, i + (size_t)j * ld);
  return result;
}
template <class T>
void gemm_mixed(int op_a, int op_b, int m, int n, int k, T alpha, const void *A, int a_type,
                int lda, const void *B, int b_type, int ldb, T beta, void *C, int c_type,
                int ldc) {
  int a_rows = op_a ? k : m, b_rows = op_b ? n : k;
  std::vector<T> a = loaded<T>(A, a_type, a_rows, op_a ? m : k, lda);
  std::vector<T> b = loaded<T>(B, b_type, b_rows, op_b ? k : n, ldb);
  std::vector<T> c(beta == T(0) ? std::vector<T>((size_t)m * n)
                                : loaded<T>(C, c_type, m, n, ldc));
  gemm<T>(op_a, op_b, m, n, k, alpha, a.data(), a_rows, b.data(), b_rows, beta, c.data(), m);
  for (int j = 0; j < n; j++)
    for (int i = 0; i < m; i++) store(C, c_type, i + (size_t)j * ldc, c[i + (size_t)j * m]);
}

// ---- vectors
template <class T>
double magnitude(T v) {
  return std::abs(std::real(v)) + std::abs(std::imag(v));
}
// 1 + the index of the first largest (sign 1) or smallest (sign -1) magnitude
template <class T>
int extreme(int sign, int n, const T *x, int increment) {
  int best = 0;
  for (int i = 1; i < n; i++)
    if (sign * magnitude(at(x, n, increment, i)) > sign * magnitude(at(x, n, increment, best)))
      best = i;
  return n > 0 ? best + 1 : 0;
}
template <class T>
typename Real<T>::type asum(int n, const T *x, int increment) {
  typename Real<T>::type sum = 0;
  for (int i = 0; i < n; i++) sum += magnitude(at(x, n, increment, i));
  return sum;
}
template <class T>
typename Real<T>::type nrm2(int n, const T *x, int increment) {
  double sum = 0;
  for (int i = 0; i < n; i++) sum += std::norm(std::complex<double>(at(x, n, increment, i)));
  return std::sqrt(sum);
}
template <class T>
void axpy(int n, T alpha, const T *x, int x_inc, T *y, int y_inc) {
  for (int i = 0; i < n; i++) at(y, n, y_inc, i) += alpha * at(x, n, x_inc, i);
}
template <class T, class A>
void scal(int n, A alpha, T *x, int increment) {
  for (int i = 0; i < n; i++) at(x, n, increment, i) *= alpha;
}
template <class T>
T dot(bool conjugated, int n, const T *x, int x_inc, const T *y, int y_inc) {
  T sum(0);
  for (int i = 0; i < n; i++) {
    T v = at(x, n, x_inc, i);
    sum += (conjugated ? conjugate(v) : v) * at(y, n, y_inc, i);
  }
  return sum;
}

// ---- a matrix and vectors
template <class T>
void gemv(int op, int m, int n, T alpha, const T *A, int lda, const T *x, int x_inc, T beta,
          T *y, int y_inc) {
  int rows = op ? n : m, columns = op ? m : n;
  for (int i = 0; i < rows; i++) {
    T sum(0);
    for (int j = 0; j < columns; j++)
      sum += element(op, A, lda, i, j) * at(x, columns, x_inc, j);
    T &out = at(y, rows, y_inc, i);
    out = beta == T(0) ? alpha * sum : alpha * sum + beta * out;
  }
}
template <class T>
void ger(bool conjugated, int m, int n, T alpha, const T *x, int x_inc, const T *y, int y_inc,
         T *A, int lda) {
  for (int j = 0; j < n; j++) {
    T w = at(y, n, y_inc, j);
    if (conjugated) w = conjugate(w);
    for (int i = 0; i < m; i++) A[i + (size_t)j * lda] += alpha * at(x, m, x_inc, i) * w;
  }
}

// ---- matrices
// Solves op(A) X = alpha B (left) or X op(A) = alpha B (right) in place of B.
template <class T>
void trsm(int side, int fill, int op, bool unit, int m, int n, T alpha, const T *A, int lda,
          T *B, int ldb) {
  bool right = side == 1;
  int order = right ? n : m, systems = right ? m : n;
  bool lower = ((fill == 0) != (op != 0)) != right;  // of the matrix that multiplies a column
  auto a = [&](int i, int j) {
    return right ? element(op, A, lda, j, i) : element(op, A, lda, i, j);
  };
  for (int s = 0; s < systems; s++) {
    auto x = [&](int i) -> T & {
      return right ? B[s + (size_t)i * ldb] : B[i + (size_t)s * ldb];
    };
    for (int step = 0; step < order; step++) {
      int i = lower ? step : order - 1 - step;
      T v = alpha * x(i);
      for (int u = 0; u < step; u++) {
        int j = lower ? u : order - 1 - u;
        v -= a(i, j) * x(j);
      }
      x(i) = unit ? v : v / a(i, i);
    }
  }
}
template <class T>
void syrk(int fill, int op, int n, int k, T alpha, const T *A, int lda, T beta, T *C, int ldc) {
  std::vector<T> product((size_t)n * n);
  gemm<T>(op, !op, n, n, k, alpha, A, lda, A, lda, T(0), product.data(), n);
  for (int j = 0; j < n; j++)
    for (int i = 0; i < n; i++) {
      if (fill == 0 ? i < j : i > j) continue;
      T &out = C[i + (size_t)j * ldc];
      out = product[i + (size_t)j * n] + (beta == T(0) ? T(0) : beta * out);
    }
}
template <class T>
void geam(int op_a, int op_b, int m, int n, T alpha, const T *A, int lda, T beta, const T *B,
          int ldb, T *C, int ldc) {
  std::vector<T> sum((size_t)m * n);  // C may be A or B
  for (int j = 0; j < n; j++)
    for (int i = 0; i < m; i++) {
      T a = alpha == T(0) ? T(0) : alpha * element(op_a, A, lda, i, j);
      T b = beta == T(0) ? T(0) : beta * element(op_b, B, ldb, i, j);
      sum[i + (size_t)j * m] = a + b;
    }
  for (int j = 0; j < n; j++) std::copy_n(&sum[(size_t)j * m], m, C + (size_t)j * ldc);
}
template <class T>
void dgmm(int side, int m, int n, const T *A, int lda, const T *x, int increment, T *C,
          int ldc) {
  for (int j = 0; j < n; j++)
    for (int i = 0; i < m; i++) {
      T scale = side == 0 ? at(x, m, increment, i) : at(x, n, increment, j);
      C[i + (size_t)j * ldc] = A[i + (size_t)j * lda] * scale;
    }
}

// ---- LU, with row exchanges where `pivots` is given
template <class T>
int lu_factor(int n, T *A, int lda, int *pivots) {
  int info = 0;
  auto a = [=](int i, int j) -> T & { return A[i + (size_t)j * lda]; };
  for (int k = 0; k < n; k++) {
    int p = k;
    if (pivots) {
      for (int i = k + 1; i < n; i++)
        if (std::abs(a(i, k)) > std::abs(a(p, k))) p = i;
      pivots[k] = p + 1;
    }
    if (p != k)
      for (int j = 0; j < n; j++) std::swap(a(k, j), a(p, j));
    if (a(k, k) == T(0)) {
      if (!info) info = k + 1;
      continue;
    }
    for (int i = k + 1; i < n; i++) {
      T factor = a(i, k) /= a(k, k);
      for (int j = k + 1; j < n; j++) a(i, j) -= factor * a(k, j);
    }
  }
  return info;
}
template <class T>
void lu_solve(int op, int n, int systems, const T *A, int lda, const int *pivots, T *B,
              int ldb) {
  auto a = [=](int i, int j) { return element(op, A, lda, i, j); };
  for (int s = 0; s < systems; s++) {
    T *x = B + (size_t)s * ldb;
    auto exchange = [=](int i) {
      if (pivots && pivots[i] - 1 != i) std::swap(x[i], x[pivots[i] - 1]);
    };
    if (!op) {
      for (int i = 0; i < n; i++) exchange(i);
      for (int i = 0; i < n; i++)
        for (int j = 0; j < i; j++) x[i] -= a(i, j) * x[j];
      for (int i = n - 1; i >= 0; i--) {
        for (int j = i + 1; j < n; j++) x[i] -= a(i, j) * x[j];
        x[i] /= a(i, i);
      }
    } else {
      for (int i = 0; i < n; i++) {
        for (int j = 0; j < i; j++) x[i] -= a(i, j) * x[j];
        x[i] /= a(i, i);
      }
      for (int i = n - 1; i >= 0; i--)
        for (int j = i + 1; j < n; j++) x[i] -= a(i, j) * x[j];
      for (int i = n - 1; i >= 0; i--) exchange(i);
    }
  }
}
}  // namespace cupycpu
