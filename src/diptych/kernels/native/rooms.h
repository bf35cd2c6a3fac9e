// Memory that a thread keeps for its whole life: fresh memory in every step costs page faults.
#pragma once

#include <memory>

namespace diptych {

template <typename T>
T& own() {
  thread_local const std::unique_ptr<T> room = std::make_unique<T>();
  return *room;
}

}  // namespace diptych
