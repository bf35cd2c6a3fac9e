// Causal attention over paged memory, prompts and decodes by the same arithmetic.
//
// A query tile is up to 16 queries of one kv head: neighbouring rows of a span, each with the query heads that share
// the kv head. Keys come in tiles of 64 positions at fixed places; scores are computed transposed (positions × queries)
// so that block memory is an operand as it lies, and the softmax runs over queries side by side. Every 1,024 positions
// the sums are closed and merged into the total, in order. A query's bits depend on its own row and positions only:
// not on its tile, its chunk, the batch or the threads.
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "pool.h"
#include "tiles.h"
#include "vector.h"

namespace diptych {
namespace {

constexpr int kQueries = 16;
constexpr int kKeys = 64;
constexpr int kSegment = 1024;
constexpr int kMostWidth = 256;
constexpr int kTilesTogether = 8;  // query tiles that share one preparation of the values
constexpr float kNothing = -std::numeric_limits<float>::infinity();

struct Span {
  int32_t first_row, rows, start, table;
};

struct Job {
  const bf16* q;
  int64_t q_stride;
  const bf16* k;
  const bf16* v;
  bf16* out;
  int64_t out_stride;
  const Span* spans;
  const int32_t* tables;
  int heads, kv_heads, width, block_tokens, window;
  float scale;
};

// Sums of one query tile over some positions.
struct alignas(64) Sums {
  float most[kQueries];
  float total[kQueries];
  float values[kQueries][kMostWidth];
};

// One query tile: queries as the second operand of the score product, and what each may see.
struct alignas(64) Tile {
  bf16 queries[kMostWidth / 32][16][kQueries][2];
  int32_t first[kQueries];  // positions [first, last] are seen; nothing if last < first
  int32_t last[kQueries];
  int row, rows;  // of the span
};

struct alignas(64) Room {
  bf16 keys[kKeys][kMostWidth];
  bf16 values[2][kMostWidth / 16][16][16][2];  // [32 positions][16 wide]: pairs of positions side by side
  float scores[kKeys][kQueries];
  bf16 weights[kQueries][kKeys];
  float part[kQueries][16];
};

void clear(Sums& sums, int width) {
  for (int q = 0; q < kQueries; ++q) {
    sums.most[q] = kNothing;
    sums.total[q] = 0;
    std::memset(sums.values[q], 0, width * sizeof(float));
  }
}

int group_of(const Job& job) { return job.heads / job.kv_heads; }

int rows_of_tile(const Job& job) { return std::max(1, kQueries / group_of(job)); }

void prepare(const Job& job, const Span& span, int head, int row, Tile& tile) {
  const int group = group_of(job);
  tile.row = row;
  tile.rows = std::min(rows_of_tile(job), span.rows - row);
  std::memset(tile.queries, 0, sizeof(bf16) * job.width * kQueries);
  for (int q = 0; q < kQueries; ++q) tile.first[q] = 1, tile.last[q] = 0;
  for (int r = 0; r < tile.rows; ++r) {
    const int position = span.start + row + r;
    for (int g = 0; g < group; ++g) {
      const int q = r * group + g;
      const bf16* source = job.q + (span.first_row + row + r) * job.q_stride + (head * group + g) * job.width;
      for (int pair = 0; pair < job.width / 2; ++pair)
        std::memcpy(tile.queries[pair / 16][pair % 16][q], source + 2 * pair, 4);
      tile.first[q] = job.window > 0 ? std::max(0, position - job.window + 1) : 0;
      tile.last[q] = position;
    }
  }
}

const bf16* slot(const Job& job, const Span& span, const bf16* plane, int head, int position) {
  const int64_t block = job.tables[span.table + position / job.block_tokens];
  return plane + ((block * job.kv_heads + head) * job.block_tokens + position % job.block_tokens) * job.width;
}

// Values of positions [from, from + 64) as the second operand; zero from `until` on.
void prepare_values(const Job& job, const Span& span, int head, int from, int until, Room& room) {
  // Puts the 16-bit elements of two rows side by side.
  alignas(64) static const uint16_t kLow[32] = {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                                8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  alignas(64) static const uint16_t kHigh[32] = {16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55,
                                                 24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63};
  const __m512i low = _mm512_load_si512(kLow), high = _mm512_load_si512(kHigh);
  const bf16* rows[2];
  for (int pair = 0; pair < kKeys / 2; ++pair) {
    for (int half = 0; half < 2; ++half) {
      const int position = from + 2 * pair + half;
      rows[half] = position < until ? slot(job, span, job.v, head, position) : nullptr;
    }
    for (int e = 0; e < job.width; e += 32) {
      const __m512i one = rows[0] ? _mm512_loadu_si512(rows[0] + e) : _mm512_setzero_si512();
      const __m512i two = rows[1] ? _mm512_loadu_si512(rows[1] + e) : _mm512_setzero_si512();
      auto& target = room.values[pair / 16];
      _mm512_store_si512(target[e / 16][pair % 16], _mm512_permutex2var_epi16(one, low, two));
      _mm512_store_si512(target[e / 16 + 1][pair % 16], _mm512_permutex2var_epi16(one, high, two));
    }
  }
}

// Where 16 keys from `position` on lie one after the other: in their block, or in a copy.
const bf16* keys_at(const Job& job, const Span& span, int head, int position, int until, Room& room, int row) {
  if (job.block_tokens % 16 == 0 && position < until) return slot(job, span, job.k, head, position);
  for (int i = 0; i < 16; ++i) {
    if (position + i < until) {
      std::memcpy(room.keys[row + i], slot(job, span, job.k, head, position + i), job.width * sizeof(bf16));
    } else {
      std::memset(room.keys[row + i], 0, job.width * sizeof(bf16));
    }
  }
  return room.keys[row];
}

struct Keys {
  const bf16* at[4];
  int64_t stride[4];
};

void score(const Job& job, const Keys& keys, const Tile& tile, Room& room) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int k = 0; k < job.width / 32; ++k) {
    _tile_loadd(4, tile.queries[k], 64);
    _tile_loadd(5, keys.at[0] + 32 * k, keys.stride[0]);
    _tile_loadd(6, keys.at[1] + 32 * k, keys.stride[1]);
    _tile_dpbf16ps(0, 5, 4);
    _tile_dpbf16ps(1, 6, 4);
    _tile_loadd(5, keys.at[2] + 32 * k, keys.stride[2]);
    _tile_loadd(6, keys.at[3] + 32 * k, keys.stride[3]);
    _tile_dpbf16ps(2, 5, 4);
    _tile_dpbf16ps(3, 6, 4);
  }
  _tile_stored(0, room.scores[0], 64);
  _tile_stored(1, room.scores[16], 64);
  _tile_stored(2, room.scores[32], 64);
  _tile_stored(3, room.scores[48], 64);
}

void transpose(__m512 (&rows)[16]);

// Scores to weights; sums.most and sums.total move on; what earlier sums are worth now.
__m512 soften(const Job& job, const Tile& tile, int from, Sums& sums, Room& room) {
  const __m512i first = _mm512_loadu_si512(tile.first), last = _mm512_loadu_si512(tile.last);
  const __m512 scale = _mm512_set1_ps(job.scale);
  const __m512 before = _mm512_load_ps(sums.most);
  __m512 most = before;
  for (int i = 0; i < kKeys; ++i) {
    const __m512i position = _mm512_set1_epi32(from + i);
    const __mmask16 seen = _mm512_cmple_epi32_mask(first, position) & _mm512_cmple_epi32_mask(position, last);
    const __m512 value = _mm512_mul_ps(_mm512_load_ps(room.scores[i]), scale);
    const __m512 masked = _mm512_mask_mov_ps(_mm512_set1_ps(kNothing), seen, value);
    _mm512_store_ps(room.scores[i], masked);
    most = _mm512_max_ps(most, masked);
  }
  // Where nothing has been seen yet, any finite number does.
  const __m512 base = _mm512_max_ps(most, _mm512_set1_ps(-3e38f));
  __m512 total = _mm512_setzero_ps();
  for (int i = 0; i < kKeys; i += 16) {
    __m512 rows[16];
    for (int j = 0; j < 16; ++j) {
      rows[j] = exp_negative(_mm512_sub_ps(_mm512_load_ps(room.scores[i + j]), base));
      total = _mm512_add_ps(total, rows[j]);
    }
    transpose(rows);
    for (int q = 0; q < kQueries; ++q) store_bf16(room.weights[q] + i, rows[q]);
  }
  const __m512 worth = exp_negative(_mm512_sub_ps(before, base));
  _mm512_store_ps(sums.most, most);
  _mm512_store_ps(sums.total, _mm512_fmadd_ps(_mm512_load_ps(sums.total), worth, total));
  return worth;
}

void transpose(__m512 (&r)[16]) {
  __m512 t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_shuffle_ps(t[i], t[i + 2], 0x44);
    r[i + 1] = _mm512_shuffle_ps(t[i], t[i + 2], 0xEE);
    r[i + 2] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    r[i + 3] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0xEE);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xDD);
    t[i + 8] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xDD);
  }
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0xDD);
    r[i + 4] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0x88);
    r[i + 12] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0xDD);
  }
}

