"""From formulas to programs: trace, fuse, plan, write. It knows arrays, and no networks.

layout         where the entries of a view lie
graph          what was computed, as nodes
trace          the namespace under which a formula records itself
interpret      a graph run node by node, to hold all else to
items          what a fused graph is made of: loops, products, calls
fuse           which nodes are one loop
loops          the text of a loop in C
program        memory, and the calls in order
numpy_loops    a loop as calls of NumPy
numpy_program  a program of them, where there is no C compiler
cuda_products  a product as a kernel in CUDA
cuda_loops     the text of a loop in CUDA, perhaps with the product that it reads
cuda_plan      which kernels a graph is, and which products are cuBLAS's
cuda_program   launches of them, on a CuPy device
explain        a program as people read it
"""
