// Products of bfloat16 on vectors, for processors without tiles: every sum goes over its pairs in order.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "vector.h"

namespace diptych {

// Four bytes in each of 16 places.
inline __m512i spread_word(const void* word) {
  int32_t value;
  std::memcpy(&value, word, sizeof(value));
  return _mm512_set1_epi32(value);
}

inline __m512 spread_pair(const bf16* pair) { return _mm512_castsi512_ps(spread_word(pair)); }

inline __m512 add_pairs(__m512 sums, __m512 one, __m512 two) {
  return _mm512_dpbf16_ps(sums, reinterpret_cast<__m512bh>(one), reinterpret_cast<__m512bh>(two));
}

// sums[row] += pairs of that row, spread, times lines of 16 pairs; `stride`: elements from row to row.
template <int kRows>
inline void add_rows(__m512 (&sums)[kRows], const bf16* rows, int64_t stride, const bf16* lines, int pairs) {
  for (int pair = 0; pair < pairs; ++pair) {
    const __m512 line = _mm512_loadu_ps(lines + 32 * pair);
    for (int row = 0; row < kRows; ++row)
      sums[row] = add_pairs(sums[row], line, spread_pair(rows + row * stride + 2 * pair));
  }
}

}  // namespace diptych
