// cublas.cpp: the cuBLAS calls that CuPy makes. Each checks its arguments, reads
// host scalars, and submits the computation (cublas_math.h) to the handle's
// stream. Calls not here answer NOT_SUPPORTED (cublas_missing.cpp, generated).
//
// The functions at the end of the file have the names and C linkage of a real
// libcublas, for callers through ctypes.
#include "internal.h"
#include "cupy_cublas.h"
#include "cublas_math.h"

namespace cupycpu {
void add_4_columns(int m, float *c, const float *a, size_t ld, const float *b) {
  add_columns(m, c, a, ld, b);
}
void add_4_columns(int m, double *c, const double *a, size_t ld, const double *b) {
  add_columns(m, c, a, ld, b);
}

namespace {
enum {
  SUCCESS = 0,
  NOT_INITIALIZED = 1,
  INVALID_VALUE = 7,
  EXECUTION_FAILED = 13,
  NOT_SUPPORTED = 15
};
typedef cublasStatus_t Status;

struct Handle {
  cudaStream_t stream = nullptr;
  int pointer_mode = 0;  // scalars and results: 0 on the host, 1 on the device
  int math_mode = 0;
};
Handle &get(cublasHandle_t h) { return *(Handle *)h; }

// A scalar argument: read now if on the host, when the work is done if not.
template <class T>
struct Scalar {
  T value;
  const T *pointer;
  Scalar(cublasHandle_t h, const void *p) : value(), pointer((const T *)p) {
    if (get(h).pointer_mode == 0 && p) {
      value = *pointer;
      pointer = nullptr;
    }
  }
  T operator()() const { return pointer ? *pointer : value; }
};

struct Call {
  const char *name;
  cublasHandle_t handle;
  template <class F>
  Status submit(F compute) const {
    if (!handle) return NOT_INITIALIZED;
    int e = cupycpu::submit(get(handle).stream, {"cublas", name}, [name = name, compute] {
      running = name;
      compute();
      return 0;
    });
    return e ? EXECUTION_FAILED : SUCCESS;
  }
  // A result on the host is there when the call returns.
  template <class F>
  Status submit_result(F compute) const {
    if (Status s = submit(compute)) return s;
    if (get(handle).pointer_mode != 0) return SUCCESS;
    Stream *stream = stream_of(get(handle).stream);
    if (int e = waiting_in_capture(stream)) return set_error(e), EXECUTION_FAILED;
    if (int e = waits(name)) return set_error(e), EXECUTION_FAILED;
    catch_up(stream);
    return take_failure() ? EXECUTION_FAILED : SUCCESS;
  }
};

// ---- the family of gemm
struct Shape {
  int op_a, op_b, m, n, k, lda, ldb, ldc;
  int a_rows() const { return op_a ? k : m; }
  int b_rows() const { return op_b ? n : k; }
  int a_columns() const { return op_a ? m : k; }
  int b_columns() const { return op_b ? k : n; }
  bool valid() const {
    return m >= 0 && n >= 0 && k >= 0 && lda >= std::max(1, a_rows()) &&
           ldb >= std::max(1, b_rows()) && ldc >= std::max(1, m);
  }
};
// On a device, an operand that is not there is an illegal address.
Status check_operand(const Call &call, char which, const void *p, int rows, int columns, int ld,
                     size_t item, long long stride, int batch) {
  if (rows == 0 || columns == 0 || batch == 0) return SUCCESS;
  size_t items = (size_t)(columns - 1) * ld + rows + (size_t)(batch - 1) * stride;
  if (stride < 0 || is_device_pointer(p, items * item)) return SUCCESS;
  fprintf(stderr, "cupy_cpu: %s: %c (%d x %d, leading dimension %d) is not device memory\n",
          call.name, which, rows, columns, ld);
  set_error(ERROR_ILLEGAL_ADDRESS);
  return EXECUTION_FAILED;
}
struct Operands {
  const void *A, *B;
  void *C;
  long long a_stride = 0, b_stride = 0, c_stride = 0;  // in elements
  int batch = 1;
};
Status check(const Call &call, const Shape &s, const Operands &o, size_t a_item,
             size_t c_item) {
  if (!call.handle) return NOT_INITIALIZED;
  if (!s.valid() || o.batch < 0) return INVALID_VALUE;
  if (s.k)
    if (Status e = check_operand(call, 'A', o.A, s.a_rows(), s.a_columns(), s.lda, a_item,
                                 o.a_stride, o.batch))
      return e;
  if (s.k)
    if (Status e = check_operand(call, 'B', o.B, s.b_rows(), s.b_columns(), s.ldb, a_item,
                                 o.b_stride, o.batch))
      return e;
  return check_operand(call, 'C', o.C, s.m, s.n, s.ldc, c_item, o.c_stride, o.batch);
}
template <class T>
Status gemm_call(Call call, Shape s, const void *alpha, const void *beta, Operands o) {
  if (Status e = check(call, s, o, sizeof(T), sizeof(T))) return e;
  Scalar<T> a(call.handle, alpha), b(call.handle, beta);
  return call.submit([=] {
    for (int i = 0; i < o.batch; i++)
      gemm<T>(s.op_a, s.op_b, s.m, s.n, s.k, a(), (const T *)o.A + i * o.a_stride, s.lda,
              (const T *)o.B + i * o.b_stride, s.ldb, b(), (T *)o.C + i * o.c_stride, s.ldc);
  });
}
template <class T>
Status gemm_batched(Call call, Shape s, const void *alpha, const void *beta, const T *const *A,
                    const T *const *B, T *const *C, int batch) {
  if (!call.handle) return NOT_INITIALIZED;
  if (!s.valid() || batch < 0) return INVALID_VALUE;
  Scalar<T> a(call.handle, alpha), b(call.handle, beta);
  return call.submit([=] {
    for (int i = 0; i < batch; i++)
      gemm<T>(s.op_a, s.op_b, s.m, s.n, s.k, a(), A[i], s.lda, B[i], s.ldb, b(), C[i], s.ldc);
  });
}

// What a product is computed in: a cublasComputeType_t, or the cudaDataType
// that older interfaces take.
enum Compute { IN_FLOAT, IN_TF32, IN_DOUBLE, IN_HALF, IN_INT, UNKNOWN };
Compute compute_of(int type) {
  switch (type) {
    case F32:
    case C64:
    case 68:
    case 69:
    case 74:
    case 75: return IN_FLOAT;
    case 77: return IN_TF32;
    case F64:
    case C128:
    case 70:
    case 71: return IN_DOUBLE;
    case F16:
    case 64:
    case 65: return IN_HALF;
    case I32:
    case 72:
    case 73: return IN_INT;
  }
  return UNKNOWN;
}
struct Types {
  int a, b, c;
  Compute compute;
};

template <class S, class F>  // scalars of type S, made T by `convert`
Status gemm_converting(Call call, Shape s, const void *alpha, const void *beta, Operands o,
                       Types t, F convert) {
  Scalar<S> a(call.handle, alpha), b(call.handle, beta);
  size_t a_item = item_size(t.a), b_item = item_size(t.b), c_item = item_size(t.c);
  return call.submit([=] {
    for (int i = 0; i < o.batch; i++)
      gemm_mixed(s.op_a, s.op_b, s.m, s.n, s.k, convert(a()),
                 (const char *)o.A + i * o.a_stride * a_item, t.a, s.lda,
                 (const char *)o.B + i * o.b_stride * b_item, t.b, s.ldb, convert(b()),
                 (char *)o.C + i * o.c_stride * c_item, t.c, s.ldc);
  });
}
Status gemm_ex(Call call, Shape s, const void *alpha, const void *beta, Operands o, Types t) {
  bool same = t.a == t.b && t.a == t.c;
  if (same && t.a == C64) return gemm_call<complex64>(call, s, alpha, beta, o);
  if (same && t.a == C128) return gemm_call<complex128>(call, s, alpha, beta, o);
  if (same && t.a == F32 && t.compute == IN_FLOAT)
    return gemm_call<float>(call, s, alpha, beta, o);
  if (same && t.a == F64 && t.compute == IN_DOUBLE)
    return gemm_call<double>(call, s, alpha, beta, o);
  if (same && t.a == F32 && t.compute == IN_TF32) {
    t.a = t.b = TF32;
    t.compute = IN_FLOAT;
  }
  if (!item_size(t.a) || !item_size(t.c) || t.a != t.b) return NOT_SUPPORTED;
  if (Status e = check(call, s, o, item_size(t.a), item_size(t.c))) return e;
  switch (t.compute) {
    case IN_FLOAT:
      return gemm_converting<float>(call, s, alpha, beta, o, t, [](float v) { return v; });
    case IN_DOUBLE:
      return gemm_converting<double>(call, s, alpha, beta, o, t, [](double v) { return v; });
    case IN_HALF: return gemm_converting<uint16_t>(call, s, alpha, beta, o, t, half_to_float);
    case IN_INT:
      return gemm_converting<int32_t>(call, s, alpha, beta, o, t,
                                      [](int32_t v) { return (double)v; });
    case IN_TF32:
    case UNKNOWN: break;
  }
  return NOT_SUPPORTED;
}
}  // namespace

// ---- handles
Status cublasCreate(cublasHandle_t *h) {
  *h = new Handle;
  return SUCCESS;
}
Status cublasDestroy(cublasHandle_t h) {
  delete (Handle *)h;
  return SUCCESS;
}
Status cublasGetVersion(cublasHandle_t, int *v) {
  *v = 130000;
  return SUCCESS;
}
#define PROPERTY(NAME, TYPE, FIELD)                       \
  Status cublasGet##NAME(cublasHandle_t h, TYPE *value) { \
    if (!h) return NOT_INITIALIZED;                       \
    *value = get(h).FIELD;                                \
    return SUCCESS;                                       \
  }                                                       \
  Status cublasSet##NAME(cublasHandle_t h, TYPE value) {  \
    if (!h) return NOT_INITIALIZED;                       \
    get(h).FIELD = value;                                 \
    return SUCCESS;                                       \
  }
