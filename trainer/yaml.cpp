#include "trainer/yaml.h"

#include <fmt/format.h>

#include <algorithm>
#include <tuple>

#include "tensor/check.h"
#include "trainer/base_model.h"
#include "trainer/schema.h"

namespace offramp {
namespace {

constexpr std::size_t kMaxShown = 100;  // problems, before the rest is only counted

// Walks the tree beside the schema.
struct ConfigReader {
  LocatedConfig& out;
  Problems& problems;
  std::set<std::string> unknown{};  // paths whose values are missing or wrong

  // A tree that is not complete may lack what is required.
  void read(const YamlNode& root, bool complete) {
    out.at.root = root.at;
    read_map(root, "", "", 0);
    out.config.layerskip.enabled = out.at.given("layerskip");
    out.config.supernet.enabled = out.at.given("supernet");
    require_keys("", complete);
    for (std::size_t i = 0; i < out.config.exits.size(); ++i) require_keys(fmt::format("exits.{}", i), complete);
  }

 private:
  // `section` is the path in the schema ("exits[]"), `path` the one written ("exits.0").
  void read_map(const YamlNode& map, const std::string& section, const std::string& path, std::size_t exit) {
    for (const YamlEntry& entry : map.entries) {
      const std::string dot = section.empty() ? "" : ".";
      const std::string name = section + dot + entry.key, here = path + dot + entry.key;
      out.at.places[here] = entry.at;
      if (const SchemaKey* key = find_key(name)) {
        const std::size_t before = problems.size();
        assign(*key, out.config, exit, entry.value, problems);
        out.at.places[here] = entry.value.at;
        if (problems.size() != before) unknown.insert(here);
      } else if (name == "exits") {
        read_exits(entry);
      } else if (!is_section(name)) {
        problems.push_back({entry.at, unknown_key(section, entry.key)});
      } else if (entry.value.kind != YamlNode::Kind::map) {
        const char* hint = entry.value.kind == YamlNode::Kind::null ? "is empty: give it keys or remove it" : "expected a map of keys";
        unknown.insert(here);
        problems.push_back({entry.value.at, fmt::format("{}: {}, such as {}", here, hint, fmt::join(keys_below(name), ", "))});
      } else {
        read_map(entry.value, name, here, exit);
      }
    }
  }

  void read_exits(const YamlEntry& entry) {
    if (entry.value.kind != YamlNode::Kind::list) {
      problems.push_back({entry.value.at, "exits: expected a list of exits such as [{layer: 2, loss_weight: 0.25}], or []"});
      return;
    }
    const std::size_t count = entry.value.items.size();
    out.config.exits.resize(count);
    for (std::size_t i = 0; i < count; ++i) {
      const YamlNode& item = entry.value.items[i];
      const std::string path = fmt::format("exits.{}", i);
      out.at.places[path] = item.at;
      if (item.kind == YamlNode::Kind::map) {
        read_map(item, "exits[]", path, i);
      } else {
        problems.push_back({item.at, fmt::format("{}: expected a map such as {{layer: 2, loss_weight: 0.25}}", path)});
        for (const char* key : {".layer", ".loss_weight"}) unknown.insert(path + key), out.at.places[path + key] = item.at;
      }
    }
  }

