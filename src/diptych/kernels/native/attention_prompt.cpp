// The walk of prompts: many full query tiles share what is prepared of 64 positions, bound by tiles and exponentials.
// Queries are columns everywhere: a line of scores becomes a line of weights without moving between columns.
#include <cstring>

#include "attention.h"
#include "products.h"
#include "rooms.h"
#include "tiles.h"

namespace diptych::attention {
namespace {

using Scores = float[kKeys][kQueries];
using Weights = bf16[2][16][kQueries][2];  // [32 positions][queries]: pairs of positions side by side

struct alignas(64) Room {
  KeyCopies keys;
  bf16 values[2][kMostWidth / 16][16][32];  // [16 wide][32 positions]
  alignas(64) Scores scores;
  alignas(64) Weights weights;
  alignas(64) bf16 rows[kQueries][kMostWidth];
  Tile tiles[kTilesTogether];
  Sums total[kTilesTogether];
  Sums part[kTilesTogether];
};

// Values of positions [from, from + 64) turned, as the first operand; zero from `until` on.
void prepare_values(const Job& job, const Span& span, int head, int from, int until, Room& room) {
  const bf16* at[kKeys];
  rows_at(job, span, job.v, head, from, until, at);
  for (int half = 0; half < 2; ++half)
    for (int e = 0; e < job.width; e += 16) {
      __m512 lines[16];
      for (int pair = 0; pair < 16; ++pair) {
        const bf16* const* rows = at + 32 * half + 2 * pair;
        lines[pair] = _mm512_castsi512_ps(side_by_side(rows[0] ? load_16(rows[0] + e) : _mm256_setzero_si256(),
                                                       rows[1] ? load_16(rows[1] + e) : _mm256_setzero_si256()));
      }
      transpose(lines);
      for (int i = 0; i < 16; ++i) _mm512_store_ps(room.values[half][e / 16][i], lines[i]);
    }
}

constexpr int kKeysTogether = 8;  // of scores on vectors: their sums of two places and what is multiplied fit the registers
using Lines = __m512[kKeysTogether];

void add_lines(Lines& to, const Lines& lines) {
  for (int i = 0; i < kKeysTogether; ++i) to[i] = _mm512_add_ps(to[i], lines[i]);
}

// What eight keys have of a score in the words that come to one place of eight: two words of each 32 elements.
[[gnu::always_inline]] inline void score_place(const Job& job, const bf16* keys, int64_t stride, const Tile& tile,
                                               int place, Lines& lines) {
  for (auto& line : lines) line = _mm512_setzero_ps();
  for (int k = 0; k < job.width / 32; ++k) {
    add_rows(lines, keys + 32 * k + 2 * place, stride, tile.queries[k][place][0], 1);
    add_rows(lines, keys + 32 * k + 2 * place + 16, stride, tile.queries[k][place + 8][0], 1);
  }
}

// Scores of 64 positions, one line of queries for each. Each has eight sums, as those of decodes have, that are added
// up in the same order.
void score_on_vectors(const Job& job, const Keys& keys, const Tile& tile, Scores& scores) {
  for (int at = 0; at < kKeys; at += kKeysTogether) {
    const int64_t stride = keys.stride[at / 16] / sizeof(bf16);
    const bf16* rows = keys.at[at / 16] + at % 16 * stride;
    for (int half = 0; half < 2; ++half) {
      Lines sums, quarter, other;
      score_place(job, rows, stride, tile, half, sums);
      score_place(job, rows, stride, tile, half + 4, other);
      add_lines(sums, other);
      score_place(job, rows, stride, tile, half + 2, quarter);
      score_place(job, rows, stride, tile, half + 6, other);
      add_lines(quarter, other);
      add_lines(sums, quarter);
      for (int i = 0; i < kKeysTogether; ++i)
        _mm512_store_ps(scores[at + i], half ? _mm512_add_ps(_mm512_load_ps(scores[at + i]), sums[i]) : sums[i]);
    }
  }
}

void score_on_tiles(const Job& job, const Keys& keys, const Tile& tile, Scores& scores) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int k = 0; k < job.width / 32; ++k) {
    _tile_stream_loadd(4, tile.queries[k], 64);
    _tile_loadd(5, keys.at[0] + 32 * k, keys.stride[0]);
    _tile_loadd(6, keys.at[1] + 32 * k, keys.stride[1]);
    _tile_dpbf16ps(0, 5, 4);
    _tile_dpbf16ps(1, 6, 4);
    _tile_loadd(5, keys.at[2] + 32 * k, keys.stride[2]);
    _tile_loadd(6, keys.at[3] + 32 * k, keys.stride[3]);
    _tile_dpbf16ps(2, 5, 4);
    _tile_dpbf16ps(3, 6, 4);
  }
  _tile_stored(0, scores[0], 64);
  _tile_stored(1, scores[16], 64);
  _tile_stored(2, scores[32], 64);
  _tile_stored(3, scores[48], 64);
}

