// x Wᵀ + b for bfloat16 with float32 sums, on AMX tiles.
//
// A weight [N, K] is packed once: for each 16 outputs, for each 32 inputs, one tile of 16 rows (pairs of inputs)
// by 16 outputs by 2. So a small batch reads the weight once, front to back. Every output element is summed over
// K in the same order, whatever the number of rows and wherever its row stands: a row's bits do not depend on its
// batch.
#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>

#include "pool.h"
#include "tiles.h"
#include "vector.h"

namespace diptych {
namespace {

constexpr int kTileRows = 16;
constexpr int kTileIn = 32;
constexpr int kTileBytes = 1024;
constexpr int kAhead = 8;                 // tiles that are fetched before they are used, per stream
constexpr int kSide = 32;                 // rows, and outputs, of a square: four tiles of sums
constexpr int kDepth = 16;                // steps of k in a piece: 32 KiB of weight stay in L1, rows stream past it
constexpr int kMostSquares = 16;          // of rows in one chunk: their partial sums are 64 KiB
constexpr int64_t kChunkBytes = 3 << 19;  // of packed rows: three quarters of L2, beside sums and weight
constexpr int kMostPairs = 4;             // of output blocks in one task: each fetches the next one's weight
constexpr int64_t kCachedRows = 64;       // outputs of more are written past the caches, which they would flush

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
  bool past_caches = false;  // Only whole, aligned lines are written so.

