// Context: where an operation runs, passed first everywhere. It owns nothing.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "tensor/activity.h"
#include "tensor/arena.h"

namespace offramp {

struct Cost {
  double flops = 0;  // a multiply-add counts two
  double bytes = 0;  // read and written, each operand once
  std::array<double, 3> product{};  // rows, columns, depth of a matrix product; of a sum of costs meaningless
  Cost& operator+=(const Cost& o) { flops += o.flops; bytes += o.bytes; return *this; }
};

// One operation, message or collective of plan mode.
struct Metered {
  const char* name = "";  // "linear", "all_reduce"
  Cost cost;              // of an operation
  int ranks = 0;          // of the group that it crosses; 0: an operation
  const char* wire = "";  // the kind of that group
  double sent = 0;        // bytes
};

// What plan mode counts: every operation by name, every message by the kind of group it crossed.
struct Meter {
  std::map<std::string, Cost> operations;
  std::map<std::string, double> sent_bytes;
  Cost total;
  std::vector<Metered>* each = nullptr;  // set: gets one by one what the others add up
  void count(const char* operation, Cost cost) {
    operations[operation] += cost;
    total += cost;
    if (each) each->push_back({.name = operation, .cost = cost});
  }
  void count_sent(const Metered& message) {
    sent_bytes[message.wire] += message.sent;
    if (each) each->push_back(message);
  }
};

// What really ran, by name: how often, how long, and what plan mode would have counted for it; and what was sent, as it counts it.
struct Profile {
  struct Entry {
    std::int64_t calls = 0;
    double seconds = 0;
    Cost cost;
  };
  std::map<std::string, Entry> operations;
  std::map<std::string, double> sent_bytes;
};

struct Context {
  Arena* scratch = nullptr;      // memory of one operation or one action; see Scratch
  Meter* meter = nullptr;        // set: plan mode. Operations and collectives are checked, counted, and return
  Profile* profile = nullptr;    // set: operations are timed
  Activity* activity = nullptr;  // what the watchdog prints
  std::function<void()> tick;    // called before every operation: lets messages progress
  void beat() const {
    if (activity) activity->beat();
    if (tick) tick();
  }
  bool planning() const { return meter != nullptr; }
};

// Scratch memory of a scope:  Scratch s(ctx);  Tensor t = s.tensor({n, h}, DType::f32);
class Scratch {
 public:
  explicit Scratch(Context& context) : arena_(*context.scratch), mark_(arena_.mark()) {}
  ~Scratch() { arena_.release(mark_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  Tensor tensor(Shape shape, DType dtype) { return arena_.tensor(shape, dtype); }

 private:
  Arena& arena_;
  std::size_t mark_;
};

}  // namespace offramp