// Scores to weights.
void soften(const Job& job, const Tile& tile, int from, Sums& sums, Room& room) {
  const __m512 scale = _mm512_set1_ps(job.scale);
  const Moved moved = follow(_mm512_mul_ps(highest(tile, from, room.scores), scale), sums);
  __m512 total = _mm512_setzero_ps();
  for (int i = 0; i < 16; i += 2) {
    __m512 even = _mm512_setzero_ps(), odd = even;
    for (int part = 0; part < kKeys / 16; ++part) {
      const float(*lines)[kQueries] = room.scores + 16 * part + i;
      const __m512 one = power_of_two(_mm512_fmsub_ps(_mm512_load_ps(lines[0]), scale, moved.base));
      const __m512 two = power_of_two(_mm512_fmsub_ps(_mm512_load_ps(lines[1]), scale, moved.base));
      even = _mm512_add_ps(even, one);
      odd = _mm512_add_ps(odd, two);
      _mm512_store_si512(room.weights[part / 2][part % 2 * 8 + i / 2], side_by_side(one, two));
    }
    total = _mm512_add_ps(_mm512_add_ps(total, even), odd);
  }
  _mm512_store_ps(sums.total, _mm512_add_ps(_mm512_load_ps(sums.total), total));
  if (moved.who)
    for (int e = 0; e < job.width; ++e) {
      float* line = sums.values + e * kQueries;
      _mm512_store_ps(line, _mm512_mul_ps(_mm512_load_ps(line), moved.worth));
    }
}

void add_values_on_vectors(const Job& job, Sums& sums, const Room& room) {
  for (int e = 0; e < job.width / 16; ++e) {
    float* target = sums.values + 16 * kQueries * e;
    __m512 lines[16];
    for (int i = 0; i < 16; ++i) lines[i] = _mm512_load_ps(target + i * kQueries);
    for (int half = 0; half < 2; ++half) add_rows(lines, room.values[half][e][0], 32, room.weights[half][0][0], 16);
    for (int i = 0; i < 16; ++i) _mm512_store_ps(target + i * kQueries, lines[i]);
  }
}

// Two 16-wide pieces of the values at a time, so that no product waits for the one before.
void add_values_on_tiles(const Job& job, Sums& sums, const Room& room) {
  _tile_loadd(4, room.weights[0], 64);
  _tile_loadd(5, room.weights[1], 64);
  for (int e = 0; e < job.width / 16; e += 2) {
    float* target = sums.values + 16 * kQueries * e;
    _tile_loadd(0, target, 64);
    _tile_loadd(1, target + 16 * kQueries, 64);
    _tile_loadd(6, room.values[0][e], 64);
    _tile_loadd(7, room.values[0][e + 1], 64);
    _tile_dpbf16ps(0, 6, 4);
    _tile_dpbf16ps(1, 7, 4);
    _tile_loadd(6, room.values[1][e], 64);
    _tile_loadd(7, room.values[1][e + 1], 64);
    _tile_dpbf16ps(0, 6, 5);
    _tile_dpbf16ps(1, 7, 5);
    _tile_stored(0, target, 64);
    _tile_stored(1, target + 16 * kQueries, 64);
  }
}

