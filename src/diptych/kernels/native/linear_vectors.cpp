// x Wᵀ + b on vectors of 512 bits, for processors without tiles (AVX512-BF16 and AVX512-VNNI).
//
// Words of a few rows (two bfloat16 or four int8 each) are spread over a vector and multiplied with lines of the
// weight, 16 outputs each. Every output element has one sum, over K in order, whatever the number of rows and wherever
// its row stands.
#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <utility>

#include "linear.h"
#include "pool.h"
#include "products.h"
#include "rooms.h"

namespace diptych {
namespace {

constexpr int kMostLines = 8;               // of rows beside two blocks of outputs: GCC 12 keeps more than 16 sums in memory, too
constexpr int kFewLines = 4;                // beside four blocks
constexpr int kAhead = 8;                   // steps of k that weight is fetched before it is used, per stream
constexpr int kMostFetched = 2;             // blocks side by side for which weight is fetched
constexpr int kDepth = 4;                   // steps of k that are widened at a time, and stay in L1
constexpr int64_t kChunkBytes = 384 << 10;  // of packed rows: they stay in L2 beside two panels of weight
constexpr int64_t kOwnRows = 64;            // for each thread: with as many, threads share rows and not outputs
constexpr int64_t kPieceBytes = 128 << 10;  // of weight in a task: even shares, and nobody waits long for the last one

// Lines of packed rows for one row: bfloat16 has one; whole numbers have their upper bytes and their lower ones.
template <typename W>
constexpr int kLinesOfRow = W::Rows::kWhole ? 2 : 1;

// Rows that pass the weight together, packed as [k][line][64 bytes].
struct Group {
  uint8_t* lines;
  float* factors;
  int32_t* offsets;  // of each line: what its sums hold too much
  int64_t first;
  int rows;
};

// A weight's bytes count from −128: the product that there is takes one signed operand and one that is not. What that
// adds is 128 times the sum of the row's bytes.
template <typename W>
void find_offsets(const Group& group, int64_t steps) {
  if constexpr (W::Rows::kWhole) {
    const int lines = 2 * group.rows;
    for (int line = 0; line < lines; ++line) {
      __m512i sum = _mm512_setzero_si512();
      for (int64_t k = 0; k < steps; ++k)
        sum = _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(1), _mm512_load_si512(group.lines + (k * lines + line) * 64));
      group.offsets[line] = _mm512_reduce_add_epi32(sum) * 128;
    }
  }
}

// What is fetched while a group passes: so many lines for each step of k (16 at most), from each of some streams. Into the
// second cache: the first has room for fewer lines on their way than hide the way from memory.
struct Coming {
  const uint8_t* at;
  int64_t apart, streams, lines;
  int64_t bend, jump;  // from step `bend` on, so much further: there the streams end, and the next ones begin

  const uint8_t* of_step(int64_t k) const { return at + k * lines * 64 + (k >= bend ? jump : 0); }

