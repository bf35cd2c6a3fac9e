// What the library is and what it needs of the processor and of the allocator.
#include <cstdint>

#include <malloc.h>

#include "pool.h"
#include "tiles.h"

namespace {

// Outputs are new memory in every call. Where freed memory goes back to the kernel at once, each page of the next
// output faults, and that takes as long as the matrix product.
void keep_freed_memory() {
#ifdef __GLIBC__
  constexpr int kOwnMapping = 32 << 20;  // the most that glibc takes; its own rule ends there, too
  constexpr int kKeptFree = 128 << 20;   // twice the outputs of a layer of width 1,024 for 2,048 rows
  static const bool done = mallopt(M_MMAP_THRESHOLD, kOwnMapping) && mallopt(M_TRIM_THRESHOLD, kKeptFree);
  static_cast<void>(done);
#endif
}

}  // namespace

// Rises with every change of a signature.
extern "C" int dp_version() { return 5; }

// To be called once before anything else. `tiles`: whether to compute on AMX tiles; the processor has them. Zero: the
// kernel gives this process none.
extern "C" int dp_ready(int tiles) {
  keep_freed_memory();
  if (tiles && !diptych::allow_tiles()) return 0;
  diptych::use_tiles(tiles != 0);
  return 1;
}

extern "C" int dp_on_tiles() { return diptych::on_tiles() ? 1 : 0; }

extern "C" void dp_set_threads(int threads) { diptych::set_threads(threads); }