PROPERTY(Stream, cudaStream_t, stream)
PROPERTY(PointerMode, cublasPointerMode_t, pointer_mode)
PROPERTY(MathMode, cublasMath_t, math_mode)

// ---- the functions that exist for four types: L letter, X the type in the
// interface, T the type computed with
#define OP cublasOperation_t
#define CALL(NAME) Call({NAME, h})
#define SHAPE Shape({op_a, op_b, m, n, k, lda, ldb, ldc})
#define FOUR_TYPES(L, X, T)                                                                    \
  Status cublas##L##gemm(cublasHandle_t h, OP op_a, OP op_b, int m, int n, int k,              \
                         const X *alpha, const X *A, int lda, const X *B, int ldb,             \
                         const X *beta, X *C, int ldc) {                                       \
    return gemm_call<T>(CALL("cublas" #L "gemm"), SHAPE, alpha, beta, {A, B, C});              \
  }                                                                                            \
  Status cublas##L##gemmStridedBatched(                                                        \
      cublasHandle_t h, OP op_a, OP op_b, int m, int n, int k, const X *alpha, const X *A,     \
      int lda, long long sa, const X *B, int ldb, long long sb, const X *beta, X *C, int ldc,  \
      long long sc, int batch) {                                                               \
    return gemm_call<T>(CALL("cublas" #L "gemmStridedBatched"), SHAPE, alpha, beta,            \
                        {A, B, C, sa, sb, sc, batch});                                         \
  }                                                                                            \
  Status cublas##L##gemmBatched(cublasHandle_t h, OP op_a, OP op_b, int m, int n, int k,       \
                                const X *alpha, const X **A, int lda, const X **B, int ldb,    \
                                const X *beta, X **C, int ldc, int batch) {                    \
    return gemm_batched<T>(CALL("cublas" #L "gemmBatched"), SHAPE, alpha, beta,                \
                           (const T *const *)A, (const T *const *)B, (T *const *)C, batch);    \
  }                                                                                            \
  Status cublas##L##axpy(cublasHandle_t h, int n, const X *alpha, const X *x, int x_inc, X *y, \
                         int y_inc) {                                                          \
    Scalar<T> a(h, alpha);                                                                     \
    return CALL("cublas" #L "axpy").submit([=] {                                               \
      axpy<T>(n, a(), (const T *)x, x_inc, (T *)y, y_inc);                                     \
    });                                                                                        \
  }                                                                                            \
  Status cublas##L##scal(cublasHandle_t h, int n, const X *alpha, X *x, int x_inc) {           \
    Scalar<T> a(h, alpha);                                                                     \
    return CALL("cublas" #L "scal").submit([=] { scal<T, T>(n, a(), (T *)x, x_inc); });        \
  }                                                                                            \
  Status cublas##L##gemv(cublasHandle_t h, OP op, int m, int n, const X *alpha, const X *A,    \
                         int lda, const X *x, int x_inc, const X *beta, X *y, int y_inc) {     \
    Scalar<T> a(h, alpha), b(h, beta);                                                         \
    return CALL("cublas" #L "gemv").submit([=] {                                               \
      gemv<T>(op, m, n, a(), (const T *)A, lda, (const T *)x, x_inc, b(), (T *)y, y_inc);      \
    });                                                                                        \
  }                                                                                            \
  Status cublas##L##trsm(cublasHandle_t h, cublasSideMode_t side, cublasFillMode_t fill,       \
                         OP op, cublasDiagType_t diagonal, int m, int n, const X *alpha,       \
                         const X *A, int lda, X *B, int ldb) {                                 \
    Scalar<T> a(h, alpha);                                                                     \
    return CALL("cublas" #L "trsm").submit([=] {                                               \
      trsm<T>(side, fill, op, diagonal == 1, m, n, a(), (const T *)A, lda, (T *)B, ldb);       \
    });                                                                                        \
  }                                                                                            \
  Status cublas##L##syrk(cublasHandle_t h, cublasFillMode_t fill, OP op, int n, int k,         \
                         const X *alpha, const X *A, int lda, const X *beta, X *C, int ldc) {  \
    Scalar<T> a(h, alpha), b(h, beta);                                                         \
    return CALL("cublas" #L "syrk").submit([=] {                                               \
      syrk<T>(fill, op, n, k, a(), (const T *)A, lda, b(), (T *)C, ldc);                       \
    });                                                                                        \
  }                                                                                            \
  Status cublas##L##geam(cublasHandle_t h, OP op_a, OP op_b, int m, int n, const X *alpha,     \
                         const X *A, int lda, const X *beta, const X *B, int ldb, X *C,        \
                         int ldc) {                                                            \
    Scalar<T> a(h, alpha), b(h, beta);                                                         \
    return CALL("cublas" #L "geam").submit([=] {                                               \
      geam<T>(op_a, op_b, m, n, a(), (const T *)A, lda, b(), (const T *)B, ldb, (T *)C, ldc);  \
    });                                                                                        \
  }                                                                                            \
  Status cublas##L##dgmm(cublasHandle_t h, cublasSideMode_t side, int m, int n, const X *A,    \
                         int lda, const X *x, int x_inc, X *C, int ldc) {                      \
    return CALL("cublas" #L "dgmm").submit([=] {                                               \
      dgmm<T>(side, m, n, (const T *)A, lda, (const T *)x, x_inc, (T *)C, ldc);                \
    });                                                                                        \
  }                                                                                            \
  Status cublas##L##getrfBatched(cublasHandle_t h, int n, X **A, int lda, int *pivots,         \
                                 int *info, int batch) {                                       \
    return CALL("cublas" #L "getrfBatched").submit([=] {                                       \
      for (int i = 0; i < batch; i++)                                                          \
        info[i] = lu_factor<T>(n, ((T **)A)[i], lda, pivots ? pivots + i * n : nullptr);       \
    });                                                                                        \
  }                                                                                            \
  Status cublas##L##getrsBatched(cublasHandle_t h, OP op, int n, int systems, const X **A,     \
                                 int lda, const int *pivots, X **B, int ldb, int *info,        \
                                 int batch) {                                                  \
    *info = 0;                                                                                 \
    return CALL("cublas" #L "getrsBatched").submit([=] {                                       \
      for (int i = 0; i < batch; i++)                                                          \
        lu_solve<T>(op, n, systems, ((T **)A)[i], lda, pivots ? pivots + i * n : nullptr,      \
                    ((T **)B)[i], ldb);                                                        \
    });                                                                                        \
  }                                                                                            \
  Status cublas##L##getriBatched(cublasHandle_t h, int n, const X **A, int lda, int *pivots,   \
                                 X *C[], int ldc, int *info, int batch) {                      \
    return CALL("cublas" #L "getriBatched").submit([=] {                                       \
      for (int i = 0; i < batch; i++) {                                                        \
        T *inverse = ((T **)C)[i];                                                             \
        for (int c = 0; c < n; c++)                                                            \
          for (int r = 0; r < n; r++) inverse[r + (size_t)c * ldc] = T(r == c);                \
        lu_solve<T>(0, n, n, ((T **)A)[i], lda, pivots ? pivots + i * n : nullptr, inverse,    \
                    ldc);                                                                      \
        info[i] = 0;                                                                           \
      }                                                                                        \
    });                                                                                        \
  }
