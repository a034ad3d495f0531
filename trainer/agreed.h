// Phases that all ranks of a job go through together.
#pragma once
#include <optional>

#include "comm/group.h"
#include "tensor/check.h"

namespace offramp {

// Runs one phase on every rank; if it fails on any of them, all throw the same error.
template <class F>
void agreed(const Group& world, Activity& activity, const char* phase, F&& body) {
  activity.begin(phase);
  Context ctx;
  ctx.activity = &activity;
  std::optional<Error> error;
  try {
    body();
  } catch (const AgreedError&) {
    throw;
  } catch (const Error& e) {
    error = e;
  }
  agree(ctx, world, error);
}

// Collective: whether every host has what its ranks will take, `bytes` this one. Throws AgreedError(Exit::memory).
void check_host_memory(const Group& world, Activity& activity, std::size_t bytes);

}  // namespace offramp
