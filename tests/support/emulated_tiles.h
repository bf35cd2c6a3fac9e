// AMX tiles in software, to be included before everything else: what is written for tiles can be tried on processors
// without them. As Intel describes the instructions (Software Developer's Manual, volume 2: TDPBF16PS, TDPBSSD,
// TILELOADD); rounding inside a product is that of ordinary float sums.
#pragma once

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>

namespace emulated {

struct Tiles {
  uint8_t config[64];
  uint8_t data[8][16][64];

  int bytes(int tile) const {
    uint16_t bytes;
    std::memcpy(&bytes, config + 16 + 2 * tile, sizeof(bytes));
    return bytes;
  }
  int rows(int tile) const { return config[48 + tile]; }
};

inline Tiles& tiles() {
  thread_local Tiles one = {};
  return one;
}

inline void configure(const void* from) {
  std::memset(&tiles(), 0, sizeof(Tiles));
  std::memcpy(tiles().config, from, 64);
}

inline void zero(int tile) { std::memset(tiles().data[tile], 0, sizeof(tiles().data[tile])); }

inline void load(int tile, const void* from, int64_t stride) {
  zero(tile);
  for (int row = 0; row < tiles().rows(tile); ++row)
    std::memcpy(tiles().data[tile][row], static_cast<const char*>(from) + row * stride, tiles().bytes(tile));
}

inline void store(int tile, void* to, int64_t stride) {
  for (int row = 0; row < tiles().rows(tile); ++row)
    std::memcpy(static_cast<char*>(to) + row * stride, tiles().data[tile][row], tiles().bytes(tile));
}

// What follows touches tiles only, and most of the time is spent here: it is not watched.
#define EMULATED_FAST __attribute__((no_sanitize("address", "undefined"), optimize("O2")))

EMULATED_FAST inline __m512 low_halves(__m512i words) { return _mm512_castsi512_ps(_mm512_slli_epi32(words, 16)); }

EMULATED_FAST inline __m512 high_halves(__m512i words) {
  return _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32(static_cast<int>(0xffff0000))));
}

EMULATED_FAST inline __m512i word_of(const uint8_t* row, int k) {
  int word;
  std::memcpy(&word, row + 4 * k, sizeof(word));
  return _mm512_set1_epi32(word);
}

EMULATED_FAST inline __mmask16 columns_of(int tile) {
  return static_cast<__mmask16>((1u << tiles().bytes(tile) / 4) - 1);
}

// Sums of even and of odd values are apart until the end.
EMULATED_FAST inline void multiply_bf16(int sums, int one, int two) {
  Tiles& it = tiles();
  for (int row = 0; row < it.rows(sums); ++row) {
    __m512 even = _mm512_setzero_ps(), odd = even;
    for (int k = 0; k < it.bytes(one) / 4; ++k) {
      const __m512i left = word_of(it.data[one][row], k), right = _mm512_loadu_si512(it.data[two][k]);
      even = _mm512_fmadd_ps(low_halves(left), low_halves(right), even);
      odd = _mm512_fmadd_ps(high_halves(left), high_halves(right), odd);
    }
    const __m512 line = _mm512_loadu_ps(it.data[sums][row]);
    _mm512_mask_storeu_ps(it.data[sums][row], columns_of(sums), _mm512_add_ps(line, _mm512_add_ps(even, odd)));
  }
}

EMULATED_FAST inline void multiply_int8(int sums, int one, int two) {
  Tiles& it = tiles();
  for (int row = 0; row < it.rows(sums); ++row) {
    __m512i line = _mm512_loadu_si512(it.data[sums][row]);
    for (int k = 0; k < it.bytes(one) / 4; ++k) {
      const __m512i right = _mm512_loadu_si512(it.data[two][k]);
      for (int i = 0; i < 4; ++i) {
        const __m512i left = _mm512_set1_epi32(static_cast<int8_t>(it.data[one][row][4 * k + i]));
        const __m512i value = _mm512_srai_epi32(_mm512_sllv_epi32(right, _mm512_set1_epi32(24 - 8 * i)), 24);
        line = _mm512_add_epi32(line, _mm512_mullo_epi32(left, value));
      }
    }
    _mm512_mask_storeu_epi32(it.data[sums][row], columns_of(sums), line);
  }
}

// Tiles are always granted; everything else is the kernel's business.
template <typename... Arguments>
long ask_kernel(long number, Arguments... arguments) {
  return number == SYS_arch_prctl ? 0 : ::syscall(number, arguments...);
}

}  // namespace emulated

#undef _tile_loadconfig
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stream_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#undef _tile_dpbssd
#define _tile_loadconfig(from) emulated::configure(from)
#define _tile_zero(tile) emulated::zero(tile)
#define _tile_loadd(tile, from, stride) emulated::load(tile, from, stride)
#define _tile_stream_loadd(tile, from, stride) emulated::load(tile, from, stride)
#define _tile_stored(tile, to, stride) emulated::store(tile, to, stride)
#define _tile_dpbf16ps(sums, one, two) emulated::multiply_bf16(sums, one, two)
#define _tile_dpbssd(sums, one, two) emulated::multiply_int8(sums, one, two)
#define syscall(...) emulated::ask_kernel(__VA_ARGS__)
