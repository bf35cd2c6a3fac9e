// How rows become tiles that a weight's tiles are multiplied with, and what comes of the sums.
//
// For bfloat16 weights a row stays as it is. For int8 weights it becomes whole numbers of 16 bits under one power of
// two, its largest value just below 2^15: values within a factor of 127 of the largest are exact, of smaller ones the
// error is half a unit. Upper and lower byte are two lines of tiles. Sums of products of whole numbers are exact, so
// their order can not matter at all.
//
// Knows: rows. Does not know: how weights are packed, threads.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "vector.h"

namespace diptych {

constexpr int kTileRows = 16;
constexpr int kTileBytes = 1024;

inline int64_t padded(int64_t size, int64_t step) { return (size + step - 1) / step * step; }

struct Source {
  const bf16* x;
  int64_t stride, rows, in;
};

struct Bf16Rows {
  static constexpr int64_t kIn = 32;  // inputs of a tile
  static constexpr int kFew = 16;     // rows that one tile holds
  static constexpr int kSquare = 32;  // rows that two tiles hold
  static constexpr bool kWhole = false;

  // Rows from `first` on as tiles [k][tile][16][32]; what is missing is zero.
  static void pack(const Source& from, int64_t first, int64_t rows, uint8_t* target, float*) {
    const int64_t steps = padded(from.in, kIn) / kIn, whole = from.in / kIn;
    const int64_t there = std::clamp<int64_t>(from.rows - first, 0, rows);
    const bf16* source = from.x + first * from.stride;
    const __mmask32 rest = (1u << (from.in % kIn)) - 1;
    for (int64_t k = 0; k < steps; ++k, target += rows * 64) {
      for (int64_t row = 0; row < there; ++row) {
        const bf16* at = source + row * from.stride + k * kIn;
        _mm512_storeu_si512(target + row * 64, k < whole ? _mm512_loadu_si512(at) : _mm512_maskz_loadu_epi16(rest, at));
      }
      for (int64_t row = there; row < rows; ++row) _mm512_storeu_si512(target + row * 64, _mm512_setzero_si512());
    }
  }

  // Sums of a row, from where those of its first tile lie.
  static const float* few(const float* sums, int64_t row) { return sums + row * 16; }
  static const float* square(const float* sums, int64_t row) { return sums + row / 16 * 512 + row % 16 * 16; }
  static __m512 total(const float* sums, int64_t) { return _mm512_load_ps(sums); }
};

struct WholeRows {
  static constexpr int64_t kIn = 64;
  static constexpr int kFew = 8;
  static constexpr int kSquare = 16;
  static constexpr bool kWhole = true;

  // Upper bytes of `rows` rows, then their lower bytes; `factors` gets the power of two of each row.
  static void pack(const Source& from, int64_t first, int64_t rows, uint8_t* target, float* factors) {
    const int64_t steps = padded(from.in, kIn) / kIn, apart = 2 * rows * 64;
    for (int64_t row = 0; row < rows; ++row) {
      uint8_t* line = target + row * 64;
      if (first + row >= from.rows) {
        factors[row] = 0;
        for (int64_t k = 0; k < steps; ++k, line += apart) {
          _mm512_storeu_si512(line, _mm512_setzero_si512());
          _mm512_storeu_si512(line + rows * 64, _mm512_setzero_si512());
        }
        continue;
      }
      const bf16* source = from.x + (first + row) * from.stride;
      const int exponent = top_exponent(source, from.in);
      factors[row] = exponent > kHighest ? NAN : std::ldexp(1.0f, exponent - kUnit);
      const __m512 scale = _mm512_set1_ps(std::ldexp(1.0f, kUnit - exponent));
      for (int64_t k = 0; k < steps; ++k, line += apart)
        for (int part = 0; part < 4; ++part) {
          const int64_t at = k * kIn + part * 16, left = from.in - at;
          const __mmask16 there = left >= 16 ? 0xffff : left > 0 ? static_cast<__mmask16>((1u << left) - 1) : 0;
          const __m512i value = _mm512_cvtps_epi32(_mm512_mul_ps(load_bf16(source + at, there), scale));
          const __m512i high = _mm512_srai_epi32(_mm512_add_epi32(value, _mm512_set1_epi32(128)), 8);
          const __m512i low = _mm512_sub_epi32(value, _mm512_slli_epi32(high, 8));
          store_bytes(line + part * 16, high);
          store_bytes(line + rows * 64 + part * 16, low);
        }
    }
  }

  static const float* few(const float* sums, int64_t row) { return sums + row * 16; }
  static const float* square(const float* sums, int64_t row) { return sums + row * 16; }

  // `below`: how far behind the sums of the upper bytes those of the lower ones lie.
  static __m512 total(const float* sums, int64_t below) {
    const __m512 high = _mm512_cvtepi32_ps(_mm512_load_si512(sums));
    const __m512 low = _mm512_cvtepi32_ps(_mm512_load_si512(sums + below));
    return _mm512_fmadd_ps(high, _mm512_set1_ps(256.0f), low);
  }

 private:
  static constexpr int kUnit = 141;     // 127 + 14: the exponent that is counted in ones becomes 2^14
  static constexpr int kLowest = 15;    // both factors stay normal numbers
  static constexpr int kHighest = 254;  // of what is finite

  // The biased exponent of the largest value. One whose upper byte would round beyond int8 counts as the next.
  static int top_exponent(const bf16* row, int64_t in) {
    const __m512i magnitude = _mm512_set1_epi16(0x7fff);
    __m512i most = _mm512_setzero_si512();
    for (int64_t at = 0; at < in; at += 32) {
      const __mmask32 there = in - at >= 32 ? ~0u : (1u << (in - at)) - 1;
      const __m512i bits = _mm512_and_si512(_mm512_maskz_loadu_epi16(there, row + at), magnitude);
      most = _mm512_max_epu16(most, bits);
    }
    const __m256i half = _mm256_max_epu16(_mm512_castsi512_si256(most), _mm512_extracti64x4_epi64(most, 1));
    const int bits = static_cast<int>(_mm512_reduce_max_epu32(_mm512_cvtepu16_epi32(half)));
    if (bits >= 0x7f80) return kHighest + 1;
    const int exponent = (bits + 1) >> 7;
    return exponent < kLowest ? kLowest : exponent > kHighest ? kHighest : exponent;
  }

  static void store_bytes(uint8_t* at, __m512i words) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(at), _mm512_cvtepi32_epi8(words));
  }
};

}  // namespace diptych
