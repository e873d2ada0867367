"""Derives the two headers that CuPy's modules and libcupycpu share from CuPy itself.

cupy_cuda_common.h  from CuPy's stub header of that name (MIT): its opaque enums
                    get an explicit int base, and the few structures that CuPy
                    reads are completed from the declarations in its own Cython.
cupy_cublas.h       from the extern block of CuPy's cublas.pyx, as declarations in
                    the namespace cupycpu; and cublas_missing.cpp, a weak
                    definition of each that answers NOT_SUPPORTED. What
                    src/cublas.cpp defines takes precedence.

No header of NVIDIA's is read. Every replacement must apply, so that another CuPy
fails here and not at run time.
"""

import re
from collections.abc import Callable
from pathlib import Path

CODES = {
    "cudaSuccess": 0,
    "cudaErrorInvalidValue": 1,
    "cudaErrorMemoryAllocation": 2,
    "cudaErrorInvalidMemcpyDirection": 21,
    "cudaErrorInvalidDevice": 101,
    "cudaErrorInvalidResourceHandle": 400,
    "cudaErrorNotReady": 600,
    "cudaErrorPeerAccessAlreadyEnabled": 704,
    "cudaErrorContextIsDestroyed": 709,
    "cudaErrorLaunchFailure": 719,
    "cudaErrorNotSupported": 801,
    "cudaErrorStreamCaptureUnsupported": 900,
    "cudaErrorStreamCaptureInvalidated": 901,
    "cudaErrorStreamCaptureMerge": 902,
    "cudaErrorStreamCaptureUnmatched": 903,
    "cudaErrorStreamCaptureUnjoined": 904,
    "cudaErrorStreamCaptureIsolation": 905,
    "cudaErrorStreamCaptureImplicit": 906,
    "cudaErrorCapturedEvent": 907,
    "cudaErrorStreamCaptureWrongThread": 908,
    "cudaErrorUnknown": 999,
}

CUBLAS_TYPES = {  # CuPy's names for them in cublas.pyx
    "Handle": "cublasHandle_t",
    "PointerMode": "cublasPointerMode_t",
    "Stream": "cudaStream_t",
    "Math": "cublasMath_t",
    "Operation": "cublasOperation_t",
    "FillMode": "cublasFillMode_t",
    "SideMode": "cublasSideMode_t",
    "DiagType": "cublasDiagType_t",
    "DataType": "cudaDataType",
    "GemmAlgo": "cublasGemmAlgo_t",
    "ComputeType": "cublasComputeType_t",
}


def substitute(
    text: str, pattern: str, new: str | Callable[[re.Match[str]], str], *, once: bool = True
) -> str:
    """re.subn that insists on a match (on exactly one, if `once`)."""
    replace = new if callable(new) else lambda _: new
    text, n = re.subn(pattern, replace, text, flags=re.S)
    if n == 0 or (once and n != 1):
        raise SystemExit(f"{n} matches of {pattern!r}: is this another CuPy?")
    return text


def device_properties(typedefs: str) -> str:
    """The C structure that CuPy declares for CUDA 13 in _runtime_typedef.pxi."""
    found = re.search(
        r"IF CUPY_CUDA_VERSION >= 13000:.*?"
        r"ctypedef struct DeviceProp 'cudaDeviceProp':\n(.*?)\n    ELIF",
        typedefs,
        re.S,
    )
    if found is None:
        raise SystemExit("DeviceProp not found: is this another CuPy?")
    lines = [line.split("#")[0].split() for line in found.group(1).splitlines()]
    fields = [" ".join(words).replace("cudaUUID ", "cudaUUID_t ") for words in lines if words]
    body = "".join(f"    {field};\n" for field in fields)
    uuid = "typedef struct { char bytes[16]; } cudaUUID_t;\n"
    return f"{uuid}struct cudaDeviceProp {{\n{body}}};\n"


