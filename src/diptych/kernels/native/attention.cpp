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
constexpr int kAhead = 2;           // so many times 64 positions of one head are fetched before they are used
constexpr int kTasksForEach = 4;   // tasks for each thread, so that none waits long for the last one
constexpr float kLog2E = 1.44269504f;  // weights are powers of two: scores are scaled for them
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
  int all_from, all_until;  // positions that each of them sees
};

struct alignas(64) Room {
  bf16 keys[kKeys][kMostWidth];
  bf16 values[2][kMostWidth / 16][16][16][2];  // [32 positions][16 wide]: pairs of positions side by side
  float scores[kKeys][kQueries];
  bf16 weights[kQueries][kKeys];
  float part[4][kQueries][16];
};

void clear(Sums& sums, int width, int queries) {
  for (int q = 0; q < kQueries; ++q) {
    sums.most[q] = kNothing;
    sums.total[q] = 0;
  }
  for (int q = 0; q < queries; ++q) std::memset(sums.values[q], 0, width * sizeof(float));
}

int group_of(const Job& job) { return job.heads / job.kv_heads; }

int rows_of_tile(const Job& job) { return std::max(1, kQueries / group_of(job)); }

void transpose(__m512 (&rows)[16]);

void prepare(const Job& job, const Span& span, int head, int row, Tile& tile) {
  const int group = group_of(job);
  tile.row = row;
  tile.rows = std::min(rows_of_tile(job), span.rows - row);
  const bf16* sources[kQueries] = {};
  for (int q = 0; q < kQueries; ++q) tile.first[q] = 1, tile.last[q] = 0;
  for (int r = 0; r < tile.rows; ++r) {
    const int position = span.start + row + r;
    for (int g = 0; g < group; ++g) {
      const int q = r * group + g;
      sources[q] = job.q + (span.first_row + row + r) * job.q_stride + (head * group + g) * job.width;
      tile.first[q] = job.window > 0 ? std::max(0, position - job.window + 1) : 0;
      tile.last[q] = position;
    }
  }
  for (int k = 0; k < job.width / 32; ++k) {
    __m512 pairs[kQueries];
    for (int q = 0; q < kQueries; ++q)
      pairs[q] = sources[q] ? _mm512_loadu_ps(sources[q] + 32 * k) : _mm512_setzero_ps();
    transpose(pairs);
    for (int pair = 0; pair < 16; ++pair) _mm512_store_ps(tile.queries[k][pair], pairs[pair]);
  }
  tile.all_from = tile.first[tile.rows * group - 1];
  tile.all_until = tile.last[0] + 1;
}

const bf16* slot(const Job& job, const Span& span, const bf16* plane, int head, int position) {
  const int64_t block = job.tables[span.table + position / job.block_tokens];
  return plane + ((block * job.kv_heads + head) * job.block_tokens + position % job.block_tokens) * job.width;
}

// Where positions [from, from + 64) lie in one plane; null from `until` on. One division for each block.
void rows_at(const Job& job, const Span& span, const bf16* plane, int head, int from, int until,
             const bf16* (&at)[kKeys]) {
  const int count = std::clamp(until - from, 0, kKeys);
  for (int i = 0; i < count;) {
    const int rows = std::min(job.block_tokens - (from + i) % job.block_tokens, count - i);
    const bf16* first = slot(job, span, plane, head, from + i);
    for (int r = 0; r < rows; ++r) at[i + r] = first + static_cast<int64_t>(r) * job.width;
    i += rows;
  }
  std::fill(at + count, at + kKeys, nullptr);
}

// Keys and values that are wanted next. Blocks lie anywhere: the processor can not guess where they go on. Fetched all
// at once they would fill its queue of misses and hold up the sums; so each part of the work fetches some.
class Ahead {
 public:
  Ahead(const Job& job, const Span& span, int head, int from, int until) {
    for (int position = from; position < until;) {
      const int rows = std::min(job.block_tokens - position % job.block_tokens, until - position);
      const int lines = rows * job.width * static_cast<int>(sizeof(bf16)) / 64;
      pieces_[count_++] = {reinterpret_cast<const char*>(slot(job, span, job.k, head, position)), lines};
      pieces_[count_++] = {reinterpret_cast<const char*>(slot(job, span, job.v, head, position)), lines};
      position += rows;
    }
    // Each piece may be a page that no buffer of translations knows: they are looked up side by side.
    for (int piece = 0; piece < count_; ++piece) _mm_prefetch(pieces_[piece].at, _MM_HINT_T1);
  }