  // One line of each stream. Not inlined at once, GCC 12 takes it for a function without effect and leaves it out.
  template <int kStreams>
  [[gnu::always_inline]] void fetch(const uint8_t* of_step, int64_t line) const {
    if (line >= lines) return;
    for (int stream = 0; stream < kStreams; ++stream)
      if (stream < streams) _mm_prefetch(reinterpret_cast<const char*>(of_step + stream * apart + line * 64), _MM_HINT_T1);
  }
};

template <typename W>
__m512i weight_line(const uint8_t* at) {
  const __m512i line = _mm512_loadu_si512(at);
  return W::Rows::kWhole ? _mm512_xor_si512(line, _mm512_set1_epi8(-128)) : line;
}

template <typename W>
__m512i dot(__m512i sums, __m512i weight, __m512i words) {
  if constexpr (W::Rows::kWhole)
    return _mm512_dpbusd_epi32(sums, weight, words);
  else
    return _mm512_castps_si512(
        add_pairs(_mm512_castsi512_ps(sums), _mm512_castsi512_ps(words), _mm512_castsi512_ps(weight)));
}

struct Pass {
  const uint8_t* lines;
  const uint8_t* weight;
  int64_t stride;  // from one block of outputs to the next
  int64_t steps;
  bool goes_on;  // sums do not begin from zero
  float* sums;   // [line][block][16]
};

// Fetching is spread over the products: all at once it would hold them up. Where few lines pass four blocks there is little
// else to do than to read four streams in order, and the processor sees itself what is next.
template <typename W, int kLines, int kBlocks>
void multiply(const Pass& it, const Coming& coming) {
  __m512i sums[kLines][kBlocks];
  for (int line = 0; line < kLines; ++line)
    for (int b = 0; b < kBlocks; ++b)
      sums[line][b] = it.goes_on ? _mm512_load_si512(it.sums + (line * kBlocks + b) * 16) : _mm512_setzero_si512();
  for (int64_t k = 0; k < it.steps; ++k) {
    const uint8_t* next = coming.of_step(k);
    const uint8_t* lines = it.lines + k * kLines * 64;
    const uint8_t* weight = it.weight + k * kTileBytes;
    for (int word = 0; word < 16; ++word) {
      if constexpr (kBlocks <= kMostFetched) coming.fetch<kBlocks>(next, word);
      __m512i columns[kBlocks];
      for (int b = 0; b < kBlocks; ++b) columns[b] = weight_line<W>(weight + b * it.stride + word * 64);
      for (int line = 0; line < kLines; ++line) {
        const __m512i words = spread_word(lines + line * 64 + word * 4);
        for (int b = 0; b < kBlocks; ++b) sums[line][b] = dot<W>(sums[line][b], columns[b], words);
      }
    }
  }
  for (int line = 0; line < kLines; ++line)
    for (int b = 0; b < kBlocks; ++b) _mm512_store_si512(it.sums + (line * kBlocks + b) * 16, sums[line][b]);
}

using Multiply = void (*)(const Pass&, const Coming&);

template <typename W, int kBlocks, int... kCounts>
constexpr auto multiplies(std::integer_sequence<int, kCounts...>) {
  return std::array<Multiply, sizeof...(kCounts)>{multiply<W, kCounts + 1, kBlocks>...};
}

// For so many lines, by so many blocks.
template <typename W>
Multiply multiply_for(int lines, int blocks) {
  static constexpr auto one = multiplies<W, 1>(std::make_integer_sequence<int, kMostLines>{});
  static constexpr auto two = multiplies<W, 2>(std::make_integer_sequence<int, kMostLines>{});
  static constexpr auto four = multiplies<W, 4>(std::make_integer_sequence<int, kFewLines>{});
  return blocks == 4 ? four[lines - 1] : blocks == 2 ? two[lines - 1] : one[lines - 1];
}

struct alignas(64) Room {
  float sums[kMostLines * 2 * 16];
  uint8_t wide[4][kDepth * kTileBytes];
};

// Blocks of outputs that stand side by side, and all groups of some rows that pass them.
template <typename W>
class Panel {
 public:
  Panel(const Linear& job, const Group* groups, int count)
      : job_(job), groups_(groups), count_(count), steps_(job.steps<W>()) {}

  // Blocks [first, last): four at a time where few lines pass.
  void sweep(int64_t first, int64_t last) {
    const bool few = count_ == 1 && groups_[0].rows * kLinesOfRow<W> <= kFewLines;
    while (first < last) {
      const int64_t left = last - first, now = few && left >= 4 ? 4 : left >= 2 ? 2 : 1;
      for (int g = 0; g < count_; ++g) pass(g, first, static_cast<int>(now));
      first += now;
    }
  }

 private:
  void pass(int g, int64_t block, int blocks) {
    const Group& group = groups_[g];
    const int lines = group.rows * kLinesOfRow<W>;
    const uint8_t* weight = job_.weight + block * steps_ * W::kBytes;
    const Multiply multiply = multiply_for<W>(lines, blocks);
    if constexpr (W::kNarrow)
      widened(multiply, group, weight, blocks);
    else
      multiply({group.lines, weight, steps_ * W::kBytes, steps_, false, room_.sums}, coming(g, weight, blocks));
    take_off(group, blocks);
    for (int b = 0; b < blocks; ++b)
      put<W>(job_, group.first, group.rows, group.factors, (block + b) * 16, group.rows * blocks * 16,
             [&](int64_t row) { return room_.sums + (row * blocks + b) * 16; });
  }

  // A piece of the weight after the other becomes int8. Every group does so again: that costs less than to keep it.
  void widened(Multiply multiply, const Group& group, const uint8_t* weight, int blocks) {
    const int64_t lines = group.rows * kLinesOfRow<W>;
    for (int64_t k = 0; k < steps_; k += kDepth) {
      const int64_t steps = std::min<int64_t>(kDepth, steps_ - k);
      for (int b = 0; b < blocks; ++b)
        for (int64_t i = 0; i < steps; ++i) {
          const uint8_t* from = weight + (b * steps_ + k + i) * W::kBytes;
          for (int64_t line = 0; line < W::kBytes; line += 64)
            _mm_prefetch(reinterpret_cast<const char*>(from + 2 * kDepth * W::kBytes + line), _MM_HINT_T0);
          widen(from, room_.wide[b] + i * kTileBytes);
        }
      multiply({group.lines + k * lines * 64, room_.wide[0], sizeof(room_.wide[0]), steps, k > 0, room_.sums},
               {nullptr, 0, 0, 0, 0, 0});
    }
  }

  static void widen(const uint8_t* from, uint8_t* to) {
    if constexpr (W::kNarrow) W::widen(from, to);
  }