  int64_t steps() const { return padded(in, kTileIn) / kTileIn; }
};

// Rows [first, first + 16·blocks) as tiles [k][block][16][32]; what is missing is zero.
void pack_rows(const Linear& job, int64_t first, int64_t blocks, uint8_t* target) {
  const int64_t steps = job.steps(), apart = blocks * kTileBytes;
  for (int64_t block = 0; block < blocks; ++block) {
    for (int64_t row = 0; row < kTileRows; ++row) {
      const int64_t source_row = first + block * kTileRows + row;
      uint8_t* line = target + block * kTileBytes + row * 64;
      if (source_row >= job.rows) {
        for (int64_t k = 0; k < steps; ++k) _mm512_storeu_si512(line + k * apart, _mm512_setzero_si512());
        continue;
      }
      const bf16* source = job.x + source_row * job.x_stride;
      const int64_t whole = job.in / kTileIn;
      for (int64_t k = 0; k < whole; ++k)
        _mm512_storeu_si512(line + k * apart, _mm512_loadu_si512(source + k * kTileIn));
      if (whole < steps) {
        const __mmask32 rest = (1u << (job.in % kTileIn)) - 1;
        _mm512_storeu_si512(line + whole * apart, _mm512_maskz_loadu_epi16(rest, source + whole * kTileIn));
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
  const int64_t steps = job.steps();
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

// A square of sums that waits to be rounded and written. That happens in between the steps of the next square:
// the tile unit does not wait for it, and the stores do not come in one burst.
struct Finished {
  alignas(64) float sums[4][256];
  int64_t row = 0, column = 0;
  int64_t next = kSide;
};

void put_lines(const Linear& job, Finished& it, int64_t count) {
  if (it.next >= kSide) return;
  const int64_t last = std::min<int64_t>({it.next + count, kSide, job.rows - it.row});
  const int64_t columns = std::min<int64_t>(kSide, job.outputs - it.column);
  const __mmask32 there = static_cast<__mmask32>((uint64_t{1} << columns) - 1);
  const __mmask16 low = static_cast<__mmask16>(there), high = static_cast<__mmask16>(there >> 16);
  __m512 bias0 = _mm512_setzero_ps(), bias1 = bias0;
  if (job.bias) {
    bias0 = load_bf16(job.bias + it.column, low);
    if (high) bias1 = load_bf16(job.bias + it.column + 16, high);
  }
  for (int64_t row = it.next; row < last; ++row) {
    const float* line = it.sums[row / 16 * 2] + row % 16 * 16;
    const __m512 value0 = _mm512_add_ps(_mm512_load_ps(line), bias0);
    const __m512 value1 = _mm512_add_ps(_mm512_load_ps(line + 256), bias1);
    const int64_t at = (it.row + row) * job.out_stride + it.column;
    if (job.wide_out) {
      float* target = static_cast<float*>(job.out) + at;
      _mm512_mask_storeu_ps(target, low, value0);
      if (high) _mm512_mask_storeu_ps(target + 16, high, value1);
      continue;
    }
    bf16* target = static_cast<bf16*>(job.out) + at;
    const __m512i both = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(value1, value0));
    if (job.past_caches && columns == kSide)
      _mm512_stream_si512(reinterpret_cast<__m512i*>(target), both);
    else
      _mm512_mask_storeu_epi16(target, there, both);
  }
  it.next += count;
}

// Where a square's operands lie: rows as pairs of tiles, two blocks of weight.
struct Operands {
  const uint8_t* rows;
  const uint8_t* weight0;
  const uint8_t* weight1;
};

// Sums of 32 rows by 32 outputs go on over `steps` more steps of k. From zero without `before`.
template <typename F>
void square(const Operands& it, int64_t steps, const float* before, float* after, F&& meanwhile) {
  if (before) {
    _tile_loadd(0, before, 64);
    _tile_loadd(2, before + 512, 64);
    _tile_loadd(1, before + 256, 64);
    _tile_loadd(3, before + 768, 64);
  } else {
    _tile_zero(0);
    _tile_zero(2);
    _tile_zero(1);
    _tile_zero(3);
  }
  for (int64_t k = 0; k < steps; ++k) {
    _tile_stream_loadd(4, it.rows + 2 * k * kTileBytes, 64);
    _tile_loadd(6, it.weight0 + k * kTileBytes, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_stream_loadd(5, it.rows + (2 * k + 1) * kTileBytes, 64);
    _tile_dpbf16ps(2, 5, 6);
    _tile_loadd(7, it.weight1 + k * kTileBytes, 64);
    _tile_dpbf16ps(1, 4, 7);
    meanwhile();
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, after, 64);
  _tile_stored(2, after + 512, 64);
  _tile_stored(1, after + 256, 64);
  _tile_stored(3, after + 768, 64);
}

// A chunk of packed rows against pairs of output blocks, one pair after the other.
class Sweep {
 public:
  Sweep(const Linear& job, const uint8_t* rows, int64_t first_row, int64_t squares)
      : job_(job), rows_(rows), first_row_(first_row), squares_(squares), steps_(job.steps()) {
    const int64_t parts = squares == 1 ? 1 : (steps_ + kDepth - 1) / kDepth;
    depth_ = (steps_ + parts - 1) / parts;
  }

  // K is cut, so that a piece of the pair stays in L1 while all rows pass. Tiles of sums are kept between pieces as
  // they are, so the cut changes no bit. One square alone has no use for it.
  void pair(int64_t block) {
    const int64_t stride = steps_ * kTileBytes;
    const uint8_t* weight = job_.weight + block * stride;
    const int64_t second = (block + 1) * 16 < job_.outputs ? stride : 0;
    for (int64_t k = 0; k < steps_; k += depth_) {
      const int64_t steps = std::min(depth_, steps_ - k);
      const bool last = k + steps == steps_;
      const uint8_t* here = weight + k * kTileBytes;
      const uint8_t* after = last ? weight + 2 * stride : here + steps * kTileBytes;
      for (int64_t s = 0; s < squares_; ++s) {
        const Operands operands{rows_ + 2 * (s * steps_ + k) * kTileBytes, here, here + second};
        Finished& waiting = finished_[turn_];
        const int64_t lines = (kSide + steps - 1) / steps;
        float* sums = partial_[s][0];
        Ahead ahead = squares_ == 1 ? Ahead{here + kAhead * kTileBytes, 16} : share(after, s, steps);
        square(operands, steps, k ? sums : nullptr, last ? finished_[1 - turn_].sums[0] : sums, [&] {
          for (int64_t line = 0; line < ahead.lines; ++line, ahead.at += 64) {
            _mm_prefetch(reinterpret_cast<const char*>(ahead.at), _MM_HINT_T1);
            _mm_prefetch(reinterpret_cast<const char*>(ahead.at + stride), _MM_HINT_T1);
          }
          put_lines(job_, waiting, lines);
        });
        if (last) finish(first_row_ + s * kSide, block * 16);
      }
    }
  }

  void end() {
    put_lines(job_, finished_[turn_], kSide);
    _mm_sfence();
  }

 private:
  struct Ahead {
    const uint8_t* at;
    int64_t lines;  // a step
  };

  // Square s fetches its share of the next piece of weight.
  Ahead share(const uint8_t* next, int64_t s, int64_t steps) const {
    const int64_t lines = (16 + squares_ - 1) / squares_;
    return {next + s * lines * steps * 64, s * lines < 16 ? lines : 0};
  }

  void finish(int64_t row, int64_t column) {
    turn_ = 1 - turn_;
    finished_[turn_].row = row;
    finished_[turn_].column = column;
    finished_[turn_].next = 0;
  }

  const Linear& job_;
  const uint8_t* rows_;
  int64_t first_row_, squares_, steps_, depth_;
  int turn_ = 0;
  Finished finished_[2];
  alignas(64) float partial_[kMostSquares][4][256];
};

struct Free {
  void operator()(uint8_t* room) const { std::free(room); }
};

// Kept between calls: memory that is new is slow at first touch.
uint8_t* room_for(int64_t bytes) {
  static std::unique_ptr<uint8_t, Free> room;
  static int64_t size = 0;
  if (size < bytes) {
    room.reset();
    room.reset(static_cast<uint8_t*>(std::aligned_alloc(64, bytes)));
    size = bytes;
  }
  return room.get();
}

// Up to 16 rows.
void few_rows(const Linear& job) {
  const int64_t blocks = padded(job.outputs, 16) / 16, steps = job.steps();
  uint8_t* packed = room_for(steps * kTileBytes);
  pack_rows(job, 0, 1, packed);
  // Pieces of some 128 KiB of weight: even shares, and nobody waits long for the last one.
  const int64_t piece = std::max<int64_t>(4, padded((128 << 10) / (steps * kTileBytes), 4));
  parallel_for(static_cast<int>(padded(blocks, piece) / piece), [&](int task) {
    narrow(job, packed, task * piece, std::min(blocks, (task + 1) * piece));
  });
}

// More rows, a chunk at a time that stays in the cache next to a core.
void many_rows(const Linear& job) {
  const int64_t steps = job.steps(), square_bytes = 2 * steps * kTileBytes;
  const int64_t squares = padded(job.rows, kSide) / kSide, pairs = padded(job.outputs, kSide) / kSide;
  const int64_t fit = std::clamp<int64_t>(kChunkBytes / square_bytes, 1, kMostSquares);
  const int64_t chunks = (squares + fit - 1) / fit, chunk = (squares + chunks - 1) / chunks;
  const int64_t group = std::clamp<int64_t>(pairs / (4 * threads()), 1, kMostPairs);
  uint8_t* packed = room_for(chunk * square_bytes);
  for (int64_t first = 0; first < squares; first += chunk) {
    const int64_t count = std::min(chunk, squares - first);
    parallel_for(static_cast<int>(count), [&](int task) {
      pack_rows(job, (first + task) * kSide, 2, packed + task * square_bytes);
    });
    parallel_for(static_cast<int>((pairs + group - 1) / group), [&](int task) {
      prepare_tiles();
      Sweep sweep(job, packed, first * kSide, count);
      for (int64_t pair = task * group; pair < std::min(pairs, (task + 1) * group); ++pair) sweep.pair(2 * pair);
      sweep.end();
    });
  }
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
  Linear job{x, x_stride, weight, bias, out, out_stride, wide_out != 0, rows, in, outputs};
  const bool whole_lines = reinterpret_cast<uintptr_t>(out) % 64 == 0 && out_stride % kSide == 0;
  job.past_caches = rows > kCachedRows && whole_lines;
  if (rows <= kTileRows)
    few_rows(job);
  else
    many_rows(job);
}