  // About so many lines: what is left of one piece at most.
  void some(int lines) {
    if (piece_ == count_) return;
    Piece& piece = pieces_[piece_];
    const int now = std::min(lines, piece.lines);
    for (int line = 0; line < now; ++line) _mm_prefetch(piece.at + 64 * line, _MM_HINT_T1);
    piece.at += 64 * now;
    piece.lines -= now;
    piece_ += piece.lines == 0;
  }

 private:
  struct Piece {
    const char* at;
    int lines;
  };
  Piece pieces_[2 * kKeys];
  int count_ = 0, piece_ = 0;
};

// Values of positions [from, from + 64) as the second operand; zero from `until` on.
void prepare_values(const Job& job, const Span& span, int head, int from, int until, Room& room, Ahead& ahead) {
  // Puts the 16-bit elements of two rows side by side.
  alignas(64) static const uint16_t kLow[32] = {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                                8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  alignas(64) static const uint16_t kHigh[32] = {16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55,
                                                 24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63};
  const __m512i low = _mm512_load_si512(kLow), high = _mm512_load_si512(kHigh);
  const bf16* at[kKeys];
  rows_at(job, span, job.v, head, from, until, at);
  for (int pair = 0; pair < kKeys / 2; ++pair) {
    const bf16* const* rows = at + 2 * pair;
    if (pair % 2 == 0) ahead.some(16);
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

void score(const Job& job, const Keys& keys, const Tile& tile, Room& room, Ahead& ahead) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int k = 0; k < job.width / 32; ++k) {
    ahead.some(16);
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

// Scores to weights; sums.most and sums.total move on; what earlier sums are worth now. Only the tile's own queries
// are worth an exponential.
__m512 soften(const Job& job, const Tile& tile, int from, int queries, Sums& sums, Room& room, Ahead& ahead) {
  const __m512i first = _mm512_loadu_si512(tile.first), last = _mm512_loadu_si512(tile.last);
  const bool all = tile.all_from <= from && from + kKeys <= tile.all_until;
  const __m512 scale = _mm512_set1_ps(job.scale);
  const __m512 before = _mm512_load_ps(sums.most);
  __m512 most = before;
  alignas(64) float turned[kKeys / 16][kQueries][16];
  for (int part = 0; part < kKeys / 16; ++part) {
    __m512 rows[16];
    for (int i = 0; i < 16; ++i) {
      rows[i] = _mm512_mul_ps(_mm512_load_ps(room.scores[16 * part + i]), scale);
      if (!all) {
        const __m512i position = _mm512_set1_epi32(from + 16 * part + i);
        const __mmask16 seen = _mm512_cmple_epi32_mask(first, position) & _mm512_cmple_epi32_mask(position, last);
        rows[i] = _mm512_mask_mov_ps(_mm512_set1_ps(kNothing), seen, rows[i]);
      }
      most = _mm512_max_ps(most, rows[i]);
    }
    ahead.some(32);
    transpose(rows);
    for (int q = 0; q < queries; ++q) _mm512_store_ps(turned[part][q], rows[q]);
  }
  // Where nothing has been seen yet, any finite number does.
  const __m512 base = _mm512_max_ps(most, _mm512_set1_ps(-3e38f));
  alignas(64) float bases[kQueries];
  _mm512_store_ps(bases, base);
  __m512 totals[kQueries] = {};
  for (int q = 0; q < queries; ++q) {
    const __m512 own = _mm512_set1_ps(bases[q]);
    for (int part = 0; part < kKeys / 16; ++part) {
      const __m512 weight = power_of_two(_mm512_sub_ps(_mm512_load_ps(turned[part][q]), own));
      totals[q] = _mm512_add_ps(totals[q], weight);
      store_bf16(room.weights[q] + 16 * part, weight);
    }
  }
  transpose(totals);
  __m512 total = totals[0];
  for (int i = 1; i < 16; ++i) total = _mm512_add_ps(total, totals[i]);
  const __m512 worth = power_of_two(_mm512_sub_ps(before, base));
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

void products(Room& room, int e, int pieces) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_loadd(6, room.values[0][e], 64);
  _tile_dpbf16ps(0, 4, 6);
  if (pieces > 1) {
    _tile_loadd(7, room.values[0][e + 1], 64);
    _tile_dpbf16ps(1, 4, 7);
  }
  if (pieces > 2) {
    _tile_loadd(6, room.values[0][e + 2], 64);
    _tile_dpbf16ps(2, 4, 6);
  }
  if (pieces > 3) {
    _tile_loadd(7, room.values[0][e + 3], 64);
    _tile_dpbf16ps(3, 4, 7);
  }
  _tile_loadd(6, room.values[1][e], 64);
  _tile_dpbf16ps(0, 5, 6);
  _tile_stored(0, room.part[0], 64);
  if (pieces > 1) {
    _tile_loadd(7, room.values[1][e + 1], 64);
    _tile_dpbf16ps(1, 5, 7);
    _tile_stored(1, room.part[1], 64);
  }
  if (pieces > 2) {
    _tile_loadd(6, room.values[1][e + 2], 64);
    _tile_dpbf16ps(2, 5, 6);
    _tile_stored(2, room.part[2], 64);
  }
  if (pieces > 3) {
    _tile_loadd(7, room.values[1][e + 3], 64);
    _tile_dpbf16ps(3, 5, 7);
    _tile_stored(3, room.part[3], 64);
  }
}

// Four 16-wide pieces of the values at a time, so that no product waits for the one before.
void add_values(const Job& job, __m512 worth, int queries, Sums& sums, Room& room, Ahead& ahead) {
  alignas(64) float factor[16];
  _mm512_store_ps(factor, worth);
  _tile_loadd(4, room.weights[0], kKeys * sizeof(bf16));
  _tile_loadd(5, room.weights[0] + 32, kKeys * sizeof(bf16));
  for (int e = 0; e < job.width / 16; e += 4) {
    const int pieces = std::min(4, job.width / 16 - e);
    ahead.some(64);
    products(room, e, pieces);
    for (int q = 0; q < queries; ++q) {
      const __m512 times = _mm512_set1_ps(factor[q]);
      float* target = sums.values[q] + 16 * e;
      for (int i = 0; i < pieces; ++i)
        _mm512_store_ps(target + 16 * i,
                        _mm512_fmadd_ps(_mm512_load_ps(target + 16 * i), times, _mm512_load_ps(room.part[i][q])));
    }
  }
}

void merge(const Job& job, Sums& total, const Sums& part, int queries) {
  const __m512 one = _mm512_load_ps(total.most), two = _mm512_load_ps(part.most);
  const __m512 most = _mm512_max_ps(one, two);
  const __m512 base = _mm512_max_ps(most, _mm512_set1_ps(-3e38f));
  alignas(64) float first[16], second[16];
  const __m512 a = power_of_two(_mm512_sub_ps(one, base)), b = power_of_two(_mm512_sub_ps(two, base));
  _mm512_store_ps(first, a);
  _mm512_store_ps(second, b);
  _mm512_store_ps(total.most, most);
  _mm512_store_ps(total.total,
                  _mm512_add_ps(_mm512_mul_ps(_mm512_load_ps(total.total), a),
                                _mm512_mul_ps(_mm512_load_ps(part.total), b)));
  for (int q = 0; q < queries; ++q)
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

Keys keys_of(const Job& job, const Span& span, int head, int at, int until, Room& room) {
  Keys keys;
  for (int i = 0; i < 4; ++i) {
    keys.at[i] = keys_at(job, span, head, at + 16 * i, until, room, 16 * i);
    const bool copied = keys.at[i] >= room.keys[0] && keys.at[i] < room.keys[kKeys - 1] + kMostWidth;
    keys.stride[i] = (copied ? kMostWidth : job.width) * static_cast<int64_t>(sizeof(bf16));
  }
  return keys;
}

// Query tiles of neighbouring heads: `each` of them for every head, one head after the other.
struct Tiles {
  Tile* tiles;
  Sums* sums;
  int head, heads, each;
};

// Adds positions [from, until) (from: a multiple of 64) to the sums. Heads of one block lie side by side, so all heads
// of the same positions come before the next positions: memory and the tables of its pages are read in order.
void walk(const Job& job, const Span& span, int from, int until, const Tiles& work, Room& room) {
  for (int at = from; at < until; at += kKeys) {
    for (int h = 0; h < work.heads; ++h) {
      const int head = work.head + h;
      const int next = at + (h + kAhead) / work.heads * kKeys;
      Ahead ahead(job, span, work.head + (h + kAhead) % work.heads, next, std::min(until, next + kKeys));
      prepare_values(job, span, head, at, until, room, ahead);
      const Keys keys = keys_of(job, span, head, at, until, room);
      for (int t = h * work.each; t < (h + 1) * work.each; ++t) {
        const Tile& tile = work.tiles[t];
        const int queries = tile.rows * group_of(job);
        if (at > tile.last[queries - 1] || at + kKeys <= tile.first[0]) continue;
        score(job, keys, tile, room, ahead);
        const __m512 worth = soften(job, tile, at, queries, work.sums[t], room, ahead);
        add_values(job, worth, queries, work.sums[t], room, ahead);
      }
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
  int heads, sums;               // of a segment: how many heads from `head` on, where their sums go
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
    for (int t = 0; t < count; ++t) clear(sums[t], job.width, kQueries);
    walk(job, span, from, std::min(until, from + kSegment), {bench.tiles, sums, work.head, 1, count}, bench.room);
    if (from != begin)
      for (int t = 0; t < count; ++t) merge(job, bench.total[t], bench.part[t], kQueries);
  }
  for (int t = 0; t < count; ++t) put(job, span, work.head, bench.tiles[t], bench.total[t]);
}

// One tile of each of some heads, over one segment.
void segment(const Job& job, const Work& work, Sums* sums) {
  Bench& bench = *own<Bench>(1);
  const Span& span = job.spans[work.span];
  for (int h = 0; h < work.heads; ++h) {
    prepare(job, span, work.head + h, 0, bench.tiles[h]);
    clear(sums[h], job.width, span.rows * group_of(job));
  }
  const int from = start_of(job, bench.tiles[0]) + work.segment * kSegment;
  walk(job, span, from, std::min(span.start + span.rows, from + kSegment),
       {bench.tiles, sums, work.head, work.heads, 1}, bench.room);
}

int segments_of(const Job& job, const Span& span) {
  const int begin = job.window > 0 ? std::max(0, span.start - job.window + 1) / kSegment * kSegment : 0;
  return (span.start + span.rows - begin + kSegment - 1) / kSegment;
}

// How many heads a task takes: as many as leave every thread some tasks.
int heads_together(const Job& job, int segments) {
  int heads = std::min(job.kv_heads, kTilesTogether);
  while (heads > 1 && segments * (job.kv_heads / heads) < kTasksForEach * threads()) heads /= 2;
  return heads;
}

}  // namespace
}  // namespace diptych

using namespace diptych;

extern "C" void dp_attention(const uint16_t* q, int64_t q_stride, const uint16_t* k, const uint16_t* v, uint16_t* out,
                             int64_t out_stride, const int32_t* spans, int count, const int32_t* tables, int heads,
                             int kv_heads, int width, int block_tokens, int window) {
  const Job job{q,     q_stride, k,     v,        out,   out_stride,   reinterpret_cast<const Span*>(spans),
                tables, heads,   kv_heads, width, block_tokens, window, kLog2E / std::sqrt(static_cast<float>(width))};
  static std::vector<Work> work;
  static std::vector<char> memory;
  work.clear();
  const int rows = rows_of_tile(job);
  int segments = 0, parts = 0;
  for (int s = 0; s < count; ++s)
    if (job.spans[s].rows <= rows) segments += segments_of(job, job.spans[s]);
  const int together = heads_together(job, segments);
  for (int s = 0; s < count; ++s) {
    if (job.spans[s].rows > rows) continue;
    for (int i = 0; i < segments_of(job, job.spans[s]); ++i, parts += kv_heads)
      for (int head = 0; head < kv_heads; head += together)
        work.push_back({s, head, 0, i, std::min(together, kv_heads - head), parts + head});
  }
  for (int s = 0; s < count; ++s) {
    const Span& span = job.spans[s];
    // The last rows first: they see most.
    if (span.rows > rows)
      for (int row = (span.rows - 1) / (rows * kTilesTogether) * rows * kTilesTogether; row >= 0;
           row -= rows * kTilesTogether)
        for (int head = 0; head < kv_heads; ++head) work.push_back({s, head, row, -1, 1, 0});
  }
  if (memory.size() < parts * sizeof(Sums) + 64) memory.resize(parts * sizeof(Sums) + 64);
  Sums* sums = reinterpret_cast<Sums*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64);
  parallel_for(static_cast<int>(work.size()), [&](int task) {
    prepare_tiles();
    if (work[task].segment < 0) {
      whole(job, work[task]);
    } else {
      segment(job, work[task], sums + work[task].sums);
    }
  });
  for (int s = 0, part = 0; s < count; ++s) {
    const Span& span = job.spans[s];
    if (span.rows > rows) continue;
    Tile tile;
    tile.row = 0;
    tile.rows = span.rows;
    const int of_span = segments_of(job, span);
    for (int head = 0; head < kv_heads; ++head) {
      Sums& total = sums[part + head];
      for (int i = 1; i < of_span; ++i)
        merge(job, total, sums[part + i * kv_heads + head], span.rows * group_of(job));
      put(job, span, head, tile, total);
    }
    part += of_span * kv_heads;
  }
}
