// One linear map of some rows, and what tiles and vectors share in computing it.
//
// Knows: where rows, weight and results lie. Does not know: how products are summed.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstdint>

#include "rows.h"
#include "vector.h"
#include "weights.h"

namespace diptych {

struct Linear {
  const bf16* x;
  int64_t x_stride;
  const uint8_t* weight;
  const float* scales;  // of whole rows of the weight, a full line for each block; or none
  const bf16* bias;
  void* out;
  int64_t out_stride;
  bool wide_out;
  int64_t rows, in, outputs;

  template <typename W>
  int64_t steps() const {
    return padded(in, W::Rows::kIn) / W::Rows::kIn;
  }
  Source source() const { return {x, x_stride, rows, in}; }
};

// Packed rows, and what the sums of each row are to be multiplied with, if anything.
struct Packed {
  uint8_t* tiles;
  float* factors;
};

// Memory of this thread, on a cache line, until the next call. Kept between calls: memory that is new is slow at first
// touch.
uint8_t* room_for(int64_t bytes);

void linear_on_tiles(int format, const Linear& job);
void linear_on_vectors(int format, const Linear& job);

// Of 16 outputs. Where there are none, one: times one plus bias rounds as plus bias does.
template <typename W>
__m512 scales(const Linear& job, int64_t column) {
  return W::kRowScales ? _mm512_loadu_ps(job.scales + column) : _mm512_set1_ps(1.0f);
}

// What the sums of one row by 16 outputs come to.
template <typename W>
__m512 finished(const float* sums, int64_t below, const float* factor, __m512 scale, __m512 bias) {
  if constexpr (W::Rows::kWhole) scale = _mm512_mul_ps(scale, _mm512_set1_ps(*factor));
  return _mm512_fmadd_ps(W::Rows::total(sums, below), scale, bias);
}

// Sums of `rows` rows from `first` on, by 16 outputs, to their place. `sums` says where those of a row lie, `below` how
// far behind those of its lower bytes do.
template <typename W, typename F>
void put(const Linear& job, int64_t first, int64_t rows, const float* factors, int64_t column, int64_t below,
         F&& sums) {
  const int64_t columns = std::min<int64_t>(16, job.outputs - column);
  const __mmask16 there = static_cast<__mmask16>((1u << columns) - 1);
  const __m512 scale = scales<W>(job, column);
  const __m512 bias = job.bias ? load_bf16(job.bias + column, there) : _mm512_setzero_ps();
  for (int64_t r = 0; r < rows; ++r) {
    const __m512 value = finished<W>(sums(r), below, factors + r, scale, bias);
    const int64_t at = (first + r) * job.out_stride + column;
    if (job.wide_out)
      _mm512_mask_storeu_ps(static_cast<float*>(job.out) + at, there, value);
    else
      store_bf16(static_cast<bf16*>(job.out) + at, value, there);
  }
}

}  // namespace diptych
