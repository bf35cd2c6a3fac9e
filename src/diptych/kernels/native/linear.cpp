// x Wᵀ + b for bfloat16 with float32 sums, on AMX tiles.
//
// A weight [N, K] is packed once: for each 16 outputs, for each 32 inputs, one tile of 16 rows (pairs of inputs)
// by 16 outputs by 2. So a small batch reads the weight once, front to back. Every output element is summed over
// K in the same order, whatever the number of rows and wherever its row stands: a row's bits do not depend on its
// batch.
#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "pool.h"
#include "tiles.h"
#include "vector.h"

namespace diptych {
namespace {

constexpr int kTileRows = 16;
constexpr int kTileIn = 32;
constexpr int kTileBytes = 1024;
constexpr int kAhead = 8;  // tiles that are fetched before they are used, per stream
constexpr int kSquareAhead = 3;
constexpr int64_t kChunkBytes = 512 << 10;  // of packed rows: they stay in the cache next to a core

int64_t padded(int64_t size, int64_t step) { return (size + step - 1) / step * step; }

struct Linear {
  const bf16* x;
  int64_t x_stride;
  const uint8_t* weight;
  const bf16* bias;
  void* out;
  int64_t out_stride;
  bool wide_out;
  int64_t rows, in, outputs;
};

// Rows [first, first + 16·blocks) as tiles [block][k][16][32]; what is missing is zero.
void pack_rows(const Linear& job, int64_t first, int64_t blocks, uint8_t* target) {
  const int64_t steps = padded(job.in, kTileIn) / kTileIn;
  for (int64_t block = 0; block < blocks; ++block) {
    for (int64_t row = 0; row < kTileRows; ++row) {
      const int64_t source_row = first + block * kTileRows + row;
      uint8_t* line = target + block * steps * kTileBytes + row * 64;
      if (source_row >= job.rows) {
        for (int64_t k = 0; k < steps; ++k) _mm512_storeu_si512(line + k * kTileBytes, _mm512_setzero_si512());
        continue;
      }
      const bf16* source = job.x + source_row * job.x_stride;
      const int64_t whole = job.in / kTileIn;
      for (int64_t k = 0; k < whole; ++k)
        _mm512_storeu_si512(line + k * kTileBytes, _mm512_loadu_si512(source + k * kTileIn));
      if (whole < steps) {
        const __mmask32 rest = (1u << (job.in % kTileIn)) - 1;
        _mm512_storeu_si512(line + whole * kTileBytes, _mm512_maskz_loadu_epi16(rest, source + whole * kTileIn));
      }
    }
  }
}

// A 16 × 16 tile of sums to its place, with the bias.
void put(const Linear& job, const float* sums, int64_t row, int64_t column) {
  const int64_t rows = std::min<int64_t>(kTileRows, job.rows - row);
  const int64_t columns = std::min<int64_t>(16, job.outputs - column);
  if (rows <= 0 || columns <= 0) return;
  const __mmask16 there = static_cast<__mmask16>((1u << columns) - 1);
  __m512 bias = _mm512_setzero_ps();
  if (job.bias) {
    const __m256i narrow = _mm256_maskz_loadu_epi16(there, job.bias + column);
    bias = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow), 16));
  }
  for (int64_t r = 0; r < rows; ++r) {
    const __m512 value = _mm512_add_ps(_mm512_load_ps(sums + r * 16), bias);
    if (job.wide_out) {
      float* target = static_cast<float*>(job.out) + (row + r) * job.out_stride + column;
      _mm512_mask_storeu_ps(target, there, value);
    } else {
      bf16* target = static_cast<bf16*>(job.out) + (row + r) * job.out_stride + column;
      _mm256_mask_storeu_epi16(target, there, reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(value)));
    }
  }
}

// Up to 16 rows: four blocks of outputs at a time, the weight streams past.
void narrow(const Linear& job, const uint8_t* rows, int64_t first, int64_t last) {
  const int64_t steps = padded(job.in, kTileIn) / kTileIn;
  const int64_t stride = steps * kTileBytes;
  alignas(64) float sums[4][256];
  prepare_tiles();
  for (int64_t block = first; block < last; block += 4) {
    const int64_t count = std::min<int64_t>(4, last - block);
    const uint8_t* w = job.weight + block * stride;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t k = 0; k < steps; ++k) {
      const uint8_t* at = w + k * kTileBytes;
      for (int64_t b = 0; b < count; ++b)
        for (int line = 0; line < kTileBytes; line += 64)
          _mm_prefetch(reinterpret_cast<const char*>(at + b * stride + kAhead * kTileBytes + line), _MM_HINT_T0);
      _tile_loadd(4, rows + k * kTileBytes, 64);
      _tile_loadd(5, at, 64);
      _tile_dpbf16ps(0, 4, 5);
      if (count > 1) {
        _tile_loadd(6, at + stride, 64);
        _tile_dpbf16ps(1, 4, 6);
      }
      if (count > 2) {
        _tile_loadd(7, at + 2 * stride, 64);
        _tile_dpbf16ps(2, 4, 7);
      }
      if (count > 3) {
        _tile_loadd(5, at + 3 * stride, 64);
        _tile_dpbf16ps(3, 4, 5);
      }
    }
    _tile_stored(0, sums[0], 64);
    _tile_stored(1, sums[1], 64);
    _tile_stored(2, sums[2], 64);
    _tile_stored(3, sums[3], 64);
    for (int64_t b = 0; b < count; ++b) put(job, sums[b], 0, (block + b) * 16);
  }
}