def common_header(tree: Path) -> str:
    text = (tree / "cupy_backends/stub/cupy_cuda_common.h").read_text()
    typedefs = (tree / "cupy_backends/cuda/api/_runtime_typedef.pxi").read_text()
    codes = "".join(f"    {name} = {code},\n" for name, code in CODES.items())

    text = substitute(
        text,
        r"#define CUDA_VERSION 0\n",
        "#define CUDA_VERSION 13000\n#include <stddef.h>\n#include <stdint.h>\n",
    )
    text = substitute(
        text, r"typedef enum \{\n    CUDA_SUCCESS = 0,\n\} CUresult;", "typedef int CUresult;"
    )
    text = substitute(
        text,
        r"typedef enum \{\n    cudaSuccess = 0,.*?\} cudaError_t;",
        f"typedef int cudaError_t;\nenum {{\n{codes}}};",
    )
    text = substitute(
        text,
        r"typedef enum \{\n    CUBLAS_STATUS_SUCCESS=0,\n\} cublasStatus_t;",
        "typedef int cublasComputeType_t;\ntypedef int cublasStatus_t;\n"
        "enum { CUBLAS_STATUS_SUCCESS = 0 };",
    )
    text = substitute(
        text, r"enum (CU\w+|cuda\w+) \{\};+", lambda m: f"typedef int {m[1]};", once=False
    )
    text = substitute(
        text, r"typedef enum \{\} (\w+);", lambda m: f"typedef int {m[1]};", once=False
    )
    text = substitute(text, r"\benum (cuda\w+) ", lambda m: f"{m[1]} ", once=False)
    text = substitute(
        text,
        r"struct cudaPointerAttributes\{.*?\};",
        "struct cudaPointerAttributes {\n    int type;\n    int device;\n"
        "    void* devicePointer;\n    void* hostPointer;\n};",
    )
    text = substitute(
        text,
        r"typedef struct \{\n     char name\[256\];.*?\} cudaDeviceProp;",
        device_properties(typedefs),
    )
    text = substitute(
        text,
        r"This file is a stub header file of cuda for Read the Docs\.",
        "Made by make_headers.py from the stub header of CuPy (MIT).",
    )
    text = substitute(text, r"STUB_CUPY_CUDA_COMMON", "CUPYCPU_CUDA_COMMON", once=False)
    return substitute(
        text,
        r"typedef struct CUarray_st\* CUarray;",
        "struct CUarray_st;\ntypedef struct CUarray_st* CUarray;",
    )


def cublas_declarations(tree: Path) -> list[tuple[str, str]]:
    """Name and parameters of each cuBLAS function that CuPy calls."""
    text = (tree / "cupy_backends/cuda/libs/cublas.pyx").read_text()
    begin = text.index("cdef extern from '../../cupy_blas.h' nogil:")
    found = re.findall(r"int (cublas\w+)\(([^)]*)\)", text[begin : text.index("# Error handling")])
    return [(name, cublas_parameters(name, " ".join(p.split()))) for name, p in found]


def cublas_parameters(name: str, parameters: str) -> str:
    types = "|".join(CUBLAS_TYPES)
    parameters = re.sub(rf"\b({types})\b(?=[ *])", lambda m: CUBLAS_TYPES[m.group(1)], parameters)
    # CuPy declares some inputs without const and passes pointers to const: add it
    inputs = ["alpha", "beta"]
    if "ger" not in name[-5:]:
        inputs.append("A")
    if "scal" not in name:
        inputs.append("x")
    if re.search("[gG]emm|geam", name):
        inputs.append("B")
    return re.sub(
        rf"(?<!const )\b(float|double|void|cuComplex|cuDoubleComplex) ?\* ?"
        rf"({'|'.join(inputs)})\b",
        r"const \1* \2",
        parameters,
    )


def cublas_header(declarations: list[tuple[str, str]]) -> str:
    body = "".join(f"cublasStatus_t {name}({p});\n" for name, p in declarations)
    return (
        "// Made by make_headers.py from cublas.pyx of CuPy (MIT).\n#pragma once\n"
        '#include "cupy_cuda_common.h"\n#include "cupy_cuComplex.h"\n'
        f"namespace cupycpu {{\n{body}}}  // namespace cupycpu\n"
        "#ifndef CUPYCPU_IMPL\nusing namespace cupycpu;\n#endif\n"
    )


def cublas_missing(declarations: list[tuple[str, str]]) -> str:
    body = "".join(
        f"__attribute__((weak)) cublasStatus_t {name}({p}) {{ return NOT_SUPPORTED; }}\n"
        for name, p in declarations
    )
    return (
        "// Made by make_headers.py: for calls that src/cublas.cpp does not define.\n"
        '#define CUPYCPU_IMPL 1\n#include "cupy_cublas.h"\nnamespace cupycpu {\n'
        f"static const int NOT_SUPPORTED = 15;\n{body}}}  // namespace cupycpu\n"
    )


def make_headers(tree: Path, out: Path) -> None:
    """Write the headers and cublas_missing.cpp for the CuPy source in `tree`."""
    out.mkdir(parents=True, exist_ok=True)
    declarations = cublas_declarations(tree)
    (out / "cupy_cuda_common.h").write_text(common_header(tree))
    (out / "cupy_cublas.h").write_text(cublas_header(declarations))
    (out / "cublas_missing.cpp").write_text(cublas_missing(declarations))
