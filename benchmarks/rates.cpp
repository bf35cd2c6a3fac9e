// What the machine itself can do: bytes read in order, and bfloat16 products of what is in tiles or registers already.
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <thread>
#include <vector>

namespace {

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

constexpr int64_t kFlopsOfTiles = 16 * 16 * 32 * 2, kFlopsOfVectors = 32 * 2;
constexpr int kSums = 16;  // of vectors: enough that no product waits for the one before
constexpr int kPermitTiles = 0x1023, kTileData = 18;  // arch_prctl's request, and the feature it is for

double now_s() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

template <typename F>
double on_threads(int threads, F&& body) {
  const double began_s = now_s();
  std::vector<std::thread> helpers;
  for (int i = 1; i < threads; ++i) helpers.emplace_back(body, i);
  body(0);
  for (auto& helper : helpers) helper.join();
  return now_s() - began_s;
}

}  // namespace

// Bytes a second over `bytes` for each thread, read once.
extern "C" double stream_rate(const char* memory, int64_t bytes, int threads) {
  std::vector<int64_t> seen(threads * 8);
  const double taken_s = on_threads(threads, [&](int thread) {
    const char* at = memory + thread * bytes;
    __m512i sums[4] = {};
    for (int64_t i = 0; i + 256 <= bytes; i += 256)
      for (int lane = 0; lane < 4; ++lane)
        sums[lane] = _mm512_add_epi64(sums[lane], _mm512_loadu_si512(at + i + 64 * lane));
    seen[thread * 8] = _mm512_reduce_add_epi64(
        _mm512_add_epi64(_mm512_add_epi64(sums[0], sums[1]), _mm512_add_epi64(sums[2], sums[3])));
  });
  return seen[0] == 1 ? 0.0 : threads * static_cast<double>(bytes) / taken_s;
}

// Operations a second of `products` tile products for each thread.
extern "C" double tile_rate(int64_t products, int threads) {
  syscall(SYS_arch_prctl, kPermitTiles, kTileData);
  const double taken_s = on_threads(threads, [&](int) {
    const TileConfig config;
    _tile_loadconfig(&config);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    for (int64_t i = 0; i < products / 4; ++i) {
      _tile_dpbf16ps(0, 4, 5);
      _tile_dpbf16ps(1, 4, 5);
      _tile_dpbf16ps(2, 4, 5);
      _tile_dpbf16ps(3, 4, 5);
    }
    _tile_release();
  });
  return threads * static_cast<double>(products / 4 * 4) * kFlopsOfTiles / taken_s;
}

// The same of vectors of 512 bits.
extern "C" double vector_rate(int64_t products, int threads) {
  std::vector<float> seen(threads * 16);
  const double taken_s = on_threads(threads, [&](int thread) {
    __m512 sums[kSums];
    for (int sum = 0; sum < kSums; ++sum) sums[sum] = _mm512_set1_ps(static_cast<float>(sum));
    __m512bh one = reinterpret_cast<__m512bh>(_mm512_set1_epi16(0x3f80)), two = one;
    for (int64_t i = 0; i < products / kSums; ++i) {
      asm volatile("" : "+v"(one), "+v"(two));
      for (int sum = 0; sum < kSums; ++sum) sums[sum] = _mm512_dpbf16_ps(sums[sum], one, two);
    }
    for (int sum = 1; sum < kSums; ++sum) sums[0] = _mm512_add_ps(sums[0], sums[sum]);
    seen[thread * 16] = _mm512_reduce_add_ps(sums[0]);
  });
  return seen[0] == 1 ? 0.0 : threads * static_cast<double>(products / kSums * kSums) * kFlopsOfVectors / taken_s;
}