void add_values(const Job& job, __m512 worth, Sums& sums, Room& room) {
  alignas(64) float factor[16];
  _mm512_store_ps(factor, worth);
  _tile_loadd(4, room.weights[0], kKeys * sizeof(bf16));
  _tile_loadd(5, room.weights[0] + 32, kKeys * sizeof(bf16));
  const int queries = rows_of_tile(job) * group_of(job);
  for (int e = 0; e < job.width / 16; ++e) {
    _tile_zero(0);
    _tile_loadd(6, room.values[0][e], 64);
    _tile_loadd(7, room.values[1][e], 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(0, 5, 7);
    _tile_stored(0, room.part, 64);
    for (int q = 0; q < queries; ++q) {
      float* target = sums.values[q] + 16 * e;
      const __m512 old = _mm512_mul_ps(_mm512_load_ps(target), _mm512_set1_ps(factor[q]));
      _mm512_store_ps(target, _mm512_add_ps(old, _mm512_load_ps(room.part[q])));
    }
  }
}

void merge(const Job& job, Sums& total, const Sums& part) {
  const __m512 one = _mm512_load_ps(total.most), two = _mm512_load_ps(part.most);
  const __m512 most = _mm512_max_ps(one, two);
  const __m512 base = _mm512_max_ps(most, _mm512_set1_ps(-3e38f));
  alignas(64) float first[16], second[16];
  const __m512 a = exp_negative(_mm512_sub_ps(one, base)), b = exp_negative(_mm512_sub_ps(two, base));
  _mm512_store_ps(first, a);
  _mm512_store_ps(second, b);
  _mm512_store_ps(total.most, most);
  _mm512_store_ps(total.total,
                  _mm512_add_ps(_mm512_mul_ps(_mm512_load_ps(total.total), a),
                                _mm512_mul_ps(_mm512_load_ps(part.total), b)));
  for (int q = 0; q < kQueries; ++q)
    for (int e = 0; e < job.width; e += 16) {
      const __m512 left = _mm512_mul_ps(_mm512_load_ps(total.values[q] + e), _mm512_set1_ps(first[q]));
      const __m512 right = _mm512_mul_ps(_mm512_load_ps(part.values[q] + e), _mm512_set1_ps(second[q]));
      _mm512_store_ps(total.values[q] + e, _mm512_add_ps(left, right));
    }
}

void put(const Job& job, const Span& span, int head, const Tile& tile, const Sums& sums) {
  const int group = group_of(job);
  for (int r = 0; r < tile.rows; ++r)
    for (int g = 0; g < group; ++g) {
      const int q = r * group + g;
      bf16* target = job.out + (span.first_row + tile.row + r) * job.out_stride + (head * group + g) * job.width;
      const __m512 share = _mm512_set1_ps(1.0f / sums.total[q]);
      for (int e = 0; e < job.width; e += 16)
        store_bf16(target + e, _mm512_mul_ps(_mm512_load_ps(sums.values[q] + e), share));
    }
}

// The next 64 positions will be wanted soon. Blocks lie anywhere: the processor can not guess where they go on.
void fetch(const Job& job, const Span& span, int head, int from, int until) {
  for (int position = from; position < std::min(until, from + kKeys); ++position) {
    const bf16* key = slot(job, span, job.k, head, position);
    const bf16* value = slot(job, span, job.v, head, position);
    for (int e = 0; e < job.width; e += 32) {
      _mm_prefetch(reinterpret_cast<const char*>(key + e), _MM_HINT_T1);
      _mm_prefetch(reinterpret_cast<const char*>(value + e), _MM_HINT_T1);
    }
  }
}

// Adds positions [from, until) (from: a multiple of 64) to the sums of some query tiles.
void walk(const Job& job, const Span& span, int head, int from, int until, Tile* tiles, Sums* sums, int count,
          Room& room) {
  for (int at = from; at < until; at += kKeys) {
    fetch(job, span, head, at + kKeys, until);
    prepare_values(job, span, head, at, until, room);
    Keys keys;
    for (int i = 0; i < 4; ++i) {
      keys.at[i] = keys_at(job, span, head, at + 16 * i, until, room, 16 * i);
      keys.stride[i] = (keys.at[i] >= room.keys[0] && keys.at[i] < room.keys[kKeys - 1] + kMostWidth
                            ? kMostWidth
                            : job.width) *
                       static_cast<int64_t>(sizeof(bf16));
    }
    for (int t = 0; t < count; ++t) {
      if (at > tiles[t].last[tiles[t].rows * group_of(job) - 1]) continue;
      if (at + kKeys <= tiles[t].first[0]) continue;
      score(job, keys, tiles[t], room);
      const __m512 worth = soften(job, tiles[t], at, sums[t], room);
      add_values(job, worth, sums[t], room);
    }
  }
}

int start_of(const Job& job, const Tile& tile) {
  return job.window > 0 ? tile.first[0] / kSegment * kSegment : 0;
}

template <typename T>
T* own(int count) {
  // Kept for the life of the thread: fresh memory in every step costs page faults.
  thread_local std::vector<char> room;
  if (room.size() < count * sizeof(T) + 64) room.resize(count * sizeof(T) + 64);
  return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(room.data()) + 63) / 64 * 64);
}

