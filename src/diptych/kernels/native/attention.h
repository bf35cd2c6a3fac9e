// What both walks over paged memory share: the geometry, the queries, the scores, and the running base of the weights.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <limits>

#include "vector.h"

namespace diptych::attention {

constexpr int kQueries = 16;
constexpr int kKeys = 64;
constexpr int kSegment = 1024;
constexpr int kMostWidth = 256;
constexpr int kAhead = 2;        // so many times 64 positions of one head are fetched before they are used
constexpr float kSlack = 8.0f;   // a base moves when a score is 2^8 times as heavy: sums are rarely scaled again
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
  float scale;  // of scores, so that weights are powers of two

  int group() const { return heads / kv_heads; }
  int rows_of_tile() const { return std::max(1, kQueries / group()); }
};

// One query tile: queries as the second operand of the score product, and what each may see.
struct alignas(64) Tile {
  bf16 queries[kMostWidth / 32][16][kQueries][2];
  int32_t first[kQueries];  // positions [first, last] are seen; nothing if last < first
  int32_t last[kQueries];
  int row, rows;            // of the span
  int all_from, all_until;  // positions that each of them sees

  int queries_of(const Job& job) const { return rows * job.group(); }
  bool sees(const Job& job, int at) const { return at <= last[queries_of(job) - 1] && at + kKeys > first[0]; }
};

// Sums of one query tile over some positions. A weight is 2^(score − base).
struct alignas(64) Sums {
  float base[kQueries];
  float total[kQueries];
  float values[kQueries * kMostWidth];  // each walk has an order of its own
};

struct Keys {
  const bf16* at[4];
  int64_t stride[4];
};

// Keys whose 16 do not lie one after the other in memory.
struct alignas(64) KeyCopies {
  bf16 rows[kKeys][kMostWidth];
};

void clear(Sums& sums, int64_t values);

void prepare(const Job& job, const Span& span, int head, int row, Tile& tile);

// Where positions [from, from + 64) lie in one plane; null from `until` on.
void rows_at(const Job& job, const Span& span, const bf16* plane, int head, int from, int until,
             const bf16* (&at)[kKeys]);

Keys keys_of(const Job& job, const Span& span, int head, int at, int until, KeyCopies& room);

inline const bf16* slot(const Job& job, const Span& span, const bf16* plane, int head, int position) {
  const int64_t block = job.tables[span.table + position / job.block_tokens];
  return plane + ((block * job.kv_heads + head) * job.block_tokens + position % job.block_tokens) * job.width;
}

// The first of the positions over whose segments a query at `position` walks.
inline int begin_of(const Job& job, int position) {
  return job.window > 0 ? std::max(0, position - job.window + 1) / kSegment * kSegment : 0;
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

  void all() {
    while (piece_ < count_) some(pieces_[piece_].lines);
  }

 private:
  struct Piece {
    const char* at;
    int lines;
  };
  Piece pieces_[2 * kKeys];
  int count_ = 0, piece_ = 0;
};

// The highest score of each query, unscaled. Where a query may not look, its score becomes −inf.
inline __m512 highest(const Tile& tile, int from, float (&scores)[kKeys][kQueries]) {
  const bool all = tile.all_from <= from && from + kKeys <= tile.all_until;
  const __m512i first = _mm512_load_si512(tile.first), last = _mm512_load_si512(tile.last);
  __m512 most[4];
  for (int i = 0; i < 4; ++i) most[i] = _mm512_set1_ps(kNothing);
  for (int at = 0; at < kKeys; at += 4)
    for (int i = 0; i < 4; ++i) {
      __m512 line = _mm512_load_ps(scores[at + i]);
      if (!all) {
        const __m512i position = _mm512_set1_epi32(from + at + i);
        const __mmask16 seen = _mm512_cmple_epi32_mask(first, position) & _mm512_cmple_epi32_mask(position, last);
        line = _mm512_mask_mov_ps(_mm512_set1_ps(kNothing), seen, line);
        _mm512_store_ps(scores[at + i], line);
      }
      most[i] = _mm512_max_ps(most[i], line);
    }
  return _mm512_max_ps(_mm512_max_ps(most[0], most[1]), _mm512_max_ps(most[2], most[3]));
}

// A base that is finite where nothing has been seen: there any does.
inline __m512 finite(__m512 base) { return _mm512_max_ps(base, _mm512_set1_ps(-3e38f)); }

struct Moved {
  __m512 base;
  __m512 worth;   // of what was summed so far
  __mmask16 who;  // it is 1 for the others
};

// Bases follow the highest scores, when these are much higher.
inline Moved follow(__m512 most, Sums& sums) {
  const __m512 before = _mm512_load_ps(sums.base);
  const __mmask16 who = _mm512_cmp_ps_mask(most, _mm512_add_ps(before, _mm512_set1_ps(kSlack)), _CMP_GT_OQ);
  const __m512 base = _mm512_mask_mov_ps(before, who, most);
  const __m512 worth = _mm512_mask_mov_ps(_mm512_set1_ps(1.0f), who, power_of_two(_mm512_sub_ps(before, finite(base))));
  _mm512_store_ps(sums.base, base);
  _mm512_store_ps(sums.total, _mm512_mul_ps(_mm512_load_ps(sums.total), worth));
  return {finite(base), worth, who};
}

struct Worths {
  __m512 one, two;
};

// Two sums' bases and totals become one; what the values of each are worth then.
inline Worths join(Sums& total, const Sums& part) {
  const __m512 one = _mm512_load_ps(total.base), two = _mm512_load_ps(part.base);
  const __m512 most = _mm512_max_ps(one, two), base = finite(most);
  const __m512 a = power_of_two(_mm512_sub_ps(one, base)), b = power_of_two(_mm512_sub_ps(two, base));
  _mm512_store_ps(total.base, most);
  _mm512_store_ps(total.total, _mm512_add_ps(_mm512_mul_ps(_mm512_load_ps(total.total), a),
                                             _mm512_mul_ps(_mm512_load_ps(part.total), b)));
  return {a, b};
}

// A prompt: tiles of `row` and the rows behind it, `kTilesTogether` of them at most, over all that they see.
constexpr int kTilesTogether = 16;
void prompt(const Job& job, const Span& span, int head, int row);

// Spans of one query tile: one tile of each of some heads over one segment, and what follows.
struct Part {
  int head, heads, from;  // `from`: the segment's first position
};
void segment(const Job& job, const Span& span, const Part& part, Sums* sums);
void merge(const Job& job, int queries, Sums& total, const Sums& part);
void put(const Job& job, const Span& span, int head, const Sums& sums);
constexpr int kHeadsTogether = 8;

}  // namespace diptych::attention
