// The walk of decodes: one query tile of few queries for each head, bound by memory. Queries are lines of the weights
// and of the sums, so that only those that exist cost something.
#include "attention.h"
#include "attention_few_vectors.h"
#include "rooms.h"
#include "tiles.h"

namespace diptych::attention {
namespace {

struct alignas(64) Room {
  KeyCopies keys;
  bf16 values[2][kMostWidth / 16][16][16][2];  // [32 positions][16 wide]: pairs of positions side by side
  float scores[kKeys][kQueries];  // by tiles
  float lines[kQueries][kKeys];   // by vectors
  bf16 weights[kQueries][kKeys] = {};
  Tile tiles[kHeadsTogether];
};

// Values of positions [from, from + 64) as the second operand; zero from `until` on.
void prepare_values(const Job& job, const Span& span, int head, int from, int until, Room& room, Ahead& ahead) {
  const bf16* at[kKeys];
  rows_at(job, span, job.v, head, from, until, at);
  for (int pair = 0; pair < kKeys / 2; ++pair) {
    const bf16* const* rows = at + 2 * pair;
    if (pair % 2 == 0) ahead.some(16);
    for (int e = 0; e < job.width; e += 16)
      _mm512_store_si512(room.values[pair / 16][e / 16][pair % 16],
                         side_by_side(rows[0] ? load_16(rows[0] + e) : _mm256_setzero_si256(),
                                      rows[1] ? load_16(rows[1] + e) : _mm256_setzero_si256()));
  }
}

// Scores of 64 positions, one line of positions for each query.
void score_on_vectors(const Job& job, const Span& span, int head, int from, int until, Room& room, Ahead& ahead) {
  const bf16* keys[kKeys];
  rows_or_zeros(job, span, job.k, head, from, until, keys);
  for (int row = 0; row < span.rows; ++row)
    score_row(job, keys, job.q + (span.first_row + row) * job.q_stride + int64_t{head} * job.group() * job.width,
              room.lines[row * job.group()], ahead);
}

// The highest score of each query, unscaled; where a query may not look, its score becomes −inf.
__m512 highest_of_lines(const Job& job, const Tile& tile, int from, Room& room) {
  const bool all = tile.all_from <= from && from + kKeys <= tile.all_until;
  alignas(64) float highest[kQueries];
  _mm512_store_ps(highest, _mm512_set1_ps(kNothing));
  for (int q = 0; q < tile.queries_of(job); ++q) {
    const __m512i first = _mm512_set1_epi32(tile.first[q]), last = _mm512_set1_epi32(tile.last[q]);
    __m512 most = _mm512_set1_ps(kNothing);
    for (int part = 0; part < kKeys / 16; ++part) {
      float* at = room.lines[q] + 16 * part;
      __m512 line = _mm512_load_ps(at);
      if (!all) {
        const __m512i position = _mm512_add_epi32(_mm512_set1_epi32(from + 16 * part), _mm512_setr_epi32(
            0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
        const __mmask16 seen = _mm512_cmple_epi32_mask(first, position) & _mm512_cmple_epi32_mask(position, last);
        line = _mm512_mask_mov_ps(_mm512_set1_ps(kNothing), seen, line);
        _mm512_store_ps(at, line);
      }
      most = _mm512_max_ps(most, line);
    }
    highest[q] = _mm512_reduce_max_ps(most);
  }
  return _mm512_load_ps(highest);
}

// Scores of 64 positions, one line of queries for each.
void score_on_tiles(const Job& job, const Keys& keys, const Tile& tile, Room& room, Ahead& ahead) {
  for (int half = 0; half < 4; half += 2) {
    _tile_zero(0);
    _tile_zero(1);
    for (int k = 0; k < job.width / 32; ++k) {
      ahead.some(8);
      _tile_loadd(2, tile.queries[k], 64);
      _tile_loadd(3, keys.at[half] + 32 * k, keys.stride[half]);
      _tile_loadd(4, keys.at[half + 1] + 32 * k, keys.stride[half + 1]);
      _tile_dpbf16ps(0, 3, 2);
      _tile_dpbf16ps(1, 4, 2);
    }
    _tile_stored(0, room.scores[16 * half], 64);
    _tile_stored(1, room.scores[16 * half + 16], 64);
  }
}

// Scores to weights. Only the tile's own queries are worth an exponential, so they become lines first.
void soften(const Job& job, const Tile& tile, int from, Sums& sums, Room& room, Ahead& ahead) {
  const int queries = tile.queries_of(job);
  const __m512 scale = _mm512_set1_ps(job.scale);
  const bool tiles = on_tiles();
  const __m512 most = tiles ? highest(tile, from, room.scores) : highest_of_lines(job, tile, from, room);
  const Moved moved = follow(_mm512_mul_ps(most, scale), sums);
  alignas(64) float bases[kQueries], worths[kQueries];
  _mm512_store_ps(bases, moved.base);
  _mm512_store_ps(worths, moved.worth);
  __m512 totals[kQueries] = {};
  for (int part = 0; part < kKeys / 16; ++part) {
    __m512 lines[16];
    if (tiles) {
      ahead.some(32);
      for (int i = 0; i < 16; ++i) lines[i] = _mm512_load_ps(room.scores[16 * part + i]);
      transpose(lines);
    } else {
      for (int q = 0; q < queries; ++q) lines[q] = _mm512_load_ps(room.lines[q] + 16 * part);
    }
    for (int q = 0; q < queries; ++q) {
      const __m512 weight = power_of_two(_mm512_fmsub_ps(lines[q], scale, _mm512_set1_ps(bases[q])));
      totals[q] = _mm512_add_ps(totals[q], weight);
      store_bf16(room.weights[q] + 16 * part, weight);
    }
  }
  transpose(totals);
  __m512 total = totals[0];
  for (int i = 1; i < 16; ++i) total = _mm512_add_ps(total, totals[i]);
  _mm512_store_ps(sums.total, _mm512_add_ps(_mm512_load_ps(sums.total), total));
  for (int q = 0; q < queries; ++q) {
    if (!(moved.who >> q & 1)) continue;
    float* line = sums.values + q * kMostWidth;
    for (int e = 0; e < job.width; e += 16)
      _mm512_store_ps(line + e, _mm512_mul_ps(_mm512_load_ps(line + e), _mm512_set1_ps(worths[q])));
  }
}

// Two 16-wide pieces of the values at a time, so that no product waits for the one before. Weights and sums are short
// tiles.
void add_values_on_tiles(const Job& job, Sums& sums, const Room& room, Ahead& ahead) {
  constexpr int64_t kStride = kMostWidth * sizeof(float);
  for (int e = 0; e < job.width / 16; e += 2) {
    float* target = sums.values + 16 * e;
    ahead.some(32);
    _tile_loadd(5, target, kStride);
    _tile_loadd(6, target + 16, kStride);
    _tile_loadd(7, room.weights[0], kKeys * sizeof(bf16));
    _tile_loadd(0, room.values[0][e], 64);
    _tile_loadd(1, room.values[0][e + 1], 64);
    _tile_dpbf16ps(5, 7, 0);
    _tile_dpbf16ps(6, 7, 1);
    _tile_loadd(7, room.weights[0] + 32, kKeys * sizeof(bf16));
    _tile_loadd(2, room.values[1][e], 64);
    _tile_loadd(3, room.values[1][e + 1], 64);
    _tile_dpbf16ps(5, 7, 2);
    _tile_dpbf16ps(6, 7, 3);
    _tile_stored(5, target, kStride);
    _tile_stored(6, target + 16, kStride);
  }
}

// Positions [from, from + 64) of one head.
void add_on_tiles(const Job& job, const Span& span, int head, int from, int until, const Tile& tile, Sums& sums,
                  Room& room, Ahead& ahead) {
  prepare_values(job, span, head, from, until, room, ahead);
  score_on_tiles(job, keys_of(job, span, head, from, until, room.keys), tile, room, ahead);
  soften(job, tile, from, sums, room, ahead);
  add_values_on_tiles(job, sums, room, ahead);
}

void add_on_vectors(const Job& job, const Span& span, int head, int from, int until, const Tile& tile, Sums& sums,
                    Room& room, Ahead& ahead) {
  score_on_vectors(job, span, head, from, until, room, ahead);
  soften(job, tile, from, sums, room, ahead);
  const bf16* values[kKeys];
  rows_or_zeros(job, span, job.v, head, from, until, values);
  add_values_of(job, values, tile.queries_of(job), room.weights[0], sums.values, ahead);
}

}  // namespace

// Heads of one block lie side by side, so all heads of the same positions come before the next positions: memory and
// the tables of its pages are read in order.
void segment(const Job& job, const Span& span, const Part& part, Sums* sums) {
  Room& room = own<Room>();
  for (int h = 0; h < part.heads; ++h) {
    prepare(job, span, part.head + h, 0, room.tiles[h]);
    clear(sums[h], room.tiles[h].queries_of(job) * kMostWidth);
  }
  const bool tiles = on_tiles();
  prepare_tiles(room.tiles[0].queries_of(job));
  const int until = std::min(span.start + span.rows, part.from + kSegment);
  const auto fetched = [&](int from, int h) {
    const int at = from + h / part.heads * kKeys;
    return Ahead(job, span, part.head + h % part.heads, at, std::min(until, at + kKeys));
  };
  // There is nothing before the first ones in whose time they could be fetched.
  const int before = tiles ? kAhead : kAheadOnVectors;
  for (int h = 0; h < before; ++h) fetched(part.from, h).all();
  for (int at = part.from; at < until; at += kKeys) {
    for (int h = 0; h < part.heads; ++h) {
      const int head = part.head + h;
      Ahead ahead = fetched(at, h + before);
      const Tile& tile = room.tiles[h];
      if (!tile.sees(job, at)) continue;
      (tiles ? add_on_tiles : add_on_vectors)(job, span, head, at, until, tile, sums[h], room, ahead);
    }
  }
}

void merge(const Job& job, int queries, Sums& total, const Sums& part) {
  const Worths worths = join(total, part);
  alignas(64) float one[kQueries], two[kQueries];
  _mm512_store_ps(one, worths.one);
  _mm512_store_ps(two, worths.two);
  for (int q = 0; q < queries; ++q)
    for (int e = q * kMostWidth; e < q * kMostWidth + job.width; e += 16) {
      const __m512 left = _mm512_mul_ps(_mm512_load_ps(total.values + e), _mm512_set1_ps(one[q]));
      const __m512 right = _mm512_mul_ps(_mm512_load_ps(part.values + e), _mm512_set1_ps(two[q]));
      _mm512_store_ps(total.values + e, _mm512_add_ps(left, right));
    }
}

void put(const Job& job, const Span& span, int head, const Sums& sums) {
  const int group = job.group();
  for (int q = 0; q < span.rows * group; ++q) {
    bf16* target = job.out + (span.first_row + q / group) * job.out_stride + (head * group + q % group) * job.width;
    const __m512 share = _mm512_set1_ps(1.0f / sums.total[q]);
    for (int e = 0; e < job.width; e += 16)
      store_bf16(target + e, _mm512_mul_ps(_mm512_load_ps(sums.values + q * kMostWidth + e), share));
  }
}

}  // namespace diptych::attention
