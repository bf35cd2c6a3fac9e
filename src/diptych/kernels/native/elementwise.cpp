// What each row computes on its own: norms, rotary embedding, activation, the store into paged memory. bfloat16 in
// and out, float32 in between; rounded where torch rounds when these are separate operations on bfloat16.
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "pool.h"
#include "vector.h"

namespace diptych {
namespace {

constexpr int64_t kMostHeadWidth = 512;
constexpr int64_t kElementsOfTask = 16384;  // below it, another thread costs more than it saves

template <typename F>
void by_rows(int64_t rows, int64_t width, F&& body) {
  const int64_t each = std::max<int64_t>(1, kElementsOfTask / std::max<int64_t>(1, width));
  parallel_for(static_cast<int>((rows + each - 1) / each), [&](int task) {
    for (int64_t row = task * each; row < std::min(rows, (task + 1) * each); ++row) body(row);
  });
}

__mmask16 mask_of(int64_t left) { return left >= 16 ? 0xFFFF : static_cast<__mmask16>((1u << left) - 1); }

void norm(const bf16* x, const bf16* weight, int64_t width, float eps, bf16* out) {
  __m512 squares = _mm512_setzero_ps();
  for (int64_t i = 0; i < width; i += 16) {
    const __m512 value = load_bf16(x + i, mask_of(width - i));
    squares = _mm512_fmadd_ps(value, value, squares);
  }
  const float scale = 1.0f / std::sqrt(_mm512_reduce_add_ps(squares) / static_cast<float>(width) + eps);
  for (int64_t i = 0; i < width; i += 16) {
    const __mmask16 there = mask_of(width - i);
    const __m512 value = _mm512_mul_ps(load_bf16(x + i, there), _mm512_set1_ps(scale));
    store_bf16(out + i, _mm512_mul_ps(value, load_bf16(weight + i, there)), there);
  }
}

// Pairs (i, i + half); products are rounded, as they are when torch multiplies and then adds.
void rotate(const bf16* source, const bf16* cosine, const bf16* sine, int64_t half, bf16* target) {
  for (int64_t i = 0; i < half; i += 16) {
    const __mmask16 there = mask_of(half - i);
    const __m512 c = load_bf16(cosine + i, there), s = load_bf16(sine + i, there);
    const __m512 low = load_bf16(source + i, there), high = load_bf16(source + half + i, there);
    const __m512 lc = rounded(_mm512_mul_ps(low, c)), hs = rounded(_mm512_mul_ps(high, s));
    const __m512 hc = rounded(_mm512_mul_ps(high, c)), ls = rounded(_mm512_mul_ps(low, s));
    store_bf16(target + i, _mm512_sub_ps(lc, hs), there);
    store_bf16(target + half + i, _mm512_add_ps(hc, ls), there);
  }
}

// gate · σ(argument(gate)) · up of [rows, 2·width]; the gate is rounded before the product with up.
template <typename F>
void gate_mul(const bf16* x, int64_t rows, int64_t width, bf16* out, F&& argument) {
  by_rows(rows, 2 * width, [&](int64_t row) {
    const bf16* gate = x + row * 2 * width;
    for (int64_t i = 0; i < width; i += 16) {
      const __mmask16 there = mask_of(width - i);
      const __m512 g = load_bf16(gate + i, there), up = load_bf16(gate + width + i, there);
      // σ(a) = 1 / (1 + e^−a) from e^−|a|, which never overflows.
      const __m512 a = argument(g);
      const __m512 e = exp_negative(_mm512_sub_ps(_mm512_setzero_ps(), _mm512_abs_ps(a)));
      const __m512 one = _mm512_set1_ps(1.0f);
      const __mmask16 negative = _mm512_cmp_ps_mask(a, _mm512_setzero_ps(), _CMP_LT_OQ);
      const __m512 share = _mm512_div_ps(_mm512_mask_mov_ps(one, negative, e), _mm512_add_ps(one, e));
      store_bf16(out + row * width + i, _mm512_mul_ps(rounded(_mm512_mul_ps(g, share)), up), there);
    }
  });
}

// bfloat16 as whole numbers in the same order; both zeros are one number.
__m512i ordered(__m512i raw) {
  const __m512i folded = _mm512_xor_si512(raw, _mm512_srli_epi16(_mm512_srai_epi16(raw, 15), 1));
  return _mm512_mask_mov_epi16(folded, _mm512_cmpeq_epi16_mask(raw, _mm512_set1_epi16(INT16_MIN)),
                               _mm512_setzero_si512());
}

int16_t highest(__m512i values) {
  alignas(64) int16_t all[32];
  _mm512_store_si512(all, values);
  return *std::max_element(all, all + 32);
}

// The first of the highest, and whether every element is finite: an exponent of all ones is not.
void likeliest(const bf16* x, int64_t width, int64_t* id, uint8_t* finite) {
  const __m512i exponent = _mm512_set1_epi16(0x7F80);
  const auto there = [width](int64_t i) {
    return width - i >= 32 ? ~__mmask32{0} : static_cast<__mmask32>((uint32_t{1} << (width - i)) - 1);
  };
  __m512i most = _mm512_set1_epi16(INT16_MIN);
  __mmask32 broken = 0;
  for (int64_t i = 0; i < width; i += 32) {
    const __m512i raw = _mm512_maskz_loadu_epi16(there(i), x + i);
    broken |= _mm512_cmpeq_epi16_mask(_mm512_and_si512(raw, exponent), exponent);
    most = _mm512_mask_max_epi16(most, there(i), most, ordered(raw));
  }
  *finite = broken == 0;
  *id = 0;
  const __m512i wanted = _mm512_set1_epi16(highest(most));
  for (int64_t i = 0; i < width; i += 32) {
    const __m512i raw = _mm512_maskz_loadu_epi16(there(i), x + i);
    const __mmask32 equal = _mm512_mask_cmpeq_epi16_mask(there(i), ordered(raw), wanted);
    if (equal != 0) {
      *id = i + __builtin_ctz(equal);
      return;
    }
  }
}

}  // namespace
}  // namespace diptych

