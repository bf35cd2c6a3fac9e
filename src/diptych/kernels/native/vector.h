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

// 2^x for x ≤ 0, to about two units in the last place, exact for whole numbers; 0 for −inf. The polynomial has the
// least largest relative error of fifth degree on |f| ≤ ½ that is 1 at 0: 9.1e-8.
inline __m512 power_of_two(__m512 x) {
  const __m512 low = _mm512_set1_ps(-125.0f);  // below, results would be denormal, which is slow
  const __mmask16 seen = _mm512_cmp_ps_mask(x, low, _CMP_GE_OQ);
  x = _mm512_max_ps(x, low);
  const __m512 n = _mm512_roundscale_ps(x, 8);
  const __m512 f = _mm512_sub_ps(x, n);
  __m512 p = _mm512_set1_ps(0.001326472691f);
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.00967151266f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.05550733744f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.2402224208f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.6931469776f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
  return _mm512_maskz_scalef_ps(seen, p, n);
}

}  // namespace diptych
