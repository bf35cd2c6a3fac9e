// A token drawn from each row of scores, by the rules of `Kernels.draw`.
//
// A row's token depends on its own scores and rule only: sums run over tokens in a fixed order, in doubles.
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

#include "pool.h"
#include "rooms.h"
#include "vector.h"

namespace diptych {
namespace {

constexpr int64_t kPiece = 512;   // tokens whose weights are summed together before a draw looks into them
constexpr int kBinShift = 19;     // bins of weights: exponent and four bits behind it; their order is that of the weights
constexpr int kBins = (0x3f800000 >> kBinShift) + 1;  // the last one holds the weight 1

struct Rule {
  double temperature, min_p, top_k, top_p, u;
};

struct Room {
  std::vector<float> weights;
  std::vector<double> pieces;
  std::vector<float> sorted;
  int64_t counts[kBins];
  double sums[kBins];
};

__mmask16 mask_of(int64_t at, int64_t width) {
  return static_cast<__mmask16>(width - at >= 16 ? 0xffff : (1u << (width - at)) - 1);
}

__m512 load(const float* at, __mmask16 there) { return _mm512_maskz_loadu_ps(there, at); }
__m512 load(const bf16* at, __mmask16 there) { return load_bf16(at, there); }

template <typename T>
float highest(const T* scores, int64_t width) {
  __m512 most = _mm512_set1_ps(-INFINITY);
  for (int64_t at = 0; at < width; at += 16) {
    const __mmask16 there = mask_of(at, width);
    most = _mm512_mask_max_ps(most, there, most, load(scores + at, there));
  }
  return _mm512_reduce_max_ps(most);
}

// The likeliest token weighs 1; what is less than `min_p` times as likely weighs nothing.
template <typename T>
void weigh(const T* scores, int64_t width, const Rule& rule, float* weights) {
  const __m512 most = _mm512_set1_ps(highest(scores, width));
  const __m512 temperature = _mm512_set1_ps(static_cast<float>(rule.temperature));
  const __m512 least = _mm512_set1_ps(static_cast<float>(rule.min_p));
  for (int64_t at = 0; at < width; at += 16) {
    const __mmask16 there = mask_of(at, width);
    const __m512 below = _mm512_sub_ps(load(scores + at, there), most);
    const __m512 weight = exp_negative(_mm512_div_ps(below, temperature));
    const __mmask16 kept = _mm512_cmp_ps_mask(weight, least, _CMP_GE_OQ);
    _mm512_mask_storeu_ps(weights + at, there, _mm512_maskz_mov_ps(kept, weight));
  }
}

int bin_of(float weight) {
  uint32_t bits;
  std::memcpy(&bits, &weight, sizeof bits);
  return static_cast<int>(bits >> kBinShift);
}

void fill_bins(int64_t width, Room& room) {
  std::fill(room.counts, room.counts + kBins, 0);
  std::fill(room.sums, room.sums + kBins, 0.0);
  int64_t weightless = 0;
  for (int64_t at = 0; at < width; ++at) {
    const float weight = room.weights[at];
    if (weight == 0.0f) {
      ++weightless;
      continue;
    }
    ++room.counts[bin_of(weight)];
    room.sums[bin_of(weight)] += weight;
  }
  room.counts[0] += weightless;
}

// The weights of one bin, the heaviest first.
const std::vector<float>& sorted_bin(int bin, int64_t width, Room& room) {
  if (bin == 0) {  // what weighs nothing, often nearly all
    room.sorted.assign(room.counts[0], 0.0f);
    return room.sorted;
  }
  room.sorted.clear();
  for (int64_t at = 0; at < width; ++at)
    if (bin_of(room.weights[at]) == bin) room.sorted.push_back(room.weights[at]);
  std::sort(room.sorted.begin(), room.sorted.end(), std::greater<float>());
  return room.sorted;
}

// The heaviest weights, bin by bin: whole bins down to `bin`, and of that one the first `some`.
struct Heaviest {
  int bin;
  int64_t some;
  double total;
};

Heaviest all(const Room& room) {
  Heaviest found{0, room.counts[0], 0.0};
  for (int bin = kBins - 1; bin >= 0; --bin) found.total += room.sums[bin];
  return found;
}

Heaviest first_k(int64_t k, int64_t width, Room& room) {
  Heaviest found{kBins - 1, k, 0.0};
  for (; found.bin > 0 && room.counts[found.bin] < found.some; --found.bin) {
    found.some -= room.counts[found.bin];
    found.total += room.sums[found.bin];
  }
  const std::vector<float>& last = sorted_bin(found.bin, width, room);
  for (int64_t i = 0; i < found.some; ++i) found.total += last[i];
  return found;
}

// The weight at which the running sum over the heaviest first reaches `share` of their total.
float floor_of(const Heaviest& heaviest, double share, int64_t width, Room& room) {
  const double wanted = share * heaviest.total;
  double running = 0.0;
  int bin = kBins - 1;
  for (; bin > heaviest.bin && running + room.sums[bin] < wanted; --bin) running += room.sums[bin];
  const std::vector<float>& last = sorted_bin(bin, width, room);
  const int64_t count = bin == heaviest.bin ? heaviest.some : static_cast<int64_t>(last.size());
  for (int64_t i = 0; i < count; ++i) {
    running += last[i];
    if (running >= wanted) return last[i];
  }
  return count ? last[count - 1] : 0.0f;
}

float least_kept(const Rule& rule, int64_t width, Room& room) {
  const bool few = rule.top_k > 0 && rule.top_k < width;
  if (!few && rule.top_p >= 1.0) return 0.0f;
  fill_bins(width, room);
  const Heaviest heaviest = few ? first_k(static_cast<int64_t>(rule.top_k), width, room) : all(room);
  return floor_of(heaviest, std::min(rule.top_p, 1.0), width, room);
}

// Drops what weighs less; sums of pieces, each in its own order.
void sum_pieces(float least, int64_t width, Room& room) {
  const __m512 least_16 = _mm512_set1_ps(least);
  room.pieces.clear();
  for (int64_t from = 0; from < width; from += kPiece) {
    __m512d low = _mm512_setzero_pd(), high = low;
    for (int64_t at = from; at < std::min(width, from + kPiece); at += 16) {
      const __mmask16 there = mask_of(at, width);
      const __m512 read = _mm512_maskz_loadu_ps(there, &room.weights[at]);
      const __m512 kept = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(read, least_16, _CMP_GE_OQ), read);
      _mm512_mask_storeu_ps(&room.weights[at], there, kept);
      low = _mm512_add_pd(low, _mm512_cvtps_pd(_mm512_castps512_ps256(kept)));
      high = _mm512_add_pd(high, _mm512_cvtps_pd(_mm512_extractf32x8_ps(kept, 1)));
    }
    room.pieces.push_back(_mm512_reduce_add_pd(_mm512_add_pd(low, high)));
  }
}

// The first token at which the running sum exceeds u times the total; one that weighs something in any case.
int64_t draw(double u, int64_t width, const Room& room) {
  double total = 0.0, running = 0.0;
  for (const double piece : room.pieces) total += piece;
  const double target = u * total;
  int64_t found = 0;
  for (size_t i = 0; i < room.pieces.size(); ++i) {
    if (room.pieces[i] <= 0.0) continue;
    const int64_t from = static_cast<int64_t>(i) * kPiece, until = std::min(width, from + kPiece);
    double within = running;
    if (running + room.pieces[i] <= target) {
      // Rounding may leave the target behind every piece: then the last token that weighs something is it.
      for (int64_t at = from; at < until; ++at)
        if (room.weights[at] > 0.0f) found = at;
    } else {
      for (int64_t at = from; at < until; ++at) {
        if (room.weights[at] <= 0.0f) continue;
        within += room.weights[at];
        found = at;
        if (within > target) return found;
      }
      return found;
    }
    running += room.pieces[i];
  }
  return found;
}

template <typename T>
int64_t token_of(const T* scores, int64_t width, const Rule& rule) {
  Room& room = own<Room>();
  room.weights.resize(width);
  weigh(scores, width, rule, room.weights.data());
  sum_pieces(least_kept(rule, width, room), width, room);
  return draw(rule.u, width, room);
}

}  // namespace
}  // namespace diptych

using namespace diptych;

extern "C" void dp_draw(const void* scores, int wide, int64_t rows, int64_t width, const double* rules, int64_t* ids) {
  const Rule* rule = reinterpret_cast<const Rule*>(rules);
  parallel_for(static_cast<int>(rows), [&](int row) {
    const int64_t at = row * width;
    ids[row] = wide ? token_of(static_cast<const float*>(scores) + at, width, rule[row])
                    : token_of(static_cast<const bf16*>(scores) + at, width, rule[row]);
  });
}
