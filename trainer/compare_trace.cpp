#include "trainer/compare_trace.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "checkpoint/input_file.h"
#include "tensor/check.h"

namespace offramp {
namespace {

using Json = nlohmann::json;

constexpr std::uint64_t kMostBytes = std::uint64_t{1} << 30;

struct Event {
  std::string name;
  double begin = 0, seconds = 0, waited = 0;
};
using RankEvents = std::map<std::int64_t, std::vector<Event>>;  // by world rank: what it did itself, in order of time

[[noreturn]] void refuse(const std::string& name, const std::string& why) {
  fail(Exit::configuration, "{}: {}; give a trace.json that logging.profile_steps wrote", name, why);
}

double seconds_at(const Json& object, const char* key, const std::string& name, double otherwise) {
  const auto found = object.find(key);
  if (found == object.end()) return otherwise;
  const double value = found->is_number() ? found->get<double>() : -1;
  if (!std::isfinite(value) || value < 0) refuse(name, fmt::format("an event's \"{}\" is no time", key));
  return 1e-6 * value;
}

Event event_of(const Json& json, const std::string& name) {
  const auto text = json.find("name");
  if (text == json.end() || !text->is_string()) refuse(name, "an event has no name");
  if (!json.contains("ts") || !json.contains("dur")) refuse(name, "an event has no ts or no dur");
  const auto args = json.find("args");
  const double waited = args != json.end() && args->is_object() ? seconds_at(*args, "waited", name, 0) : 0;
  return {text->get<std::string>(), seconds_at(json, "ts", name, 0), seconds_at(json, "dur", name, 0), waited};
}

std::int64_t integer_at(const Json& json, const char* key, const std::string& name) {
  const auto found = json.find(key);
  if (found == json.end() || !found->is_number_integer()) refuse(name, fmt::format("an event has no number \"{}\"", key));
  return found->get<std::int64_t>();
}

RankEvents events_of(std::string_view json, const std::string& name) {
  const Json root = Json::parse(json, nullptr, false);
  if (root.is_discarded()) refuse(name, "is no JSON");
  const auto list = root.is_object() ? root.find("traceEvents") : root.end();
  if (!root.is_object() || list == root.end() || !list->is_array()) refuse(name, "has no list \"traceEvents\"");
  RankEvents ranks;
  for (const Json& json_event : *list) {
    if (!json_event.is_object()) refuse(name, "an event is no object");
    if (json_event.value("ph", Json()) != "X" || integer_at(json_event, "tid", name) != 0) continue;
    ranks[integer_at(json_event, "pid", name)].push_back(event_of(json_event, name));
  }
  for (auto& [rank, events] : ranks) std::ranges::stable_sort(events, {}, &Event::begin);
  return ranks;
}

// The pipeline rank that runs these actions; -1: none of them computes on a stage.
int pipeline_rank_of(const std::vector<Event>& events, int ranks) {
  for (const Event& e : events) {
    const Kind kind = kind_of(e.name);
    const std::size_t at = e.name.find('@');
    if (kind == Kind::communication || kind == Kind::gradients || at == std::string::npos) continue;
    return std::atoi(e.name.c_str() + at + 1) % ranks;
  }
  return -1;
}

// A step has each action once: the next begins with the first that comes again.
struct Totals {
  double step_s = 0;
  RankSeconds seconds;
  int steps = 0;
};
Totals totals_of(const std::vector<Event>& events) {
  Totals totals;
  std::set<std::string_view> seen;
  double begin = 0, end = 0;
  for (const Event& e : events) {
    if (totals.steps == 0 || !seen.insert(e.name).second) {
      totals.step_s += end - begin;
      ++totals.steps;
      seen = {e.name};
      begin = e.begin;
    }
    end = e.begin + e.seconds;
    totals.seconds.of[static_cast<std::size_t>(kind_of(e.name))] += std::max(0.0, e.seconds - e.waited);
  }
  totals.step_s += end - begin;
  return totals;
}

double working(const RankSeconds& rank) {
  double sum = 0;
  for (const double s : rank.of) sum += s;
  return sum;
}

std::string row(std::string_view rank, std::string_view kind, double predicted, double measured) {
  const std::string ratio = predicted > 0 ? fmt::format("{:.3f}", measured / predicted) : "";
  return fmt::format("{:>5}  {:<16} {:>14.3f} {:>14.3f} {:>+14.3f} {:>8}\n", rank, kind, 1e3 * predicted, 1e3 * measured,
                     1e3 * (measured - predicted), ratio);
}

struct Disagreement {
  int rank = 0;
  std::string_view kind;
  double by = 0;  // measured less predicted
  void consider(int of_rank, std::string_view of_kind, double difference) {
    if (kind.empty() || std::abs(difference) > std::abs(by)) *this = {of_rank, of_kind, difference};
  }
};

}  // namespace

Measured measured_of(std::string_view json, const std::string& name, int pipeline_ranks) {
  std::map<int, Totals> first;  // by pipeline rank; of its replicas and tensor peers the lowest world rank
  for (const auto& [world, events] : events_of(json, name)) {
    const int rank = pipeline_rank_of(events, pipeline_ranks);
    if (rank >= 0) first.try_emplace(rank, totals_of(events));
  }
  Measured measured;
  for (int rank = 0; rank < pipeline_ranks; ++rank) {
    const auto found = first.find(rank);
    if (found == first.end()) refuse(name, fmt::format("has nothing of pipeline rank {} of {}", rank, pipeline_ranks));
    const Totals& totals = found->second;
    if (rank > 0 && totals.steps != measured.steps) {
      refuse(name, fmt::format("has {} steps of pipeline rank 0 and {} of rank {}", measured.steps, totals.steps, rank));
    }
    measured.steps = totals.steps;
    measured.step_s = std::max(measured.step_s, totals.step_s / totals.steps);
    measured.ranks.push_back(totals.seconds);
    for (double& s : measured.ranks.back().of) s /= totals.steps;
  }
  for (RankSeconds& rank : measured.ranks) rank.waiting = std::max(0.0, measured.step_s - working(rank));
  return measured;
}

Measured read_trace(const std::string& path, int pipeline_ranks) { return measured_of(read_file(path, kMostBytes), path, pipeline_ranks); }

Measured predicted_of(const Timeline& timeline) {
  Measured result{.step_s = timeline.seconds, .ranks = std::vector<RankSeconds>(timeline.busy.size()), .steps = 1};
  for (const Span& span : timeline.spans) {
    const Kind kind = kind_of(span.action.op);
    const bool travels = (kind == Kind::communication && span.action.op != Op::ReduceTied) || kind == Kind::gradients;
    if (!travels) result.ranks[static_cast<std::size_t>(span.rank)].of[static_cast<std::size_t>(kind)] += span.end - span.begin;
  }
  for (RankSeconds& rank : result.ranks) rank.waiting = std::max(0.0, timeline.seconds - working(rank));
  return result;
}

std::string comparison_text(const Timeline& timeline, const Measured& measured) {
  const Measured predicted = predicted_of(timeline);
  OFFRAMP_CHECK(predicted.ranks.size() == measured.ranks.size(), "[compare] {} ranks are predicted, {} measured", predicted.ranks.size(),
                measured.ranks.size());
  std::string text =
      fmt::format("{:>5}  {:<16} {:>14} {:>14} {:>14} {:>8}\n", "rank", "ms", "predicted", "measured", "difference", "ratio");
  Disagreement most;
  for (std::size_t r = 0; r < measured.ranks.size(); ++r) {
    std::string name = std::to_string(r);  // on the first line of its rank only
    const auto add = [&](std::string_view kind, double a, double b) {
      if (a <= 0 && b <= 0) return;
      text += row(name, kind, a, b);
      most.consider(static_cast<int>(r), kind, b - a);
      name.clear();
    };
    for (const Kind kind : kKinds) {
      const auto k = static_cast<std::size_t>(kind);
      add(name_of(kind), predicted.ranks[r].of[k], measured.ranks[r].of[k]);
    }
    add("waiting", predicted.ranks[r].waiting, measured.ranks[r].waiting);
  }
  text += row("", "step", predicted.step_s, measured.step_s);
  text += fmt::format("\nmeasured: the mean of {} step{}\n", measured.steps, measured.steps == 1 ? "" : "s");
  if (most.kind.empty()) return text;
  return text + fmt::format("largest disagreement: {} of rank {}, {:.3f} ms {} than predicted\n", most.kind, most.rank,
                            1e3 * std::abs(most.by), most.by > 0 ? "more" : "less");
}

}  // namespace offramp