using namespace diptych;

// x: [rows, inner, width] with any stride between rows; out is contiguous.
extern "C" void dp_rms_norm(const uint16_t* x, int64_t rows, int64_t stride, int64_t inner, int64_t width,
                            const uint16_t* weight, float eps, uint16_t* out) {
  by_rows(rows, inner * width, [&](int64_t row) {
    for (int64_t i = 0; i < inner; ++i)
      norm(x + row * stride + i * width, weight, width, eps, out + (row * inner + i) * width);
  });
}

// Sums of two rows, [rows, width] each, and the norm of the sums.
extern "C" void dp_add_norm(const uint16_t* x, const uint16_t* more, int64_t rows, int64_t width,
                            const uint16_t* weight, float eps, uint16_t* sums, uint16_t* out) {
  by_rows(rows, width, [&](int64_t row) {
    const int64_t at = row * width;
    for (int64_t i = 0; i < width; i += 16) {
      const __mmask16 there = mask_of(width - i);
      store_bf16(sums + at + i, _mm512_add_ps(load_bf16(x + at + i, there), load_bf16(more + at + i, there)), there);
    }
    norm(sums + at, weight, width, eps, out + at);
  });
}

// Rows of a merged projection [q heads | k heads | v heads], `stride` apart: q to out [rows, heads, width], k and v to
// slots[row] = block · S + slot of their planes [blocks, kv_heads, S, width]. Norms may be null.
extern "C" void dp_place(const uint16_t* qkv, int64_t rows, int64_t stride, int64_t heads, int64_t kv_heads,
                         int64_t width, const uint16_t* query_norm, const uint16_t* key_norm, float eps,
                         const uint16_t* cosine, const uint16_t* sine, const int64_t* slots, int64_t block_tokens,
                         uint16_t* keys, uint16_t* values, uint16_t* out) {
  const int64_t half = width / 2;
  by_rows(rows, (heads + 2 * kv_heads) * width, [&](int64_t row) {
    alignas(64) bf16 normed[kMostHeadWidth];
    const bf16* head = qkv + row * stride;
    const bf16 *c = cosine + row * half, *s = sine + row * half;
    const auto turned = [&](const bf16* weight, bf16* target) {
      if (weight) norm(head, weight, width, eps, normed);
      rotate(weight ? normed : head, c, s, half, target);
      head += width;
    };
    const auto place = [&](int64_t h) {
      return (((slots[row] / block_tokens) * kv_heads + h) * block_tokens + slots[row] % block_tokens) * width;
    };
    for (int64_t h = 0; h < heads; ++h) turned(query_norm, out + (row * heads + h) * width);
    for (int64_t h = 0; h < kv_heads; ++h) turned(key_norm, keys + place(h));
    for (int64_t h = 0; h < kv_heads; ++h, head += width)
      std::memcpy(values + place(h), head, static_cast<size_t>(width) * sizeof(bf16));
  });
}

// silu(gate) · up of [rows, 2·width].
extern "C" void dp_silu_mul(const uint16_t* x, int64_t rows, int64_t width, uint16_t* out) {
  gate_mul(x, rows, width, out, [](__m512 g) { return g; });
}

// gelu(gate) · up of [rows, 2·width] with the tanh form of gelu: ½ (1 + tanh u) = 1 / (1 + e^−2u).
extern "C" void dp_gelu_mul(const uint16_t* x, int64_t rows, int64_t width, uint16_t* out) {
  gate_mul(x, rows, width, out, [](__m512 g) {
    const __m512 cubic = _mm512_mul_ps(_mm512_set1_ps(0.044715f), _mm512_mul_ps(g, _mm512_mul_ps(g, g)));
    return _mm512_mul_ps(_mm512_set1_ps(1.5957691216f), _mm512_add_ps(g, cubic));  // 2 √(2/π)
  });
}

// Of each row of [rows, width] the first of the highest elements, and whether all are finite.
extern "C" void dp_likeliest(const uint16_t* x, int64_t rows, int64_t width, int64_t* ids, uint8_t* finite) {
  by_rows(rows, width, [&](int64_t row) { likeliest(x + row * width, width, ids + row, finite + row); });
}
