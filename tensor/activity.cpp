#include "tensor/activity.h"

#include <utility>

namespace offramp {

void Activity::begin(std::string action) {
  {
    std::lock_guard lock(mutex_);
    action_ = std::move(action);
    peer_.clear();
  }
  beat();
}

void Activity::wait_for(std::string peer) {
  std::lock_guard lock(mutex_);
  peer_ = std::move(peer);
}

std::string Activity::text() const {
  std::lock_guard lock(mutex_);
  return peer_.empty() ? action_ : action_ + ", waiting for " + peer_;
}

}  // namespace offramp