struct Work {
  int span, head, row, segment;  // segment < 0: all of them
};

struct Bench {
  Room room;
  Sums part[kTilesTogether];
  Sums total[kTilesTogether];
  Tile tiles[kTilesTogether];
};

// Some query tiles of a prompt, over all that they see.
void whole(const Job& job, const Work& work) {
  Bench& bench = *own<Bench>(1);
  const Span& span = job.spans[work.span];
  const int step = rows_of_tile(job);
  int count = 0;
  for (int row = work.row; row < span.rows && count < kTilesTogether; row += step)
    prepare(job, span, work.head, row, bench.tiles[count++]);
  const Tile& end = bench.tiles[count - 1];
  const int until = span.start + end.row + end.rows;
  const int begin = start_of(job, bench.tiles[0]);
  for (int from = begin; from < until; from += kSegment) {
    Sums* sums = from == begin ? bench.total : bench.part;
    for (int t = 0; t < count; ++t) clear(sums[t], job.width);
    walk(job, span, work.head, from, std::min(until, from + kSegment), bench.tiles, sums, count, bench.room);
    if (from != begin)
      for (int t = 0; t < count; ++t) merge(job, bench.total[t], bench.part[t]);
  }
  for (int t = 0; t < count; ++t) put(job, span, work.head, bench.tiles[t], bench.total[t]);
}

