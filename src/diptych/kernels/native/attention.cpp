// Causal attention over paged memory, prompts and decodes by the same arithmetic.
//
// A query tile is up to 16 queries of one kv head: neighbouring rows of a span, each with the query heads that share
// the kv head. Keys come in tiles of 64 positions at fixed places; scores are computed transposed (positions × queries)
// so that block memory is an operand as it lies. Every 1,024 positions the sums are closed and merged into the total, in
// order. Decodes (`attention_few.cpp`) and prompts (`attention_prompt.cpp`) keep their operands in different orders, but
// every number is made by the same operations: a query's bits depend on its own row and positions only, not on its
// tile, its chunk, the batch or the threads.
#include "attention.h"

#include <cmath>
#include <vector>

#include "pool.h"
#include "rooms.h"

namespace diptych::attention {
namespace {

constexpr int kTasksForEach = 2;       // of decodes for each thread: few begin with nothing fetched
constexpr float kLog2E = 1.44269504f;  // weights are powers of two: scores are scaled for them

// A task: some query tiles of a prompt, or a part of a decode and where its sums go.
struct Work {
  int span, row;
  bool few;
  Part part;
  int sums;  // kWhole: the decode is done then
};
constexpr int kWhole = -1;

// For a decode that is whole: there is nothing to merge with.
struct Room {
  Sums sums[kHeadsTogether];
};

// A decode of several segments: where the sums of the first one are.
struct Merging {
  int span, sums;
};

bool is_few(const Job& job, const Span& span) { return span.rows <= job.rows_of_tile(); }

int segments_of(const Job& job, const Span& span) {
  return (span.start + span.rows - begin_of(job, span.start) + kSegment - 1) / kSegment;
}

// How many heads a task takes: as many as leave every thread some tasks.
int heads_together(const Job& job, int segments) {
  int heads = std::min(job.kv_heads, kHeadsTogether);
  while (heads > 1 && segments * (job.kv_heads / heads) < kTasksForEach * threads()) heads /= 2;
  return heads;
}

// Decodes first, each segment by itself; how many sums they need.
int add_few(const Job& job, int count, std::vector<Work>& work, std::vector<Merging>& merging) {
  int all = 0, sums = 0;
  for (int s = 0; s < count; ++s)
    if (is_few(job, job.spans[s])) all += segments_of(job, job.spans[s]);
  const int together = heads_together(job, all);
  for (int s = 0; s < count; ++s) {
    const Span& span = job.spans[s];
    if (!is_few(job, span)) continue;
    const int segments = segments_of(job, span);
    for (int i = 0; i < segments; ++i)
      for (int head = 0; head < job.kv_heads; head += together)
        work.push_back({s, 0, true,
                        {head, std::min(together, job.kv_heads - head), begin_of(job, span.start) + i * kSegment},
                        segments == 1 ? kWhole : sums + i * job.kv_heads + head});
    if (segments == 1) continue;
    merging.push_back({s, sums});
    sums += segments * job.kv_heads;
  }
  return sums;
}

// The last rows first: they see most.
void add_prompts(const Job& job, int count, std::vector<Work>& work) {
  const int rows = job.rows_of_tile() * kTilesTogether;
  for (int s = 0; s < count; ++s) {
    if (is_few(job, job.spans[s])) continue;
    for (int row = (job.spans[s].rows - 1) / rows * rows; row >= 0; row -= rows)
      for (int head = 0; head < job.kv_heads; ++head) work.push_back({s, row, false, {head, 1, 0}, kWhole});
  }
}

void put_all(const Job& job, const Span& span, const Part& part, const Sums* sums) {
  for (int h = 0; h < part.heads; ++h) put(job, span, part.head + h, sums[h]);
}

void merge_all(const Job& job, const Span& span, Sums* sums) {
  const int segments = segments_of(job, span);
  for (int head = 0; head < job.kv_heads; ++head)
    for (int i = 1; i < segments; ++i) merge(job, span.rows * job.group(), sums[head], sums[i * job.kv_heads + head]);
  put_all(job, span, {0, job.kv_heads, 0}, sums);
}

}  // namespace
}  // namespace diptych::attention

using namespace diptych;
using namespace diptych::attention;

extern "C" void dp_attention(const uint16_t* q, int64_t q_stride, const uint16_t* k, const uint16_t* v, uint16_t* out,
                             int64_t out_stride, const int32_t* spans, int count, const int32_t* tables, int heads,
                             int kv_heads, int width, int block_tokens, int window) {
  const Job job{q,     q_stride, k,     v,        out,   out_stride,   reinterpret_cast<const attention::Span*>(spans),
                tables, heads,   kv_heads, width, block_tokens, window, kLog2E / std::sqrt(static_cast<float>(width))};
  static std::vector<Work> work;
  static std::vector<Merging> merging;
  work.clear();
  merging.clear();
  const int parts = add_few(job, count, work, merging);
  add_prompts(job, count, work);
  static std::vector<Sums> room;
  if (room.size() < static_cast<size_t>(parts)) room.resize(parts);
  Sums* sums = room.data();
  parallel_for(static_cast<int>(work.size()), [&](int task) {
    const Work& it = work[task];
    const Span& span = job.spans[it.span];
    if (!it.few) return prompt(job, span, it.part.head, it.row);
    if (it.sums != kWhole) return segment(job, span, it.part, sums + it.sums);
    Room& whole = own<Room>();
    segment(job, span, it.part, whole.sums);
    put_all(job, span, it.part, whole.sums);
  });
  parallel_for(static_cast<int>(merging.size()),
               [&](int task) { merge_all(job, job.spans[merging[task].span], sums + merging[task].sums); });
}