FOUR_TYPES(S, float, float)
FOUR_TYPES(D, double, double)
FOUR_TYPES(C, cuComplex, complex64)
FOUR_TYPES(Z, cuDoubleComplex, complex128)

// ---- those whose names follow no rule
#define REAL_SCAL(NAME, X, T, R)                                           \
  Status NAME(cublasHandle_t h, int n, const R *alpha, X *x, int x_inc) {  \
    Scalar<R> a(h, alpha);                                                 \
    return CALL(#NAME).submit([=] { scal<T, R>(n, a(), (T *)x, x_inc); }); \
  }
REAL_SCAL(cublasCsscal, cuComplex, complex64, float)
REAL_SCAL(cublasZdscal, cuDoubleComplex, complex128, double)

#define DOT(NAME, X, T, CONJUGATED)                                                         \
  Status NAME(cublasHandle_t h, int n, const X *x, int x_inc, X *y, int y_inc, X *result) { \
    return CALL(#NAME).submit_result([=] {                                                  \
      *(T *)result = dot<T>(CONJUGATED, n, (const T *)x, x_inc, (const T *)y, y_inc);       \
    });                                                                                     \
  }
DOT(cublasSdot, float, float, false)
DOT(cublasDdot, double, double, false)
DOT(cublasCdotu, cuComplex, complex64, false)
DOT(cublasCdotc, cuComplex, complex64, true)
DOT(cublasZdotu, cuDoubleComplex, complex128, false)
DOT(cublasZdotc, cuDoubleComplex, complex128, true)

