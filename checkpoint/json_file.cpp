#include "checkpoint/json_file.h"

#include <set>

#include "checkpoint/input_file.h"
#include "tensor/check.h"

namespace offramp {
namespace {

using Json = nlohmann::json;

constexpr std::uint64_t kMaxBytes = 100'000'000;
constexpr int kMaxDepth = 64;

}  // namespace

// The library keeps the last of two equal keys silently, so they are counted while it reads.
Json parse_object(const std::string& text) {
  std::vector<std::set<std::string>> keys(kMaxDepth + 1);
  const auto watch = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (depth >= kMaxDepth) throw JsonProblem("is nested too deeply");
    const auto level = static_cast<std::size_t>(depth);
    if (event == Json::parse_event_t::object_start) {
      keys[level + 1].clear();
    } else if (event == Json::parse_event_t::key && !keys[level].insert(parsed.get<std::string>()).second) {
      throw JsonProblem(fmt::format("is no sound JSON: '{}' stands twice", parsed.get<std::string>()));
    }
    return true;
  };
  if (text.empty() || text.front() != '{') throw JsonProblem("is no JSON object");
  try {
    return Json::parse(text, watch);
  } catch (const Json::exception& error) {
    throw JsonProblem(fmt::format("is no JSON: {}", error.what()));
  }
}

Json read_json(const std::string& path) {
  const std::string text = read_file(path, kMaxBytes);
  try {
    return parse_object(text.substr(std::min(text.find_first_not_of(" \t\r\n"), text.size())));
  } catch (const JsonProblem& problem) {
    fail(Exit::checkpoint, "{}: {}", path, problem.what());
  }
}

}  // namespace offramp
