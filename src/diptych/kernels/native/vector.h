// Small helpers on 16 floats.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace diptych {

using bf16 = uint16_t;

inline __m512 widen(__m256i narrow) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow), 16));
}

inline __m512 load_bf16(const bf16* at) { return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at))); }

inline __m512 load_bf16(const bf16* at, __mmask16 there) { return widen(_mm256_maskz_loadu_epi16(there, at)); }

inline __m256i narrow(__m512 value) { return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(value)); }

inline void store_bf16(bf16* at, __m512 value) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(at), narrow(value)); }

inline void store_bf16(bf16* at, __m512 value, __mmask16 there) { _mm256_mask_storeu_epi16(at, there, narrow(value)); }

inline __m512 rounded(__m512 value) { return widen(narrow(value)); }

// e^x for x ≤ 0, to about two units in the last place; 0 for −inf. Cephes' polynomial for e^r, |r| ≤ ln 2 / 2.
inline __m512 exp_negative(__m512 x) {
  const __m512 low = _mm512_set1_ps(-87.0f);
  const __mmask16 tiny = _mm512_cmp_ps_mask(x, low, _CMP_LT_OQ);
  x = _mm512_max_ps(x, low);
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 8);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 p = _mm512_set1_ps(1.9875691500e-4f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
  p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
  return _mm512_maskz_mov_ps(_mm512_knot(tiny), _mm512_scalef_ps(p, n));
}

// 2^x for x ≤ 0, exact for whole numbers; 0 below −125, where results would be denormal, which is slow, and for −inf.
// The polynomial has the least largest relative error of fourth degree on |f| ≤ ½ that is 1 at 0: 2.9e-6. Adding
// 1.5 · 2^23 leaves the nearest whole number in the lowest bits, from where it is shifted into the exponent.
inline __m512 power_of_two(__m512 x) {
  const __m512 shifter = _mm512_set1_ps(12582912.0f);
  const __mmask16 seen = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-125.0f), _CMP_GE_OQ);
  const __m512 shifted = _mm512_add_ps(x, shifter);
  const __m512 f = _mm512_sub_ps(x, _mm512_sub_ps(shifted, shifter));
  __m512 p = _mm512_set1_ps(0.009582853077f);
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.05590642494f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.2402409861f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.6931241934f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
  const __m512i exponent = _mm512_slli_epi32(_mm512_castps_si512(shifted), 23);
  return _mm512_castsi512_ps(_mm512_maskz_add_epi32(seen, _mm512_castps_si512(p), exponent));
}

// 16 elements of 16 bits, and 16 others: each beside its partner.
inline __m512i side_by_side(__m512i both) {
  alignas(64) static const uint16_t kOrder[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                  8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return _mm512_permutexvar_epi16(_mm512_load_si512(kOrder), both);
}

inline __m512i side_by_side(__m256i one, __m256i two) {
  return side_by_side(_mm512_inserti64x4(_mm512_castsi256_si512(one), two, 1));
}

// The same of two floats each, rounded.
inline __m512i side_by_side(__m512 one, __m512 two) {
  return side_by_side(reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(two, one)));
}

inline __m256i load_16(const bf16* at) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)); }

// A 16 × 16 square of 32 bits, lines to columns.
inline void transpose(__m512 (&r)[16]) {
  __m512 t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_shuffle_ps(t[i], t[i + 2], 0x44);
    r[i + 1] = _mm512_shuffle_ps(t[i], t[i + 2], 0xEE);
    r[i + 2] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    r[i + 3] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0xEE);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xDD);
    t[i + 8] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xDD);
  }
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0xDD);
    r[i + 4] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0x88);
    r[i + 12] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0xDD);
  }
}

}  // namespace diptych