#define GER(NAME, X, T, CONJUGATED)                                                         \
  Status NAME(cublasHandle_t h, int m, int n, const X *alpha, const X *x, int x_inc, X *y,  \
              int y_inc, X *A, int lda) {                                                   \
    Scalar<T> a(h, alpha);                                                                  \
    return CALL(#NAME).submit([=] {                                                         \
      ger<T>(CONJUGATED, m, n, a(), (const T *)x, x_inc, (const T *)y, y_inc, (T *)A, lda); \
    });                                                                                     \
  }
GER(cublasSger, float, float, false)
GER(cublasDger, double, double, false)
GER(cublasCgeru, cuComplex, complex64, false)
GER(cublasCgerc, cuComplex, complex64, true)
GER(cublasZgeru, cuDoubleComplex, complex128, false)
GER(cublasZgerc, cuDoubleComplex, complex128, true)

#define REDUCTION(NAME, X, R, COMPUTE)                                     \
  Status NAME(cublasHandle_t h, int n, const X *x, int x_inc, R *result) { \
    return CALL(#NAME).submit_result([=] { *result = COMPUTE; });          \
  }
#define NORMS(TYPE, X, T, R)                                           \
  REDUCTION(cublas##TYPE##asum, X, R, asum<T>(n, (const T *)x, x_inc)) \
  REDUCTION(cublas##TYPE##nrm2, X, R, nrm2<T>(n, (const T *)x, x_inc))
NORMS(S, float, float, float)
NORMS(D, double, double, double)
NORMS(Sc, cuComplex, complex64, float)
NORMS(Dz, cuDoubleComplex, complex128, double)
#define EXTREMES(TYPE, X, T)                                                    \
  REDUCTION(cublasI##TYPE##amax, X, int, extreme<T>(1, n, (const T *)x, x_inc)) \
  REDUCTION(cublasI##TYPE##amin, X, int, extreme<T>(-1, n, (const T *)x, x_inc))
EXTREMES(s, float, float)
EXTREMES(d, double, double)
EXTREMES(c, cuComplex, complex64)
EXTREMES(z, cuDoubleComplex, complex128)

// ---- products of any types
Status cublasSgemmEx(cublasHandle_t h, OP op_a, OP op_b, int m, int n, int k,
                     const float *alpha, const void *A, cudaDataType a, int lda, const void *B,
                     cudaDataType b, int ldb, const float *beta, void *C, cudaDataType c,
                     int ldc) {
  return gemm_ex(CALL("cublasSgemmEx"), SHAPE, alpha, beta, {A, B, C}, {a, b, c, IN_FLOAT});
}
#define GEMM_EX(NAME, COMPUTE_TYPE)                                                           \
  Status NAME(cublasHandle_t h, OP op_a, OP op_b, int m, int n, int k, const void *alpha,     \
              const void *A, cudaDataType a, int lda, const void *B, cudaDataType b, int ldb, \
              const void *beta, void *C, cudaDataType c, int ldc, COMPUTE_TYPE compute,       \
              cublasGemmAlgo_t) {                                                             \
    return gemm_ex(CALL("cublasGemmEx"), SHAPE, alpha, beta, {A, B, C},                       \
                   {a, b, c, compute_of(compute)});                                           \
  }
GEMM_EX(cublasGemmEx, cudaDataType)
GEMM_EX(cublasGemmEx_v11, cublasComputeType_t)
#define GEMM_STRIDED_BATCHED_EX(NAME, COMPUTE_TYPE)                                       \
  Status NAME(cublasHandle_t h, OP op_a, OP op_b, int m, int n, int k, const void *alpha, \
              const void *A, cudaDataType a, int lda, long long sa, const void *B,        \
              cudaDataType b, int ldb, long long sb, const void *beta, void *C,           \
              cudaDataType c, int ldc, long long sc, int batch, COMPUTE_TYPE compute,     \
              cublasGemmAlgo_t) {                                                         \
    return gemm_ex(CALL("cublasGemmStridedBatchedEx"), SHAPE, alpha, beta,                \
                   {A, B, C, sa, sb, sc, batch}, {a, b, c, compute_of(compute)});         \
  }
GEMM_STRIDED_BATCHED_EX(cublasGemmStridedBatchedEx, cudaDataType)
GEMM_STRIDED_BATCHED_EX(cublasGemmStridedBatchedEx_v11, cublasComputeType_t)

}  // namespace cupycpu

// ---- with C linkage, by the names that a real libcublas exports
using namespace cupycpu;
#define EXPORT extern "C" int
EXPORT cublasCreate_v2(cublasHandle_t *h) { return cublasCreate(h); }
EXPORT cublasDestroy_v2(cublasHandle_t h) { return cublasDestroy(h); }
EXPORT cublasGetVersion_v2(cublasHandle_t h, int *v) { return cublasGetVersion(h, v); }
EXPORT cublasSetStream_v2(cublasHandle_t h, cudaStream_t s) { return cublasSetStream(h, s); }
EXPORT cublasGetStream_v2(cublasHandle_t h, cudaStream_t *s) { return cublasGetStream(h, s); }
EXPORT cublasSetPointerMode_v2(cublasHandle_t h, int mode) {
  return cublasSetPointerMode(h, mode);
}
EXPORT cublasGetPointerMode_v2(cublasHandle_t h, int *mode) {
  return cublasGetPointerMode(h, mode);
}
EXPORT cublasSetMathMode(cublasHandle_t h, int mode) {
  return cupycpu::cublasSetMathMode(h, mode);
}
EXPORT cublasGetMathMode(cublasHandle_t h, int *mode) {
  return cupycpu::cublasGetMathMode(h, mode);
}
// Nothing here needs a workspace; the rules for one are a device's.
EXPORT cublasSetWorkspace_v2(cublasHandle_t h, void *workspace, size_t size) {
  if (!h) return NOT_INITIALIZED;
  if ((uintptr_t)workspace % 256) return INVALID_VALUE;
  return size && !is_device_pointer(workspace, size) ? INVALID_VALUE : SUCCESS;
}
#define EXPORT_GEMM(L, X)                                                                     \
  EXPORT cublas##L##gemm_v2(cublasHandle_t h, int op_a, int op_b, int m, int n, int k,        \
                            const X *alpha, const X *A, int lda, const X *B, int ldb,         \
                            const X *beta, X *C, int ldc) {                                   \
    return cublas##L##gemm(h, op_a, op_b, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc);      \
  }                                                                                           \
  EXPORT cublas##L##gemmStridedBatched(                                                       \
      cublasHandle_t h, int op_a, int op_b, int m, int n, int k, const X *alpha, const X *A,  \
      int lda, long long sa, const X *B, int ldb, long long sb, const X *beta, X *C, int ldc, \
      long long sc, int batch) {                                                              \
    return cupycpu::cublas##L##gemmStridedBatched(h, op_a, op_b, m, n, k, alpha, A, lda, sa,  \
                                                  B, ldb, sb, beta, C, ldc, sc, batch);       \
  }
EXPORT_GEMM(S, float)
EXPORT_GEMM(D, double)
EXPORT_GEMM(C, cuComplex)
EXPORT_GEMM(Z, cuDoubleComplex)
EXPORT cublasGemmEx(cublasHandle_t h, int op_a, int op_b, int m, int n, int k,
                    const void *alpha, const void *A, int a, int lda, const void *B, int b,
                    int ldb, const void *beta, void *C, int c, int ldc, int compute,
                    int algorithm) {
  return cublasGemmEx_v11(h, op_a, op_b, m, n, k, alpha, A, a, lda, B, b, ldb, beta, C, c, ldc,
                          compute, algorithm);
}
EXPORT cublasGemmStridedBatchedEx(cublasHandle_t h, int op_a, int op_b, int m, int n, int k,
                                  const void *alpha, const void *A, int a, int lda,
                                  long long sa, const void *B, int b, int ldb, long long sb,
                                  const void *beta, void *C, int c, int ldc, long long sc,
                                  int batch, int compute, int algorithm) {
  return cublasGemmStridedBatchedEx_v11(h, op_a, op_b, m, n, k, alpha, A, a, lda, sa, B, b, ldb,
                                        sb, beta, C, c, ldc, sc, batch, compute, algorithm);
}
