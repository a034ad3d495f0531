#include "parallel/settle.h"

#include <tuple>

#include "parallel/step_schedule.h"
#include "tensor/check.h"

namespace offramp {
namespace {

// A schedule for the job, with what it takes.
struct Found {
  MachineOptions options;
  Schedule schedule;
  MemoryLimit::Excess excess;
  double seconds = 0;
};

// Those that can serve as many stages a rank.
std::vector<const char*> named_schedules(const MachineOptions& options, int ranks) {
  if (options.virtual_stages == 1) return {"gpipe", "1f1b", "zero_bubble"};
  if (options.microbatches % ranks == 0) return {"gpipe", "interleaved"};
  return {"gpipe"};
}

// The bytes of slabs depend on whether weight gradients are apart, on nothing else that is settled here.
class Settling {
 public:
  Settling(const MachineOptions& options, const Degrees& degrees)
      : options_(options), degrees_(degrees), nowhere_(Backing::none, kUnlimited), held_(options, Mesh::planned(0, degrees), nowhere_) {}

  Found best() {
    for (MachineOptions& variant : variants()) attempt(std::move(variant));
    return std::move(*best_);
  }

 private:
  // What may be chosen: of auto everything, of automatic placement the one that keeps least, too.
  std::vector<MachineOptions> variants() const {
    std::vector<MachineOptions> all{options_};
    if (options_.schedule_file) return all;
    const auto add = [&](std::string_view schedule, const char* placement, bool whole) {
      MachineOptions variant = options_;
      variant.schedule = schedule, variant.exit_placement = placement, variant.whole_backwards = whole;
      all.push_back(std::move(variant));
    };
    const bool searches = options_.schedule == "auto";
    if (searches) add("auto", "auto", true);
    if (searches && options_.in_flight == "any")
      for (const char* named : named_schedules(options_, degrees_.pipeline))
        for (const char* placement : {"auto", "before_backward"}) add(named, placement, false);
    if (!searches && options_.exit_placement == "auto") add(options_.schedule, "before_backward", false);
    return all;
  }

  void attempt(MachineOptions variant) {
    const Layout layout = step_layout(variant, held_, variant.microbatches, true);
    ScheduleOptions made = step_schedule(variant, held_, layout);
    made.memory = limit(variant, layout.split_backward);
    Found found{std::move(variant), build_schedule(made, layout), {}, 0};
    found.excess = made.memory.excess(found.schedule, layout);
    found.seconds = simulate(found.schedule, layout, made.times).seconds;
    found.options.whole_backwards = !layout.split_backward;
    const auto rank = [](const Found& f) { return std::tuple(f.excess.bytes, f.seconds); };
    if (!best_ || rank(found) < rank(*best_)) best_ = std::move(found);
  }

  const MemoryLimit& limit(const MachineOptions& variant, bool split) {
    MemoryLimit& limit = limits_[split ? 1 : 0];
    if (limit.ranks.empty()) limit = {options_.memory_limit, measure_memory(variant, degrees_)};
    return limit;
  }

  const MachineOptions& options_;
  const Degrees& degrees_;
  Arena nowhere_;
  Holdings held_;
  std::array<MemoryLimit, 2> limits_;
  std::optional<Found> best_;
};

[[noreturn]] void refuse(const MachineOptions& options, const MemoryLimit::Excess& excess) {
  const bool least = options.schedule == "auto";
  fail(Exit::configuration, "parallel.memory_limit: {} bytes, but pipeline rank {} needs {}{} bytes with schedule {}: allow that, {}use {}",
       options.memory_limit, excess.rank, least ? "at least " : "", excess.needed, options.schedule, least ? "" : "let auto choose, ",
       "parallel.recompute, a smaller micro_batch_size, or more ranks");
}

Schedule schedule_of(const MachineOptions& options, const Degrees& degrees, std::string_view name = {}) {
  Arena nowhere(Backing::none, kUnlimited);
  Holdings held(options, Mesh::planned(0, degrees), nowhere);
  const Layout layout = step_layout(options, held, options.microbatches, true);
  return name.empty() ? build_schedule(step_schedule(options, held, layout), layout)
                      : build_schedule(layout.reach.empty() ? name : "1f1b", layout);
}

}  // namespace

MachineOptions settled(MachineOptions options, const Degrees& degrees) {
  if (options.known_schedule || (options.memory_limit == 0 && !options.schedule_file)) return options;
  if (options.memory_limit == 0) {
    options.known_schedule = std::make_shared<const Schedule>(schedule_of(options, degrees));
    return options;
  }
  Found found = Settling(options, degrees).best();
  if (found.excess.bytes > 0) refuse(options, found.excess);
  options.whole_backwards = found.options.whole_backwards;
  options.known_schedule = std::make_shared<const Schedule>(std::move(found.schedule));
  return options;
}

std::vector<std::vector<RankBytes>> measure_memory(MachineOptions options, const Degrees& degrees) {
  options.memory_limit = 0;
  options.known_schedule = std::make_shared<const Schedule>(schedule_of(options, degrees, "gpipe"));
  std::vector<std::vector<RankBytes>> ranks;
  for (int p = 0; p < degrees.pipeline; ++p) {
    ranks.emplace_back();
    for (int t = 0; t < different_tensor_ranks(options, degrees); ++t) {
      const Mesh mesh = Mesh::planned(rank_of({.tensor = t, .pipeline = p, .data = 0}, degrees), degrees);
      ranks.back().push_back(Machine(options, mesh, Backing::none, kUnlimited).rank_bytes());
    }
  }
  return ranks;
}

int different_tensor_ranks(const MachineOptions& options, const Degrees& degrees) {
  for (int t = 0; t < degrees.tensor; ++t) {
    const auto count = [&](int rank) {
      return vocabulary_range(options.model.vocab_size, {Group::planned(rank, degrees.tensor, Wire::tensor)}).count;
    };
    if (count(t) != count(0)) return degrees.tensor;
  }
  return 1;
}

}  // namespace offramp
