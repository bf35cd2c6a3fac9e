// AMX tiles: 16 rows of 64 bytes, the same configuration in every thread.
#pragma once

#include <cstdint>

namespace diptych {

// Ask the kernel for tiles, once a process. False: this processor or this kernel has none.
bool allow_tiles();

// Configure this thread's tiles. At the start of every task: other libraries configure and release them, too.
void prepare_tiles();

// The same, but the tiles from kShortTiles on have only this many rows: products with fewer rows take less time.
constexpr int kShortTiles = 5;
void prepare_tiles(int short_rows);

}  // namespace diptych
