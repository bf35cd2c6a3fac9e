// Tasks 0 … n − 1 on a few threads that live as long as the process.
//
// Knows: threads. Does not know: what tasks do. The caller takes part; one caller at a time.
#pragma once

namespace diptych {

using Task = void (*)(int task, void* context);

// From now on `parallel` uses this many threads, the caller's among them.
void set_threads(int threads);
int threads();

// Returns when all tasks are done. Tasks are handed out in order.
void parallel(int tasks, Task run, void* context);

template <typename F>
void parallel_for(int tasks, F&& body) {
  parallel(tasks, [](int task, void* context) { (*static_cast<F*>(context))(task); }, &body);
}

}  // namespace diptych
