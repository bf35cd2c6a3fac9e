// Scores and sums of few queries on vectors, straight from the rows as they lie in memory.
//
// A score has eight sums, for the words (two elements each) that come to the same place of eight, added up by halves;
// prompts keep the same order (`attention_prompt.cpp`). So a key's row is an operand as it lies, and is loaded once for
// all queries. Values are paired, position with position, on their way from memory to the products.
#pragma once

#include <immintrin.h>

#include <algorithm>

#include "attention.h"
#include "products.h"

namespace diptych::attention {

constexpr int kKeysTogether = 8;   // of scores that are summed side by side: as many as a vector of 256 bits holds
constexpr int kSumsTogether = 16;  // of values: of 32 registers, the others hold what is multiplied
constexpr int kAheadOnVectors = 1;  // so many times 64 positions of one head; `kAhead` is for tiles and prompts
// Fetched ahead, as evenly as the work goes on: the more at once, the longer what is multiplied next waits behind them.
constexpr int kLinesOfScores = 4;  // for 16 elements of eight keys
constexpr int kLinesOfValues = 2;  // for 32 elements of two positions

// Rows of positions [from, from + 64): zeros stand for those from `until` on.
inline void rows_or_zeros(const Job& job, const Span& span, const bf16* plane, int head, int from, int until,
                          const bf16* (&at)[kKeys]) {
  alignas(64) static const bf16 kZeros[kMostWidth] = {};
  rows_at(job, span, plane, head, from, until, at);
  std::fill(at + std::clamp(until - from, 0, kKeys), at + kKeys, kZeros);
}

inline __m256 load_words(const bf16* at) { return _mm256_loadu_ps(reinterpret_cast<const float*>(at)); }

// The sum of each of eight vectors: places four apart first, then two, then neighbours.
inline __m256 add_up(const __m256 (&of)[kKeysTogether]) {
  __m256 four[4], two[2];
  for (int i = 0; i < 4; ++i)
    four[i] = _mm256_add_ps(_mm256_permute2f128_ps(of[i], of[i + 4], 0x20),
                            _mm256_permute2f128_ps(of[i], of[i + 4], 0x31));
  for (int i = 0; i < 2; ++i)
    two[i] = _mm256_add_ps(_mm256_shuffle_ps(four[2 * i], four[2 * i + 1], 0x44),
                           _mm256_shuffle_ps(four[2 * i], four[2 * i + 1], 0xEE));
  return _mm256_add_ps(_mm256_shuffle_ps(two[0], two[1], 0x88), _mm256_shuffle_ps(two[0], two[1], 0xDD));
}

// Scores of eight keys for some queries, of which one row lies so far behind the other.
template <int kRows>
void score_keys(const Job& job, const bf16* const* keys, const bf16* queries, float* lines, Ahead& ahead) {
  __m256 sums[kRows][kKeysTogether] = {};
  for (int e = 0; e < job.width; e += 16) {
    __m256bh words[kRows];
    for (int q = 0; q < kRows; ++q) words[q] = reinterpret_cast<__m256bh>(load_words(queries + q * job.width + e));
    ahead.some(kLinesOfScores);
    for (int key = 0; key < kKeysTogether; ++key) {
      const __m256bh word = reinterpret_cast<__m256bh>(load_words(keys[key] + e));
      for (int q = 0; q < kRows; ++q) sums[q][key] = _mm256_dpbf16_ps(sums[q][key], word, words[q]);
    }
  }
  for (int q = 0; q < kRows; ++q) _mm256_store_ps(lines + q * kKeys, add_up(sums[q]));
}

// Scores of 64 positions for the queries of one row: a line of positions for each.
inline void score_row(const Job& job, const bf16* const (&keys)[kKeys], const bf16* queries, float* lines,
                      Ahead& ahead) {
  for (int key = 0; key < kKeys; key += kKeysTogether) {
    int q = 0;
    for (; q + 2 <= job.group(); q += 2)
      score_keys<2>(job, keys + key, queries + q * job.width, lines + q * kKeys + key, ahead);
    if (q < job.group()) score_keys<1>(job, keys + key, queries + q * job.width, lines + q * kKeys + key, ahead);
  }
}

// Sums of `kRows` queries over `kPairs` times 32 elements.
template <int kRows, int kPairs>
void add_values(const bf16* const (&values)[kKeys], int e, const bf16* weights, float* sums, Ahead& ahead) {
  alignas(64) static const uint16_t kFirst[32] = {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                                  8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  const __m512i first = _mm512_load_si512(kFirst), second = _mm512_add_epi16(first, _mm512_set1_epi16(16));
  __m512 lines[kRows][2 * kPairs];
  for (int q = 0; q < kRows; ++q)
    for (int i = 0; i < 2 * kPairs; ++i) lines[q][i] = _mm512_load_ps(sums + q * kMostWidth + e + 16 * i);
  for (int position = 0; position < kKeys; position += 2) {
    __m512 weight[kRows];
    for (int q = 0; q < kRows; ++q) weight[q] = spread_pair(weights + q * kKeys + position);
#pragma GCC unroll 8
    for (int i = 0; i < kPairs; ++i) {
      ahead.some(kLinesOfValues);
      const __m512i one = _mm512_loadu_si512(values[position] + e + 32 * i);
      const __m512i two = _mm512_loadu_si512(values[position + 1] + e + 32 * i);
      const __m512 low = _mm512_castsi512_ps(_mm512_permutex2var_epi16(one, first, two));
      const __m512 high = _mm512_castsi512_ps(_mm512_permutex2var_epi16(one, second, two));
      for (int q = 0; q < kRows; ++q) {
        lines[q][2 * i] = add_pairs(lines[q][2 * i], low, weight[q]);
        lines[q][2 * i + 1] = add_pairs(lines[q][2 * i + 1], high, weight[q]);
      }
    }
  }
  for (int q = 0; q < kRows; ++q)
    for (int i = 0; i < 2 * kPairs; ++i) _mm512_store_ps(sums + q * kMostWidth + e + 16 * i, lines[q][i]);
}

// Some queries over all elements, as many at a time as there is room for sums.
template <int kRows>
void add_all_values(const Job& job, const bf16* const (&values)[kKeys], const bf16* weights, float* sums, Ahead& ahead) {
  constexpr int kPairs = kSumsTogether / 2 / kRows;
  int e = 0;
  for (; e + 32 * kPairs <= job.width; e += 32 * kPairs) add_values<kRows, kPairs>(values, e, weights, sums, ahead);
  for (; e < job.width; e += 32) add_values<kRows, 1>(values, e, weights, sums, ahead);
}

inline void add_values_of(const Job& job, const bf16* const (&values)[kKeys], int queries, const bf16* weights,
                          float* sums, Ahead& ahead) {
  int q = 0;
  const auto next = [&](auto rows) {
    for (; q + rows() <= queries; q += rows())
      add_all_values<rows()>(job, values, weights + q * kKeys, sums + q * kMostWidth, ahead);
  };
  next(std::integral_constant<int, 8>{});
  next(std::integral_constant<int, 4>{});
  next(std::integral_constant<int, 2>{});
  next(std::integral_constant<int, 1>{});
}

}  // namespace diptych::attention
