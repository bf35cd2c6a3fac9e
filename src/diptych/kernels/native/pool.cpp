#include "pool.h"

#include <immintrin.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <cstdint>
#include <thread>
#include <vector>

namespace diptych {
namespace {

// Which round (high half), how many tasks (20 bits), which is next (20 bits), in one word: who claims a task
// can not confuse two rounds.
constexpr int kTaskBits = 20;
constexpr uint64_t kTaskMask = (1u << kTaskBits) - 1;
constexpr int kSpins = 4000;  // about 50 µs: the gap between two operations of one layer is shorter

struct Pool {
  std::atomic<uint64_t> word{0};
  std::atomic<int> finished{0};
  std::atomic<uint32_t> bell{0};  // rings for every round, and for the end
  std::atomic<int> sleepers{0};
  std::atomic<bool> over{false};
  Task run = nullptr;
  void* context = nullptr;
  uint64_t round = 0;
  int wanted = 1;
  std::vector<std::thread> helpers;

  ~Pool() { stop(); }

  void stop() {
    over.store(true);
    ring();
    for (auto& helper : helpers) helper.join();
    helpers.clear();
    over.store(false);
  }

  void ring() {
    bell.fetch_add(1);
    if (sleepers.load() > 0) syscall(SYS_futex, &bell, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
  }

  void work() {
    for (;;) {
      uint64_t seen = word.load(std::memory_order_acquire);
      const int tasks = static_cast<int>((seen >> kTaskBits) & kTaskMask);
      const int next = static_cast<int>(seen & kTaskMask);
      if (next >= tasks) return;
      if (!word.compare_exchange_weak(seen, seen + 1, std::memory_order_acq_rel)) continue;
      run(next, context);
      finished.fetch_add(1, std::memory_order_release);
    }
  }

  void help() {
    while (!over.load()) {
      const uint32_t heard = bell.load();
      if (over.load()) return;
      work();
      for (int spins = 0; bell.load(std::memory_order_acquire) == heard; ++spins) {
        if (spins < kSpins) {
          _mm_pause();
          continue;
        }
        // The kernel compares once more: a bell that rang in between is not slept through.
        sleepers.fetch_add(1);
        syscall(SYS_futex, &bell, FUTEX_WAIT_PRIVATE, heard, nullptr, nullptr, 0);
        sleepers.fetch_sub(1);
      }
    }
  }
};

Pool& pool() {
  static Pool one;
  return one;
}

}  // namespace

int threads() { return pool().wanted; }

void set_threads(int threads) {
  Pool& it = pool();
  it.stop();
  it.wanted = threads < 1 ? 1 : threads;
  for (int i = 1; i < it.wanted; ++i) it.helpers.emplace_back([&it] { it.help(); });
}

void parallel(int tasks, Task run, void* context) {
  Pool& it = pool();
  if (tasks <= 0) return;
  if (it.wanted == 1 || tasks == 1) {
    for (int task = 0; task < tasks; ++task) run(task, context);
    return;
  }
  it.run = run;
  it.context = context;
  it.finished.store(0, std::memory_order_relaxed);
  it.round++;
  it.word.store((it.round << (2 * kTaskBits)) | (static_cast<uint64_t>(tasks) << kTaskBits),
                std::memory_order_release);
  it.ring();
  it.work();
  while (it.finished.load(std::memory_order_acquire) < tasks) _mm_pause();
}

}  // namespace diptych
