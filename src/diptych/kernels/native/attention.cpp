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

namespace diptych::attention {
namespace {

constexpr int kTasksForEach = 4;       // tasks for each thread, so that none waits long for the last one
constexpr float kLog2E = 1.44269504f;  // weights are powers of two: scores are scaled for them

// A task: some query tiles of a prompt, or a part of a decode and where its sums go.
struct Work {
  int span, row;
  bool few;
  Part part;
  int sums;
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
int add_few(const Job& job, int count, std::vector<Work>& work) {
  int segments = 0, sums = 0;
  for (int s = 0; s < count; ++s)
    if (is_few(job, job.spans[s])) segments += segments_of(job, job.spans[s]);
  const int together = heads_together(job, segments);
  for (int s = 0; s < count; ++s) {
    const Span& span = job.spans[s];
    if (!is_few(job, span)) continue;
    for (int i = 0; i < segments_of(job, span); ++i, sums += job.kv_heads)
      for (int head = 0; head < job.kv_heads; head += together)
        work.push_back({s, 0, true,
                        {head, std::min(together, job.kv_heads - head), begin_of(job, span.start) + i * kSegment},
                        sums + head});
  }
  return sums;
}

// The last rows first: they see most.
void add_prompts(const Job& job, int count, std::vector<Work>& work) {
  const int rows = job.rows_of_tile() * kTilesTogether;
  for (int s = 0; s < count; ++s) {
    if (is_few(job, job.spans[s])) continue;
    for (int row = (job.spans[s].rows - 1) / rows * rows; row >= 0; row -= rows)
      for (int head = 0; head < job.kv_heads; ++head) work.push_back({s, row, false, {head, 1, 0}, 0});
  }
}

void merge_few(const Job& job, int count, Sums* sums) {
  for (int s = 0; s < count; ++s) {
    const Span& span = job.spans[s];
    if (!is_few(job, span)) continue;
    const int segments = segments_of(job, span);
    for (int head = 0; head < job.kv_heads; ++head) {
      for (int i = 1; i < segments; ++i)
        merge(job, span.rows * job.group(), sums[head], sums[i * job.kv_heads + head]);
      put(job, span, head, sums[head]);
    }
    sums += segments * job.kv_heads;
  }
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
  work.clear();
  const int parts = add_few(job, count, work);
  add_prompts(job, count, work);
  static std::vector<Sums> room;
  if (room.size() < static_cast<size_t>(parts)) room.resize(parts);
  Sums* sums = room.data();
  parallel_for(static_cast<int>(work.size()), [&](int task) {
    const Work& it = work[task];
    if (it.few)
      segment(job, job.spans[it.span], it.part, sums + it.sums);
    else
      prompt(job, job.spans[it.span], it.part.head, it.row);
  });
  merge_few(job, count, sums);
}
