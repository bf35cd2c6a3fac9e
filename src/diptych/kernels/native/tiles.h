// AMX tiles: 16 rows of 64 bytes, the same configuration in every thread.
#pragma once

#include <cstdint>

namespace diptych {

// Ask the kernel for tiles, once a process. False: this kernel gives none.
bool allow_tiles();

// Whether products are computed on tiles; else on vectors. To be said before the first product.
void use_tiles(bool use);
bool on_tiles();

// Configure this thread's tiles, if they are used. At the start of every task: other libraries configure and release them, too.
void prepare_tiles();

// The same, but the tiles from kShortTiles on have only this many rows: products with fewer rows take less time.
constexpr int kShortTiles = 5;
void prepare_tiles(int short_rows);

}  // namespace diptych
