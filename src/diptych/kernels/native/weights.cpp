// Packing of weights, once for each.
#include "weights.h"

#include <cstring>

#include "pool.h"

namespace diptych {
namespace {

// `factors`: [outputs][groups] or none; `scales`: [outputs] or none.
template <typename W>
void pack(const typename W::Value* weight, const int8_t* factors, const float* scales, int64_t outputs, int64_t in, uint8_t* target) {
  const int64_t blocks = padded(outputs, 16) / 16, width = W::Rows::kIn, steps = padded(in, width) / width;
  const int64_t groups = padded(in, kGroup) / kGroup;
  parallel_for(static_cast<int>(blocks), [&](int block) {
    const int64_t first = block * 16, there = outputs - first < 16 ? outputs - first : 16;
    for (int64_t k = 0; k < steps; ++k) {
      Unpacked<W> tile;
      const int64_t inputs = in - k * width < width ? in - k * width : width;
      for (int64_t n = 0; n < there; ++n) {
        std::memcpy(tile.values[n], weight + (first + n) * in + k * width, inputs * sizeof(typename W::Value));
        const int8_t* row = factors + (first + n) * groups;
        for (int64_t half = 0; factors && half < 2 && 2 * k + half < groups; ++half)
          tile.factors[n][half] = row[2 * k + half];
      }
      W::pack(tile, target + (block * steps + k) * W::kBytes);
    }
    if (!W::kRowScales) return;
    float line[16] = {};
    for (int64_t n = 0; n < there; ++n) line[n] = scales[first + n];
    std::memcpy(target + tiles_bytes<W>(outputs, in) + block * sizeof(line), line, sizeof(line));
  });
}

}  // namespace
}  // namespace diptych

using namespace diptych;

extern "C" int64_t dp_linear_bytes(int format, int64_t outputs, int64_t in) {
  return with_format(format, [&](auto it) {
    using W = decltype(it);
    return tiles_bytes<W>(outputs, in) + (W::kRowScales ? padded(outputs, 16) * int64_t{sizeof(float)} : 0);
  });
}

extern "C" void dp_linear_pack(int format, const void* weight, const int8_t* factors, const float* scales,
                               int64_t outputs, int64_t in, uint8_t* target) {
  with_format(format, [&](auto it) {
    using W = decltype(it);
    pack<W>(static_cast<const typename W::Value*>(weight), factors, scales, outputs, in, target);
  });
}
