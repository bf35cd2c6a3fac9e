"""The hot operations in C++ for processors with AVX-512, in bfloat16, and on AMX tiles where
there are some.

Knows: a shared library beside this file, made by `build` where a compiler is there. Does not know: models.
"""
