// x Wᵀ + b on AMX tiles.
//
// Every output element is summed over K in the same order, whatever the number of rows and wherever its row stands.
#include <immintrin.h>

#include <algorithm>
#include <cstdint>

#include "linear.h"
#include "pool.h"
#include "tiles.h"

namespace diptych {
namespace {

constexpr int kAhead = 8;                 // bfloat16 tiles' worth that is fetched before it is used, per stream
constexpr int kSide = 32;                 // outputs of a square, whose rows fill two tiles: four tiles of sums
constexpr int kDepth = 16;                // steps of k in a piece: 32 KiB of weight stay in L1, rows stream past it
constexpr int kMostSquares = 16;          // of rows in one chunk: their partial sums are 64 KiB
constexpr int64_t kChunkBytes = 1 << 20;  // of packed rows: half of L2, beside sums and weight
constexpr int64_t kOwnSquares = 8;        // of rows for each thread: with as many, threads share rows and not outputs
constexpr int kMostPairs = 4;             // of output blocks in one task: each fetches the next one's weight
constexpr int64_t kCachedRows = 64;       // outputs of more are written past the caches, which they would flush

// Sums (0 … 3) += rows (4, 5) times weight (5, 6, 7). Numbers of tiles are part of an instruction.
#define MULTIPLY(W, sums, rows, weight)       \
  do {                                        \
    if constexpr (W::Rows::kWhole)            \
      _tile_dpbssd(sums, rows, weight);       \
    else                                      \
      _tile_dpbf16ps(sums, rows, weight);     \
  } while (false)

// Up to four blocks of outputs side by side, whose tiles pass one step of k after the other.
template <typename W>
class Stream {
 public:
  Stream(const uint8_t* weight, int64_t blocks, int64_t steps)
      : weight_(weight), blocks_(blocks), steps_(steps), stride_(steps * W::kBytes) {}

  // To be called for every k in order, before its tiles are asked for. A narrow weight is widened one step ahead: the
  // tile unit would wait for stores that are still under way.
  void step(int64_t k) {
    const int64_t later = k + kAhead * kTileBytes / W::kBytes;
    const int64_t past_four = later < steps_ ? later : later + 3 * steps_;  // the next four blocks come then
    const uint8_t* ahead = weight_ + past_four * W::kBytes;
    for (int64_t b = 0; b < blocks_; ++b)
      for (int64_t line = 0; line < W::kBytes; line += 64)
        _mm_prefetch(reinterpret_cast<const char*>(ahead + b * stride_ + line), _MM_HINT_T0);
    if constexpr (W::kNarrow) {
      if (k == 0) widen(0);
      if (k + 1 < steps_) widen(k + 1);
    }
  }

  const uint8_t* tile(int64_t k, int64_t b) const {
    if constexpr (W::kNarrow)
      return wide_[k % 2][b];
    else
      return weight_ + b * stride_ + k * W::kBytes;
  }

 private:
  void widen(int64_t k) {
    for (int64_t b = 0; b < blocks_; ++b) W::widen(weight_ + b * stride_ + k * W::kBytes, wide_[k % 2][b]);
  }

