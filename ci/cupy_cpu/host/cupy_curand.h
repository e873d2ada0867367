// CPU implementation of the host part of cuRAND that CuPy calls (declarations).
#ifndef INCLUDE_GUARD_CUPYCPU_CURAND_H
#define INCLUDE_GUARD_CUPYCPU_CURAND_H
#include "cupy_cuda_common.h"
typedef int curandOrdering_t;
typedef int curandRngType_t;
typedef int curandStatus_t;
typedef void *curandGenerator_t;
namespace cupycpu {
curandStatus_t curandCreateGenerator(curandGenerator_t *, int);
curandStatus_t curandDestroyGenerator(curandGenerator_t);
curandStatus_t curandGetVersion(int *);
curandStatus_t curandSetStream(curandGenerator_t, cudaStream_t);
curandStatus_t curandSetPseudoRandomGeneratorSeed(curandGenerator_t, unsigned long long);
curandStatus_t curandSetGeneratorOffset(curandGenerator_t, unsigned long long);
curandStatus_t curandSetGeneratorOrdering(curandGenerator_t, curandOrdering_t);
curandStatus_t curandGenerate(curandGenerator_t, unsigned int *, size_t);
curandStatus_t curandGenerateLongLong(curandGenerator_t, unsigned long long *, size_t);
curandStatus_t curandGenerateUniform(curandGenerator_t, float *, size_t);
curandStatus_t curandGenerateUniformDouble(curandGenerator_t, double *, size_t);
curandStatus_t curandGenerateNormal(curandGenerator_t, float *, size_t, float, float);
curandStatus_t curandGenerateNormalDouble(curandGenerator_t, double *, size_t, double, double);
curandStatus_t curandGenerateLogNormal(curandGenerator_t, float *, size_t, float, float);
curandStatus_t curandGenerateLogNormalDouble(curandGenerator_t, double *, size_t, double,
                                             double);
curandStatus_t curandGeneratePoisson(curandGenerator_t, unsigned int *, size_t, double);
}  // namespace cupycpu
#ifndef CUPYCPU_IMPL
using namespace cupycpu;
#endif
#endif
