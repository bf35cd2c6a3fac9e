// What the library is and what it needs of the processor.
#include <cstdint>

#include "pool.h"
#include "tiles.h"

// Rises with every change of a signature.
extern "C" int dp_version() { return 1; }

// Whether this process may use tiles. To be asked once before anything else.
extern "C" int dp_ready() { return diptych::allow_tiles() ? 1 : 0; }

extern "C" void dp_set_threads(int threads) { diptych::set_threads(threads); }