  const uint8_t* weight_;
  int64_t blocks_, steps_, stride_;
  alignas(64) uint8_t wide_[W::kNarrow ? 2 : 1][4][W::kNarrow ? kTileBytes : 1];
};

// Rows of one tile: four blocks of outputs at a time, the weight streams past.
template <typename W>
void narrow(const Linear& job, const Packed& rows, int64_t first, int64_t last) {
  const int64_t steps = job.steps<W>();
  alignas(64) float sums[4][256];
  prepare_tiles();
  for (int64_t block = first; block < last; block += 4) {
    const int64_t count = std::min<int64_t>(4, last - block);
    Stream<W> weight(job.weight + block * steps * W::kBytes, count, steps);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t k = 0; k < steps; ++k) {
      weight.step(k);
      _tile_loadd(4, rows.tiles + k * kTileBytes, 64);
      _tile_loadd(5, weight.tile(k, 0), 64);
      MULTIPLY(W, 0, 4, 5);
      if (count > 1) {
        _tile_loadd(6, weight.tile(k, 1), 64);
        MULTIPLY(W, 1, 4, 6);
      }
      if (count > 2) {
        _tile_loadd(7, weight.tile(k, 2), 64);
        MULTIPLY(W, 2, 4, 7);
      }
      if (count > 3) {
        _tile_loadd(5, weight.tile(k, 3), 64);
        MULTIPLY(W, 3, 4, 5);
      }
    }
    _tile_stored(0, sums[0], 64);
    _tile_stored(1, sums[1], 64);
    _tile_stored(2, sums[2], 64);
    _tile_stored(3, sums[3], 64);
    for (int64_t b = 0; b < count; ++b)
      put<W>(job, 0, job.rows, rows.factors, (block + b) * 16, W::Rows::kFew * 16,
             [&](int64_t row) { return W::Rows::few(sums[b], row); });
  }
}

// A square of sums that waits to be rounded and written. That happens in between the steps of the next square:
// the tile unit does not wait for it, and the stores do not come in one burst.
template <typename W>
struct Finished {
  alignas(64) float sums[4][256];
  const float* factors = nullptr;
  int64_t row = 0, column = 0;
  int64_t next = W::Rows::kSquare;
  bool past_caches = false;
};

// Only whole, aligned lines are written so.
inline bool past_caches(const Linear& job) {
  return job.rows > kCachedRows && reinterpret_cast<uintptr_t>(job.out) % 64 == 0 && job.out_stride % kSide == 0;
}

template <typename W>
void put_lines(const Linear& job, Finished<W>& it, int64_t count) {
  constexpr int64_t kRows = W::Rows::kSquare;
  if (it.next >= kRows) return;
  const int64_t last = std::min<int64_t>({it.next + count, kRows, job.rows - it.row});
  const int64_t columns = std::min<int64_t>(kSide, job.outputs - it.column);
  const __mmask32 there = static_cast<__mmask32>((uint64_t{1} << columns) - 1);
  const __mmask16 low = static_cast<__mmask16>(there), high = static_cast<__mmask16>(there >> 16);
  const __m512 scale0 = scales<W>(job, it.column), scale1 = high ? scales<W>(job, it.column + 16) : scale0;
  __m512 bias0 = _mm512_setzero_ps(), bias1 = bias0;
  if (job.bias) {
    bias0 = load_bf16(job.bias + it.column, low);
    if (high) bias1 = load_bf16(job.bias + it.column + 16, high);
  }
  for (int64_t row = it.next; row < last; ++row) {
    const float* line = W::Rows::square(it.sums[0], row);
    const __m512 value0 = finished<W>(line, 512, it.factors + row, scale0, bias0);
    const __m512 value1 = finished<W>(line + 256, 512, it.factors + row, scale1, bias1);
    const int64_t at = (it.row + row) * job.out_stride + it.column;
    if (job.wide_out) {
      float* target = static_cast<float*>(job.out) + at;
      _mm512_mask_storeu_ps(target, low, value0);
      if (high) _mm512_mask_storeu_ps(target + 16, high, value1);
      continue;
    }
    bf16* target = static_cast<bf16*>(job.out) + at;
    const __m512i both = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(value1, value0));
    if (it.past_caches && columns == kSide)
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

// In the first step: sums of the square before go where they belong, and those of this square come in their place.
#define EXCHANGE(k, sums, at)                            \
  do {                                                   \
    if ((k) > 0) break;                                  \
    if (leaving) _tile_stored(sums, leaving + (at), 64); \
    if (before)                                          \
      _tile_loadd(sums, before + (at), 64);              \
    else                                                 \
      _tile_zero(sums);                                  \
  } while (false)

// Sums of a square go on over `steps` more steps of k, and stay in their tiles. From zero without `before`. The sums of
// the square before leave one by one, each when its tile is wanted: stores of all of them in a row would fill the
// queues of the processor, and behind them the tile unit would have nothing to do.
template <typename W, typename F>
void square(const Operands& it, int64_t steps, const float* before, float* leaving, F&& meanwhile) {
  for (int64_t k = 0; k < steps; ++k) {
    _tile_stream_loadd(4, it.rows + 2 * k * kTileBytes, 64);
    _tile_loadd(6, it.weight0 + k * kTileBytes, 64);
    EXCHANGE(k, 0, 0);
    MULTIPLY(W, 0, 4, 6);
    _tile_stream_loadd(5, it.rows + (2 * k + 1) * kTileBytes, 64);
    EXCHANGE(k, 2, 512);
    MULTIPLY(W, 2, 5, 6);
    _tile_loadd(7, it.weight1 + k * kTileBytes, 64);
    EXCHANGE(k, 1, 256);
    MULTIPLY(W, 1, 4, 7);
    EXCHANGE(k, 3, 768);
    meanwhile(k);
    MULTIPLY(W, 3, 5, 7);
  }
}

inline void leave(float* target) {
  _tile_stored(0, target, 64);
  _tile_stored(2, target + 512, 64);
  _tile_stored(1, target + 256, 64);
  _tile_stored(3, target + 768, 64);
}

// A chunk of packed rows against pairs of output blocks, one pair after the other.
template <typename W>
class Sweep {
 public:
  Sweep(const Linear& job, const Packed& rows, int64_t first_row, int64_t squares)
      : job_(job), rows_(rows), first_row_(first_row), squares_(squares), steps_(job.steps<W>()) {
    const int64_t parts = as_it_is() ? 1 : (steps_ + kDepth - 1) / kDepth;
    depth_ = (steps_ + parts - 1) / parts;
    finished_.past_caches = past_caches(job);
  }

  // K is cut, so that a piece of the pair stays in L1 while all rows pass. Tiles of sums are kept between pieces as
  // they are, so the cut changes no bit. One square alone has no use for it, unless the piece is to be widened.
  void pair(int64_t block) {
    const int64_t stride = steps_ * W::kBytes;
    const uint8_t* weight = job_.weight + block * stride;
    const int64_t second = (block + 1) * 16 < job_.outputs ? stride : 0;
    for (int64_t k = 0; k < steps_; k += depth_) {
      const int64_t steps = std::min(depth_, steps_ - k);
      const bool last = k + steps == steps_;
      const uint8_t* here = weight + k * W::kBytes;
      const uint8_t* after = last ? weight + 2 * stride : here + steps * W::kBytes;
      const uint8_t* tiles0 = tiles(here, steps, 0);
      const uint8_t* tiles1 = second ? tiles(here + second, steps, 1) : tiles0;
      for (int64_t s = 0; s < squares_; ++s) {
        const Operands operands{rows_.tiles + 2 * (s * steps_ + k) * kTileBytes, tiles0, tiles1};
        float* sums = partial_[s][0];
        const char* coming = reinterpret_cast<const char*>(partial_[s + 1 < squares_ ? s + 1 : 0][0]);
        const bool fetch = k || (s + 1 == squares_ && !last);  // the next square does not begin from zero
        Ahead ahead = as_it_is() ? Ahead{here + kAhead * kTileBytes, kLines} : share(after, s, steps);
        const int64_t lines = kRows / std::max<int64_t>(1, steps - kSettled) + 1;
        square<W>(operands, steps, k ? sums : nullptr, leaving_, [&](int64_t step) {
          for (int64_t line = 0; line < ahead.lines; ++line, ahead.at += 64) {
            _mm_prefetch(reinterpret_cast<const char*>(ahead.at), _MM_HINT_T1);
            _mm_prefetch(reinterpret_cast<const char*>(ahead.at + stride), _MM_HINT_T1);
          }
          if (fetch)
            for (int line = 0; line < kSumLines; ++line, coming += 64) _mm_prefetch(coming, _MM_HINT_T0);
          if (step >= kSettled) put_lines<W>(job_, finished_, lines);
        });
        put_lines<W>(job_, finished_, kRows);
        leaving_ = last ? finished_.sums[0] : sums;
        if (last) finish(s * kRows, block * 16);
      }
    }
  }

  void end() {
    if (leaving_) leave(leaving_);
    put_lines<W>(job_, finished_, kRows);
    _mm_sfence();
  }

 private:
  static constexpr int64_t kRows = W::Rows::kSquare;
  static constexpr int64_t kLines = (W::kBytes + 63) / 64;  // of a tile
  static constexpr int kSumLines = 4 * kTileBytes / 64 / kDepth;  // of a square's sums, in each step of a piece
  static constexpr int64_t kSettled = 2;                    // steps after which sums that left are in memory

  struct Ahead {
    const uint8_t* at;
    int64_t lines;  // a step
  };

  // Whether the weight is used where it lies, in one pass.
  bool as_it_is() const { return squares_ == 1 && !W::kNarrow; }

  // Tiles of one block for some steps, widened if need be.
  const uint8_t* tiles(const uint8_t* here, int64_t steps, int which) {
    if constexpr (W::kNarrow) {
      for (int64_t k = 0; k < steps; ++k) W::widen(here + k * W::kBytes, wide_[which] + k * kTileBytes);
      return wide_[which];
    } else {
      return here;
    }
  }

  // Square s fetches its share of the next piece of weight.
  Ahead share(const uint8_t* next, int64_t s, int64_t steps) const {
    const int64_t lines = (kLines + squares_ - 1) / squares_;
    return {next + s * lines * steps * 64, s * lines < kLines ? lines : 0};
  }

  void finish(int64_t row, int64_t column) {
    finished_.factors = rows_.factors + row;
    finished_.row = first_row_ + row;
    finished_.column = column;
    finished_.next = 0;
  }

  const Linear& job_;
  const Packed& rows_;
  int64_t first_row_, squares_, steps_, depth_;
  Finished<W> finished_;
  float* leaving_ = nullptr;
  alignas(64) float partial_[kMostSquares][4][256];
  alignas(64) uint8_t wide_[2][W::kNarrow ? kDepth * kTileBytes : 1];
};

// For so many tiles of rows, in squares or alone.
Packed room_for_rows(int64_t tiles) {
  uint8_t* room = room_for(tiles * kTileBytes + kMostSquares * kSide * sizeof(float));
  return {room, reinterpret_cast<float*>(room + tiles * kTileBytes)};
}

// No more than fit into one tile.
template <typename W>
void few_rows(const Linear& job) {
  const int64_t blocks = padded(job.outputs, 16) / 16, steps = job.steps<W>();
  const Packed packed = room_for_rows(steps);
  W::Rows::pack(job.source(), 0, W::Rows::kFew, packed.tiles, packed.factors);
  // Pieces of some 128 KiB of weight: even shares, and nobody waits long for the last one.
  const int64_t piece = std::max<int64_t>(4, padded((128 << 10) / (steps * W::kBytes), 4));
  parallel_for(static_cast<int>(padded(blocks, piece) / piece), [&](int task) {
    narrow<W>(job, packed, task * piece, std::min(blocks, (task + 1) * piece));
  });
}

// Each thread packs some of the rows and takes them through all of the weight: none waits for another, and the rows are
// in the cache next to the core that reads them again and again.
template <typename W>
void own_rows(const Linear& job, int64_t squares, int64_t fit) {
  constexpr int64_t kRows = W::Rows::kSquare;
  const int64_t steps = job.steps<W>(), pairs = padded(job.outputs, kSide) / kSide;
  const int64_t chunks = padded((squares + fit - 1) / fit, threads());
  parallel_for(static_cast<int>(chunks), [&](int task) {
    const int64_t first = task * squares / chunks, count = (task + 1) * squares / chunks - first;
    const Packed packed = room_for_rows(count * 2 * steps);
    for (int64_t s = 0; s < count; ++s)
      W::Rows::pack(job.source(), (first + s) * kRows, kRows, packed.tiles + s * 2 * steps * kTileBytes,
                    packed.factors + s * kRows);
    prepare_tiles();
    Sweep<W> sweep(job, packed, first * kRows, count);
    for (int64_t pair = 0; pair < pairs; ++pair) sweep.pair(2 * pair);
    sweep.end();
  });
}

// Fewer, but more than one tile: threads share the outputs, so each reads a part of the weight. A chunk of rows at a
// time, packed by all of them, stays in the caches.
template <typename W>
void many_rows(const Linear& job) {
  constexpr int64_t kRows = W::Rows::kSquare;
  const int64_t steps = job.steps<W>(), square_bytes = 2 * steps * kTileBytes;
  const int64_t squares = padded(job.rows, kRows) / kRows, pairs = padded(job.outputs, kSide) / kSide;
  const int64_t fit = std::clamp<int64_t>(kChunkBytes / square_bytes, 1, kMostSquares);
  if (squares >= kOwnSquares * threads()) return own_rows<W>(job, squares, fit);
  const int64_t chunks = (squares + fit - 1) / fit, chunk = (squares + chunks - 1) / chunks;
  const int64_t group = std::clamp<int64_t>(pairs / (4 * threads()), 1, kMostPairs);
  const Packed packed = room_for_rows(chunk * 2 * steps);
  for (int64_t first = 0; first < squares; first += chunk) {
    const int64_t count = std::min(chunk, squares - first);
    parallel_for(static_cast<int>(count), [&](int task) {
      uint8_t* tiles = packed.tiles + task * square_bytes;
      W::Rows::pack(job.source(), (first + task) * kRows, kRows, tiles, packed.factors + task * kRows);
    });
    parallel_for(static_cast<int>((pairs + group - 1) / group), [&](int task) {
      prepare_tiles();
      Sweep<W> sweep(job, packed, first * kRows, count);
      for (int64_t pair = task * group; pair < std::min(pairs, (task + 1) * group); ++pair) sweep.pair(2 * pair);
      sweep.end();
    });
  }
}

}  // namespace

void linear_on_tiles(int format, const Linear& job) {
  with_format(format, [&](auto it) {
    using W = decltype(it);
    if (job.rows <= W::Rows::kFew)
      few_rows<W>(job);
    else
      many_rows<W>(job);
  });
}

}  // namespace diptych