  // Required keys of the file, or of one exit (`path`).
  void require_keys(const std::string& path, bool complete) {
    const std::string_view of_exit = "exits[]";
    for (const SchemaKey& key : schema()) {
      if (!key.required(out.config) || key.path.starts_with(of_exit) != !path.empty()) continue;
      const std::string full = path.empty() ? std::string(key.path) : path + std::string(key.path.substr(of_exit.size()));
      if (out.at.given(full)) continue;
      unknown.insert(full);
      if (!complete || unknown.count(full.substr(0, full.find('.'))) != 0) continue;
      problems.push_back({out.at.where(full), fmt::format("required key {} is missing: {}", full, key.doc)});
    }
  }
};

// Keys whose default is another key's value.
void follow_defaults(Config& config, const Locations& at, std::set<std::string>& unknown) {
  const auto follow = [&](const char* path, std::int64_t& value, const char* from, std::int64_t other) {
    if (at.given(path)) return;
    value = other;
    if (unknown.count(from)) unknown.insert(path);
  };
  follow("model.num_key_value_heads", config.model.num_key_value_heads, "model.num_attention_heads", config.model.num_attention_heads);
  follow("model.max_position_embeddings", config.model.max_position_embeddings, "training.sequence_length",
         config.training.sequence_length);
  follow("training.stop_at", config.training.stop_at, "training.steps", config.training.steps);
  if (config.parallel.memory_limit > 0 && !at.given("parallel.in_flight")) config.parallel.in_flight.text = "any";
  if (!at.given("tuning.feature_dtype")) config.tuning.feature_dtype = config.training.precision;
  for (std::size_t i = 0; i < config.exits.size(); ++i)
    if (!config.model_from.empty() && !at.given(fmt::format("exits.{}.init", i))) config.exits[i].init = ExitInit::base;
}

std::string print_exits(const Config& config) {
  std::string text = config.exits.empty() ? "exits: []\n" : "exits:\n";
  for (std::size_t i = 0; i < config.exits.size(); ++i) {
    std::vector<std::string> items;
    for (const SchemaKey& key : schema()) {
      if (key.path.starts_with("exits[].")) items.push_back(fmt::format("{}: {}", key.path.substr(8), print_value(key, config, i)));
    }
    text += fmt::format("  - {{{}}}\n", fmt::join(items, ", "));
  }
  return text;
}

}  // namespace

void refuse_configuration(Problems problems) {
  const auto before = [](const Problem& a, const Problem& b) {
    return std::tie(a.at.order, a.at.line, a.at.column) < std::tie(b.at.order, b.at.line, b.at.column);
  };
  std::stable_sort(problems.begin(), problems.end(), before);
  std::vector<std::string> lines;
  for (const Problem& problem : problems) {
    if (lines.size() == kMaxShown) break;
    lines.push_back(fmt::format("{}: {}", problem.at.text(), problem.what));
  }
  if (problems.size() > kMaxShown) lines.push_back(fmt::format("... and {} more", problems.size() - kMaxShown));
  throw Error(Exit::configuration, fmt::format("{}", fmt::join(lines, "\n")));
}

LocatedConfig read_located_config(const std::string& path, std::span<const std::string> sets) {
  Problems problems;
  auto [root, complete] = read_yaml_file(path, problems);
  if (root.kind != YamlNode::Kind::map) refuse_configuration(std::move(problems));
  for (std::size_t i = 0; i < sets.size(); ++i) apply_set(root, sets[i], static_cast<int>(i), problems);
  LocatedConfig located;
  ConfigReader reader{located, problems};
  reader.read(root, complete);
  follow_defaults(located.config, located.at, reader.unknown);
  adopt_base(located.config, located.at, reader.unknown, problems);
  settle_supernet(located.config, located.at, reader.unknown);
  check_config(located.config, std::nullopt, located.at, reader.unknown, problems);
  if (!problems.empty()) refuse_configuration(std::move(problems));
  Config& config = located.config;
  config.model.set_head_size(config.model.head_size());
  config.training.stop_at = config.last_step();
  std::stable_sort(config.exits.begin(), config.exits.end(), [](const ExitSpec& a, const ExitSpec& b) { return a.layer < b.layer; });
  return located;
}

Config read_config(const std::string& path, std::span<const std::string> sets) { return read_located_config(path, sets).config; }

void check_world(const LocatedConfig& located, int world_size) {
  Problems problems;
  check_config(located.config, world_size, located.at, {}, problems);
  if (!problems.empty()) refuse_configuration(std::move(problems));
}

std::string print_config(const Config& config) {
  std::string text, section;
  for (const SchemaKey& key : schema()) {
    if (!key.means_something(config)) continue;
    const std::size_t dot = key.path.rfind('.');
    const std::string_view here = key.path.substr(0, dot);
    const bool first = here != section;
    section = here;
    if (here == "exits[]") {
      if (first) text += print_exits(config);
      continue;
    }
    const std::string indent(2 * static_cast<std::size_t>(std::count(here.begin(), here.end(), '.')), ' ');
    if (first) text += fmt::format("{}{}:\n", indent, here.substr(here.rfind('.') + 1));  // npos + 1 is 0
    text += fmt::format("{}  {}: {}\n", indent, key.path.substr(dot + 1), print_value(key, config, 0));
  }
  return text;
}

}  // namespace offramp
