// How a packed weight lies in memory, and how it becomes tiles.
//
// For each 16 outputs, for each 32 or 64 inputs, one tile of 16 lines by 16 outputs by 2 or 4 inputs. int8 is multiplied
// as it is (`rows.h` says with what), int4 is widened to int8 just before use. Behind the tiles lie a format's scales of
// whole rows.
//
// Knows: formats. Does not know: products.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "rows.h"
#include "vector.h"

namespace diptych {

constexpr int64_t kGroup = 32;  // inputs of one factor

// Values of one tile before packing, and the factors of both halves of its inputs.
template <typename W>
struct Unpacked {
  typename W::Value values[16][W::Rows::kIn] = {};
  int8_t factors[16][2] = {};
};

// Lines of as many inputs as fill a word, output by output.
template <typename W>
void pack_lines(const Unpacked<W>& from, uint8_t* to) {
  constexpr int kInputs = 4 / sizeof(typename W::Value);
  auto* target = reinterpret_cast<typename W::Value*>(to);
  for (int line = 0; line < 16; ++line)
    for (int n = 0; n < 16; ++n)
      for (int i = 0; i < kInputs; ++i) *target++ = from.values[n][line * kInputs + i];
}

struct Bf16Weight {
  using Rows = Bf16Rows;
  using Value = uint16_t;
  static constexpr int64_t kBytes = kTileBytes;
  static constexpr bool kNarrow = false, kRowScales = false;

  static void pack(const Unpacked<Bf16Weight>& from, uint8_t* to) { pack_lines(from, to); }
};

// One scale for a row: sums are multiplied with it at the end.
struct Int8Weight {
  using Rows = WholeRows;
  using Value = int8_t;
  static constexpr int64_t kBytes = kTileBytes;
  static constexpr bool kNarrow = false, kRowScales = true;

  static void pack(const Unpacked<Int8Weight>& from, uint8_t* to) { pack_lines(from, to); }
};

// One scale for a row, and for each 32 inputs a whole factor: level times factor is an int8. Each byte of 8 × 64 holds a
// nibble of a line and one of the next line. A nibble counts from the lowest level, so that one product of 16 bits
// makes two bytes without a carry; behind them lie each output's factor and what is to be taken off: lowest level times
// factor. A negative factor turns the levels around.
struct Int4Weight {
  using Rows = WholeRows;
  using Value = int8_t;
  static constexpr int64_t kBytes = 512 + 64;
  static constexpr bool kNarrow = true, kRowScales = true;

  static void pack(const Unpacked<Int4Weight>& from, uint8_t* to) {
    for (int n = 0; n < 16; ++n)
      for (int i = 0; i < Rows::kIn; ++i) {
        const int line = i / 4, factor = from.factors[n][i / kGroup], level = from.values[n][i];
        const int nibble = factor < 0 ? 7 - level : 8 + level;
        uint8_t& byte = to[line / 2 * 64 + n * 4 + i % 4];
        byte = line % 2 ? byte | static_cast<uint8_t>(nibble << 4) : static_cast<uint8_t>(nibble);
        const int size = factor < 0 ? -factor : factor;
        to[512 + i / kGroup * 32 + n] = static_cast<uint8_t>(size);
        to[512 + i / kGroup * 32 + 16 + n] = static_cast<uint8_t>((factor < 0 ? 7 : 8) * size);
      }
  }

  static void widen(const uint8_t* from, uint8_t* to) {
    const __m512i nibble = _mm512_set1_epi8(15);
    for (int half = 0; half < 2; ++half, to += 512) {
      const uint8_t* factors = from + 512 + half * 32;
      const __m512i words = _mm512_mullo_epi32(each(factors), _mm512_set1_epi32(0x00010001));
      const __m512i lowest = _mm512_mullo_epi32(each(factors + 16), _mm512_set1_epi32(0x01010101));
      for (int pair = 0; pair < 4; ++pair) {
        const __m512i codes = _mm512_loadu_si512(from + half * 256 + pair * 64);
        const __m512i first = _mm512_and_si512(codes, nibble);
        const __m512i second = _mm512_and_si512(_mm512_srli_epi16(codes, 4), nibble);
        _mm512_store_si512(to + pair * 128, _mm512_sub_epi8(_mm512_mullo_epi16(first, words), lowest));
        _mm512_store_si512(to + pair * 128 + 64, _mm512_sub_epi8(_mm512_mullo_epi16(second, words), lowest));
      }
    }
  }

 private:
  static __m512i each(const uint8_t* bytes) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
  }
};

// Calls `use` with the format that Python numbers so.
template <typename F>
auto with_format(int format, F&& use) {
  switch (format) {
    case 1:
      return use(Int8Weight{});
    case 2:
      return use(Int4Weight{});
    default:
      return use(Bf16Weight{});
  }
}

template <typename W>
int64_t tiles_bytes(int64_t outputs, int64_t in) {
  return padded(outputs, 16) / 16 * (padded(in, W::Rows::kIn) / W::Rows::kIn) * W::kBytes;
}

}  // namespace diptych