void fetch(const uint8_t* tile) {
  for (int line = 0; line < kTileBytes; line += 64)
    _mm_prefetch(reinterpret_cast<const char*>(tile + line), _MM_HINT_T0);
}

// 32 rows by 32 outputs.
void square(const Linear& job, const uint8_t* rows, int64_t row, int64_t block, bool second_block) {
  const int64_t steps = padded(job.in, kTileIn) / kTileIn;
  const int64_t stride = steps * kTileBytes;
  const uint8_t* a0 = rows;
  const uint8_t* a1 = rows + stride;
  const uint8_t* b0 = job.weight + block * stride;
  const uint8_t* b1 = second_block ? b0 + stride : b0;
  alignas(64) float sums[4][256];
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t k = 0; k < steps; ++k) {
    const int64_t at = k * kTileBytes;
    fetch(a0 + at + kSquareAhead * kTileBytes);
    fetch(b0 + at + kSquareAhead * kTileBytes);
    fetch(a1 + at + kSquareAhead * kTileBytes);
    fetch(b1 + at + kSquareAhead * kTileBytes);
    _tile_loadd(4, a0 + at, 64);
    _tile_loadd(6, b0 + at, 64);
    _tile_loadd(5, a1 + at, 64);
    _tile_loadd(7, b1 + at, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, sums[0], 64);
  _tile_stored(1, sums[1], 64);
  _tile_stored(2, sums[2], 64);
  _tile_stored(3, sums[3], 64);
  put(job, sums[0], row, block * 16);
  put(job, sums[2], row + 16, block * 16);
  if (second_block) {
    put(job, sums[1], row, block * 16 + 16);
    put(job, sums[3], row + 16, block * 16 + 16);
  }
}

std::vector<uint8_t>& scratch() {
  static std::vector<uint8_t> room;
  return room;
}

uint8_t* room_for(int64_t bytes) {
  auto& room = scratch();
  if (static_cast<int64_t>(room.size()) < bytes + 64) room.resize(bytes + 64);
  return reinterpret_cast<uint8_t*>(padded(reinterpret_cast<int64_t>(room.data()), 64));
}

}  // namespace
}  // namespace diptych

using namespace diptych;

extern "C" int64_t dp_linear_bytes(int64_t outputs, int64_t in) {
  return padded(outputs, 16) / 16 * (padded(in, kTileIn) / kTileIn) * kTileBytes;
}

extern "C" void dp_linear_pack(const uint16_t* weight, int64_t outputs, int64_t in, uint8_t* target) {
  const int64_t blocks = padded(outputs, 16) / 16, steps = padded(in, kTileIn) / kTileIn;
  parallel_for(static_cast<int>(blocks), [&](int block) {
    for (int64_t k = 0; k < steps; ++k) {
      uint16_t* tile = reinterpret_cast<uint16_t*>(target + (block * steps + k) * kTileBytes);
      for (int64_t pair = 0; pair < 16; ++pair)
        for (int64_t n = 0; n < 16; ++n)
          for (int64_t half = 0; half < 2; ++half) {
            const int64_t row = block * 16 + n, column = k * kTileIn + 2 * pair + half;
            tile[(pair * 16 + n) * 2 + half] = row < outputs && column < in ? weight[row * in + column] : 0;
          }
    }
  });
}

extern "C" void dp_linear(const uint16_t* x, int64_t x_stride, int64_t rows, const uint8_t* weight,
                          const uint16_t* bias, int64_t outputs, int64_t in, void* out, int64_t out_stride,
                          int wide_out) {
  if (rows <= 0 || outputs <= 0) return;
  const Linear job{x, x_stride, weight, bias, out, out_stride, wide_out != 0, rows, in, outputs};
  const int64_t blocks = padded(outputs, 16) / 16, steps = padded(in, kTileIn) / kTileIn;
  const int64_t row_blocks = rows <= 16 ? 1 : padded(rows, 32) / 16;
  uint8_t* packed = room_for(row_blocks * steps * kTileBytes);
  if (row_blocks == 1) {
    pack_rows(job, 0, 1, packed);
    // Pieces of some 128 KiB of weight: even shares, and nobody waits long for the last one.
    const int64_t piece = std::max<int64_t>(4, padded((128 << 10) / (steps * kTileBytes), 4));
    parallel_for(static_cast<int>(padded(blocks, piece) / piece), [&](int task) {
      narrow(job, packed, task * piece, std::min(blocks, (task + 1) * piece));
    });
    return;
  }
  parallel_for(static_cast<int>(row_blocks / 2), [&](int task) {
    pack_rows(job, task * 32, 2, packed + task * 2 * steps * kTileBytes);
  });
  // One pair of output blocks for many rows: both stay in the cache next to the core.
  const int64_t pairs = padded(blocks, 2) / 2;
  const int64_t chunk = std::max<int64_t>(2, kChunkBytes / (steps * kTileBytes) / 2 * 2);
  const int64_t chunks = (row_blocks + chunk - 1) / chunk;
  parallel_for(static_cast<int>(pairs * chunks), [&](int task) {
    prepare_tiles();
    const int64_t block = task % pairs * 2, first = task / pairs * chunk;
    for (int64_t row = first; row < std::min(row_blocks, first + chunk); row += 2)
      square(job, packed + row * steps * kTileBytes, row * 16, block, block + 1 < blocks);
  });
}