  // One group: its own weight, some steps before it is used. Several: each a share of what all of them will pass next.
  Coming coming(int g, const uint8_t* weight, int blocks) const {
    const int64_t stride = steps_ * W::kBytes;
    if (count_ == 1)
      return {weight + kAhead * kTileBytes, stride, blocks, kTileBytes / 64, steps_ - kAhead, (blocks - 1) * stride};
    const int64_t lines = (16 * blocks + count_ - 1) / count_;
    return {weight + blocks * stride + g * lines * steps_ * 64, 0, 1, lines, steps_, 0};
  }

  void take_off(const Group& group, int blocks) {
    if constexpr (W::Rows::kWhole)
      for (int line = 0; line < 2 * group.rows; ++line)
        for (int b = 0; b < blocks; ++b) {
          float* sums = room_.sums + (line * blocks + b) * 16;
          _mm512_store_si512(sums, _mm512_sub_epi32(_mm512_load_si512(sums), _mm512_set1_epi32(group.offsets[line])));
        }
  }

  const Linear& job_;
  const Group* groups_;
  int count_;
  int64_t steps_;
  Room& room_ = own<Room>();
};

// Rows [first, first + rows) in even groups, packed by whoever takes them.
template <typename W>
class Groups {
 public:
  Groups(const Linear& job, int64_t first, int64_t rows)
      : job_(job), first_(first), rows_(rows), steps_(job.steps<W>()) {
    constexpr int64_t kMost = kMostLines / kLinesOfRow<W>;
    count_ = (rows + kMost - 1) / kMost;
    const int64_t lines_bytes = rows * kLinesOfRow<W> * steps_ * 64;
    uint8_t* room = room_for(lines_bytes + rows * (sizeof(float) + 2 * sizeof(int32_t)) + count_ * sizeof(Group) + 64);
    lines_ = room;
    factors_ = reinterpret_cast<float*>(room + lines_bytes);
    offsets_ = reinterpret_cast<int32_t*>(factors_ + rows);
    const uintptr_t end = reinterpret_cast<uintptr_t>(offsets_ + 2 * rows);
    groups_ = reinterpret_cast<Group*>(end + -end % alignof(Group));
  }

  void pack(int64_t g) const {
    const int64_t from = g * rows_ / count_, until = (g + 1) * rows_ / count_;
    Group& group = groups_[g];
    group = {lines_ + from * kLinesOfRow<W> * steps_ * 64, factors_ + from, offsets_ + 2 * from, first_ + from,
             static_cast<int>(until - from)};
    W::Rows::pack(job_.source(), group.first, group.rows, group.lines, group.factors);
    find_offsets<W>(group, steps_);
  }

  int count() const { return static_cast<int>(count_); }
  const Group* all() const { return groups_; }

 private:
  const Linear& job_;
  int64_t first_, rows_, steps_, count_;
  uint8_t* lines_;
  float* factors_;
  int32_t* offsets_;
  Group* groups_;
};

// Each thread packs some of the rows and takes them through all of the weight.
template <typename W>
void own_rows(const Linear& job) {
  const int64_t row_bytes = job.steps<W>() * kLinesOfRow<W> * 64, blocks = padded(job.outputs, 16) / 16;
  const int64_t fit = std::max<int64_t>(kMostLines, kChunkBytes / row_bytes);
  const int64_t chunks = padded((job.rows + fit - 1) / fit, threads());
  parallel_for(static_cast<int>(chunks), [&](int task) {
    const int64_t first = task * job.rows / chunks, rows = (task + 1) * job.rows / chunks - first;
    const Groups<W> groups(job, first, rows);
    for (int g = 0; g < groups.count(); ++g) groups.pack(g);
    Panel<W>(job, groups.all(), groups.count()).sweep(0, blocks);
  });
}

// Threads share the outputs, so that each reads a part of the weight.
template <typename W>
void own_outputs(const Linear& job) {
  const int64_t block_bytes = job.steps<W>() * W::kBytes, blocks = padded(job.outputs, 16) / 16;
  const int64_t piece = std::max<int64_t>(4, padded(kPieceBytes / block_bytes, 4));
  const Groups<W> groups(job, 0, job.rows);
  parallel_for(groups.count(), [&](int g) { groups.pack(g); });
  parallel_for(static_cast<int>(padded(blocks, piece) / piece), [&](int task) {
    Panel<W>(job, groups.all(), groups.count()).sweep(task * piece, std::min(blocks, (task + 1) * piece));
  });
}

}  // namespace

void linear_on_vectors(int format, const Linear& job) {
  with_format(format, [&](auto it) {
    using W = decltype(it);
    if (job.rows >= kOwnRows * threads())
      own_rows<W>(job);
    else
      own_outputs<W>(job);
  });
}

}  // namespace diptych
