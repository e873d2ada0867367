"""Whether a sanitizer is at work: a library with one fault of its kind must end this process.

python ci/sanitize_check.py address|undefined|thread
"""

import ctypes
import sys

import numpy as np

from mlp_xp.fast import native

FAULTS = {
    "address": "void f(char *p, long long n) { p[n] = 1; }",
    "undefined": "int f(char *p, long long n) { return 2147483647 + (int)n; }",
    "thread": """#include <pthread.h>
static long long sum;
static void *g(void *p) { for (int i = 0; i < 1000; i++) sum++; return 0; }
void f(char *p, long long n) {
  pthread_t t; pthread_create(&t, 0, g, 0); g(0); pthread_join(t, 0);
}""",
}

if __name__ == "__main__":
    data = np.zeros(4096, np.uint8)
    f = native.library(FAULTS[sys.argv[1]]).f
    f(ctypes.c_void_p(data.ctypes.data), ctypes.c_longlong(data.size))