void segment(const Job& job, const Work& work, Sums& sums) {
  Bench& bench = *own<Bench>(1);
  const Span& span = job.spans[work.span];
  prepare(job, span, work.head, 0, bench.tiles[0]);
  const int from = start_of(job, bench.tiles[0]) + work.segment * kSegment;
  clear(sums, job.width);
  walk(job, span, work.head, from, std::min(span.start + span.rows, from + kSegment), bench.tiles, &sums, 1,
       bench.room);
}

}  // namespace
}  // namespace diptych

using namespace diptych;

extern "C" void dp_attention(const uint16_t* q, int64_t q_stride, const uint16_t* k, const uint16_t* v, uint16_t* out,
                             int64_t out_stride, const int32_t* spans, int count, const int32_t* tables, int heads,
                             int kv_heads, int width, int block_tokens, int window) {
  const Job job{q,     q_stride, k,     v,        out,   out_stride,   reinterpret_cast<const Span*>(spans),
                tables, heads,   kv_heads, width, block_tokens, window, 1.0f / std::sqrt(static_cast<float>(width))};
  static std::vector<Work> work;
  static std::vector<char> memory;
  work.clear();
  int parts = 0;
  const int rows = rows_of_tile(job);
  for (int s = 0; s < count; ++s) {
    const Span& span = job.spans[s];
    if (span.rows <= rows) {
      const int begin = window > 0 ? std::max(0, span.start - window + 1) / kSegment * kSegment : 0;
      const int segments = (span.start + span.rows - begin + kSegment - 1) / kSegment;
      for (int head = 0; head < kv_heads; ++head)
        for (int i = 0; i < segments; ++i) work.push_back({s, head, 0, i}), ++parts;
    }
  }
  const int small = parts;
  for (int s = 0; s < count; ++s) {
    const Span& span = job.spans[s];
    // The last rows first: they see most.
    if (span.rows > rows)
      for (int row = (span.rows - 1) / (rows * kTilesTogether) * rows * kTilesTogether; row >= 0;
           row -= rows * kTilesTogether)
        for (int head = 0; head < kv_heads; ++head) work.push_back({s, head, row, -1});
  }
  if (memory.size() < parts * sizeof(Sums) + 64) memory.resize(parts * sizeof(Sums) + 64);
  Sums* sums = reinterpret_cast<Sums*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64);
  parallel_for(static_cast<int>(work.size()), [&](int task) {
    prepare_tiles();
    if (task < small) {
      segment(job, work[task], sums[task]);
    } else {
      whole(job, work[task]);
    }
  });
  for (int task = 0; task < small;) {
    const Work& first = work[task];
    Sums& total = sums[task];
    Tile tile;
    tile.row = 0;
    tile.rows = job.spans[first.span].rows;
    for (++task; task < small && work[task].span == first.span && work[task].head == first.head; ++task)
      merge(job, total, sums[task]);
    put(job, job.spans[first.span], first.head, tile, total);
  }
}
