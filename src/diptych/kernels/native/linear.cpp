// x Wᵀ + b for bfloat16 rows, on AMX tiles or on vectors.
//
// A weight [N, K] is packed once into tiles (`weights.h`), so a small batch reads it once, front to back. Every output
// element is summed over K in the same order, whatever the number of rows and wherever its row stands: a row's bits do
// not depend on its batch.
#include "linear.h"

#include <cstdlib>
#include <memory>

#include "tiles.h"

namespace diptych {
namespace {

struct Free {
  void operator()(uint8_t* room) const { std::free(room); }
};

}  // namespace

uint8_t* room_for(int64_t bytes) {
  thread_local std::unique_ptr<uint8_t, Free> room;
  thread_local int64_t size = 0;
  if (size < bytes) {
    room.reset();
    room.reset(static_cast<uint8_t*>(std::aligned_alloc(64, padded(bytes, 64))));
    size = bytes;
  }
  return room.get();
}

}  // namespace diptych

using namespace diptych;

extern "C" void dp_linear(int format, const uint16_t* x, int64_t x_stride, int64_t rows, const uint8_t* weight,
                          const uint16_t* bias, int64_t outputs, int64_t in, void* out, int64_t out_stride,
                          int wide_out) {
  if (rows <= 0 || outputs <= 0) return;
  const float* scales = with_format(format, [&](auto it) {
    using W = decltype(it);
    return W::kRowScales ? reinterpret_cast<const float*>(weight + tiles_bytes<W>(outputs, in)) : nullptr;
  });
  const Linear job{x, x_stride, weight, scales, bias, out, out_stride, wide_out != 0, rows, in, outputs};
  if (on_tiles())
    linear_on_tiles(format, job);
  else
    linear_on_vectors(format, job);
}
