"""The hot operations in C++ for processors with AVX-512 and AMX, in bfloat16.

Knows: a shared library beside this file, made by `build` where a compiler is there. Does not know: models.
"""
