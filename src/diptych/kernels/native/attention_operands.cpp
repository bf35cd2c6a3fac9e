// Queries and keys as tiles take them.
#include <cstring>

#include "attention.h"

namespace diptych::attention {
namespace {

// Where 16 keys from `position` on lie one after the other: in their block, or in a copy.
bool in_place(const Job& job, int position, int until) { return job.block_tokens % 16 == 0 && position < until; }

void copy_keys(const Job& job, const Span& span, int head, int position, int until, bf16 (*rows)[kMostWidth]) {
  for (int i = 0; i < 16; ++i) {
    if (position + i < until) {
      std::memcpy(rows[i], slot(job, span, job.k, head, position + i), job.width * sizeof(bf16));
    } else {
      std::memset(rows[i], 0, job.width * sizeof(bf16));
    }
  }
}

}  // namespace

void clear(Sums& sums, int64_t values) {
  for (int q = 0; q < kQueries; ++q) {
    sums.base[q] = kNothing;
    sums.total[q] = 0;
  }
  std::memset(sums.values, 0, values * sizeof(float));
}

void prepare(const Job& job, const Span& span, int head, int row, Tile& tile) {
  const int group = job.group();
  tile.row = row;
  tile.rows = std::min(job.rows_of_tile(), span.rows - row);
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

Keys keys_of(const Job& job, const Span& span, int head, int at, int until, KeyCopies& room) {
  Keys keys;
  for (int i = 0; i < 4; ++i) {
    const int position = at + 16 * i;
    const bool there = in_place(job, position, until);
    if (!there) copy_keys(job, span, head, position, until, &room.rows[16 * i]);
    keys.at[i] = there ? slot(job, span, job.k, head, position) : room.rows[16 * i];
    keys.stride[i] = (there ? job.width : kMostWidth) * static_cast<int64_t>(sizeof(bf16));
  }
  return keys;
}

}  // namespace diptych::attention
