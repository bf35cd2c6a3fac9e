#include "tiles.h"

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace diptych {
namespace {

constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
constexpr int kTileData = 18;               // XFEATURE_XTILEDATA

struct alignas(64) Config {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t bytes_per_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

constexpr int kMostRows = 16;

struct Configs {
  Config with[kMostRows + 1];

  Configs() {
    for (int rows = 1; rows < kMostRows; ++rows)
      for (int tile = kShortTiles; tile < 8; ++tile) with[rows].rows[tile] = static_cast<uint8_t>(rows);
  }
};

}  // namespace

bool allow_tiles() {
  static const bool allowed = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return allowed;
}

namespace {
bool used = false;
}  // namespace

void use_tiles(bool use) { used = use; }

bool on_tiles() { return used; }

void prepare_tiles() { prepare_tiles(kMostRows); }

void prepare_tiles(int short_rows) {
  if (!used) return;
  static const Configs configs;
  _tile_loadconfig(&configs.with[short_rows]);
}

}  // namespace diptych
