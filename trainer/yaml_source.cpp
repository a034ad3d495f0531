// Where configurations come from: files, the files they extend, and assignments on the command line.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <optional>
#include <set>

#include "trainer/yaml_tree.h"

namespace offramp {
namespace {

constexpr std::size_t kMaxBytes = 1 << 20;
constexpr int kMaxParts = 16;  // of the key of a --set

std::optional<std::string> read_text(const std::string& path, const Place& blame, Problems& problems) {
  const auto refuse = [&](const std::string& why) {
    const std::string file = blame.line == 0 && blame.source == path ? "" : path + ": ";
    problems.push_back({blame, file + why});
    return std::nullopt;
  };
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (status.type() == std::filesystem::file_type::not_found) return refuse("no such file");
  if (!std::filesystem::exists(status)) return refuse(error.message());
  if (std::filesystem::is_directory(status)) return refuse("is a directory: name a YAML file");
  std::ifstream file(path, std::ios::binary);
  if (!file) return refuse("cannot be opened for reading");
  std::string text(kMaxBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (file.bad()) return refuse("cannot be read");
  text.resize(static_cast<std::size_t>(file.gcount()));
  if (text.size() > kMaxBytes) return refuse(fmt::format("is larger than {} bytes: this is no configuration", kMaxBytes));
  return text;
}

void merge(YamlNode& base, YamlNode&& over) {
  if (base.kind != YamlNode::Kind::map || over.kind != YamlNode::Kind::map) {
    base = std::move(over);
    return;
  }
  base.at = over.at;
  for (YamlEntry& entry : over.entries) {
    if (YamlEntry* known = base.entry(entry.key)) {
      known->at = entry.at;
      merge(known->value, std::move(entry.value));
    } else {
      base.entries.push_back(std::move(entry));
    }
  }
}

struct Reader {
  Problems& problems;
  std::set<std::filesystem::path> reading{};  // files whose `extends` is being resolved
  int order = 0;
  bool complete = true;

  // `blame` is where the file was asked for.
  YamlNode read(const std::string& path, const Place& blame) {
    YamlNode nothing;
    const auto text = read_text(path, blame, problems);
    if (!text) return nothing;
    const std::size_t before = problems.size();
    const auto identity = std::filesystem::weakly_canonical(path);
    if (!reading.insert(identity).second) {
      problems.push_back({blame, fmt::format("{} extends itself, by way of this file: remove one `extends`", path)});
      return nothing;
    }
    const Place origin{path, order++, 1, 1};
    YamlNode root = parse_yaml(*text, origin, problems);
    if (root.kind == YamlNode::Kind::map) {
      root.at = origin;
      root = extended(std::move(root), path);
    } else if (problems.size() == before) {
      const char* found = root.kind == YamlNode::Kind::null ? "the file is empty" : "the file is not a map";
      problems.push_back({origin, fmt::format("{}: a configuration begins with a section such as `model:`", found)});
    }
    reading.erase(identity);
    return root;
  }

  YamlNode extended(YamlNode root, const std::string& path) {
    const YamlEntry* entry = root.entry("extends");
    if (!entry) return root;
    const YamlNode base_name = entry->value;
    std::erase_if(root.entries, [](const YamlEntry& e) { return e.key == "extends"; });
    if (base_name.kind != YamlNode::Kind::scalar || base_name.text.empty()) {
      problems.push_back({base_name.at, "extends: expected the path of one file"});
      complete = false;
      return root;
    }
    const auto base_path = (std::filesystem::path(path).parent_path() / base_name.text).lexically_normal();
    YamlNode base = read(base_path.string(), base_name.at);
    if (base.kind != YamlNode::Kind::map) return complete = false, root;
    merge(base, std::move(root));
    return base;
  }
};

std::optional<std::size_t> list_index(std::string_view text) {
  std::size_t index = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), index);
  if (text.empty() || error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return index;
}

// The node `part` of `node`, made where it is missing; nullptr after a problem.
YamlNode* step_into(YamlNode& node, const std::string& part, const Place& at, Problems& problems) {
  if (node.kind == YamlNode::Kind::null) node.kind = YamlNode::Kind::map, node.at = at;
  if (node.kind == YamlNode::Kind::map) {
    if (YamlEntry* entry = node.entry(part)) return &entry->value;
    YamlNode fresh;
    fresh.at = at;
    node.entries.push_back({part, at, fresh});
    return &node.entries.back().value;
  }
  if (node.kind == YamlNode::Kind::scalar) {
    problems.push_back({at, fmt::format("there is nothing below {} to set", quote(node.text))});
    return nullptr;
  }
  const auto index = list_index(part);
  if (!index || *index > node.items.size()) {
    problems.push_back(
        {at, fmt::format("{} is no index of a list of {}: count from 0, {} appends", quote(part), node.items.size(), node.items.size())});
    return nullptr;
  }
  if (*index == node.items.size()) {
    YamlNode fresh;
    fresh.at = at;
    node.items.push_back(fresh);
  }
  return &node.items[*index];
}

}  // namespace

YamlFile read_yaml_file(const std::string& path, Problems& problems) {
  Reader reader{problems};
  YamlNode root = reader.read(path, Place{path, 0, 0, 0});
  return {std::move(root), reader.complete};
}

void apply_set(YamlNode& root, const std::string& assignment, int index, Problems& problems) {
  const Place at{"--set " + assignment, 1000 + index, 0, 0};
  const std::size_t equals = assignment.find('=');
  const std::string key = assignment.substr(0, equals);
  if (equals == std::string::npos || key.empty() || key.front() == '.' || key.back() == '.' || key.find("..") != std::string::npos ||
      std::count(key.begin(), key.end(), '.') >= kMaxParts) {
    problems.push_back({at, "expected section.key=value"});
    return;
  }
  if (key == "extends") return problems.push_back({at, "`extends` stands in a file only"});
  const std::size_t before = problems.size();
  YamlNode value = parse_yaml(assignment.substr(equals + 1), at, problems);
  if (problems.size() != before) return;
  YamlNode* node = &root;
  for (std::size_t start = 0; node && start <= key.size();) {
    const std::size_t dot = std::min(key.find('.', start), key.size());
    node = step_into(*node, key.substr(start, dot - start), at, problems);
    start = dot + 1;
  }
  if (node) merge(*node, std::move(value));
}

}  // namespace offramp