// Adds positions [from, until) (from: a multiple of 64) to the sums.
void walk(const Job& job, const Span& span, int head, int from, int until, int count, Sums* sums, Room& room) {
  const bool tiles = on_tiles();
  for (int at = from; at < until; at += kKeys) {
    const int next = at + kAhead * kKeys;
    Ahead ahead(job, span, head, next, std::min(until, next + kKeys));
    prepare_values(job, span, head, at, until, room);
    const Keys keys = keys_of(job, span, head, at, until, room.keys);
    for (int t = 0; t < count; ++t) {
      const Tile& tile = room.tiles[t];
      if (!tile.sees(job, at)) continue;
      ahead.some(64);
      (tiles ? score_on_tiles : score_on_vectors)(job, keys, tile, room.scores);
      soften(job, tile, at, sums[t], room);
      (tiles ? add_values_on_tiles : add_values_on_vectors)(job, sums[t], room);
    }
  }
}

void merge_tile(const Job& job, Sums& total, const Sums& part) {
  const Worths worths = join(total, part);
  for (int e = 0; e < job.width * kQueries; e += kQueries) {
    const __m512 left = _mm512_mul_ps(_mm512_load_ps(total.values + e), worths.one);
    const __m512 right = _mm512_mul_ps(_mm512_load_ps(part.values + e), worths.two);
    _mm512_store_ps(total.values + e, _mm512_add_ps(left, right));
  }
}

// Rows lie far apart in memory. They are written past the caches, where that is possible: fetching each line first takes
// longer than it saves whoever reads it.
void put_tile(const Job& job, const Span& span, int head, const Tile& tile, const Sums& sums, Room& room) {
  const int group = job.group();
  const __m512 share = _mm512_div_ps(_mm512_set1_ps(1.0f), _mm512_load_ps(sums.total));
  for (int e = 0; e < job.width; e += 16) {
    __m512 lines[16];
    for (int i = 0; i < 16; ++i) lines[i] = _mm512_mul_ps(_mm512_load_ps(sums.values + (e + i) * kQueries), share);
    transpose(lines);
    for (int q = 0; q < kQueries; ++q) store_bf16(room.rows[q] + e, lines[q]);
  }
  const int64_t bytes = job.width * sizeof(bf16);
  const bool whole_lines = reinterpret_cast<uintptr_t>(job.out) % 64 == 0 && job.out_stride % 32 == 0;
  for (int q = 0; q < tile.queries_of(job); ++q) {
    const int64_t row = span.first_row + tile.row + q / group;
    bf16* target = job.out + row * job.out_stride + (head * group + q % group) * job.width;
    if (!whole_lines) {
      std::memcpy(target, room.rows[q], bytes);
      continue;
    }
    for (int e = 0; e < job.width; e += 32)
      _mm512_stream_si512(reinterpret_cast<__m512i*>(target + e), _mm512_load_si512(room.rows[q] + e));
  }
}

}  // namespace

void prompt(const Job& job, const Span& span, int head, int row) {
  Room& room = own<Room>();
  prepare_tiles();
  int count = 0;
  for (int at = row; at < span.rows && count < kTilesTogether; at += job.rows_of_tile())
    prepare(job, span, head, at, room.tiles[count++]);
  const int until = span.start + room.tiles[count - 1].row + room.tiles[count - 1].rows;
  const int begin = begin_of(job, span.start + row);
  for (int from = begin; from < until; from += kSegment) {
    Sums* sums = from == begin ? room.total : room.part;
    for (int t = 0; t < count; ++t) clear(sums[t], job.width * kQueries);
    walk(job, span, head, from, std::min(until, from + kSegment), count, sums, room);
    if (from != begin)
      for (int t = 0; t < count; ++t) merge_tile(job, room.total[t], room.part[t]);
  }
  for (int t = 0; t < count; ++t) put_tile(job, span, head, room.tiles[t], room.total[t], room);
  _mm_sfence();
}

}  // namespace diptych::attention
