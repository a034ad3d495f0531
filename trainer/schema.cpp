#include "trainer/schema.h"

#include <fmt/format.h>

#include <algorithm>

#include "tensor/edits.h"
#include "trainer/schema_keys.h"

namespace offramp {
namespace {

std::string lower(std::string_view text) {
  std::string result(text.substr(0, 64));
  std::transform(result.begin(), result.end(), result.begin(), [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  return result;
}

// How far a word is from what may have been meant. A key cut short, or drawn out, is one slip.
std::size_t distance(std::string_view word, std::string_view candidate) {
  const bool part = std::min(word.size(), candidate.size()) >= 3 && (candidate.starts_with(word) || word.starts_with(candidate));
  return word == candidate ? 0 : part ? 1 : edits(word, candidate);
}

std::string join(const std::string_view section, const std::string_view key) {
  return section.empty() ? std::string(key) : fmt::format("{}.{}", section, key);
}

// A key of another section with this name: `training.lr` is optimizer.lr.
const SchemaKey* same_name_elsewhere(std::string_view name) {
  for (const SchemaKey& key : schema()) {
    if (key.path.size() > name.size() && key.path.ends_with(name) && key.path[key.path.size() - name.size() - 1] == '.') return &key;
  }
  return nullptr;
}

}  // namespace

const std::vector<SchemaKey>& schema() {
  static const std::vector<SchemaKey> all = [] {
    std::vector<SchemaKey> keys;
    for (const auto& part : {model_keys(), exit_keys(), loss_keys(), parallel_keys(), training_keys(), tuning_keys(), supernet_keys(),
                             optimizer_keys(), data_keys()}) {
      keys.insert(keys.end(), part.begin(), part.end());
    }
    return keys;
  }();
  return all;
}

const SchemaKey* find_key(std::string_view path) {
  const auto found = std::find_if(schema().begin(), schema().end(), [&](const SchemaKey& key) { return key.path == path; });
  return found == schema().end() ? nullptr : &*found;
}

bool is_section(std::string_view path) {
  return std::any_of(schema().begin(), schema().end(), [&](const SchemaKey& key) {
    return key.path.size() > path.size() && key.path.starts_with(path) && key.path[path.size()] == '.';
  });
}

std::vector<std::string> keys_below(std::string_view section) {
  std::vector<std::string> names;
  for (const SchemaKey& key : schema()) {
    std::string_view rest = key.path;
    if (!section.empty()) {
      if (!rest.starts_with(section) || rest.size() <= section.size() || rest[section.size()] != '.') continue;
      rest.remove_prefix(section.size() + 1);
    }
    rest = rest.substr(0, rest.find_first_of(".["));
    if (std::find(names.begin(), names.end(), rest) == names.end()) names.emplace_back(rest);
  }
  if (section.empty()) names.emplace_back("extends");
  return names;
}

std::string nearest(std::string_view word, std::span<const std::string> candidates) {
  const std::string target = lower(word);
  return *std::min_element(candidates.begin(), candidates.end(),
                           [&](const std::string& a, const std::string& b) { return distance(target, a) < distance(target, b); });
}

std::optional<std::string> not_planned(std::string_view word) {
  const std::string w = lower(word);
  const auto has = [&](std::string_view part) { return w.find(part) != std::string::npos; };
  if (has("expert") || has("moe") || has("mixtral")) return "mixture of experts is not planned";
  if (has("context_parallel") || w == "cp_size" || has("ring_attention")) return "context parallelism is not planned";
  if (has("fp8") || has("float8")) return "FP8 is not planned";
  if (w == "mup" || w.starts_with("mup_") || w.ends_with("_mup") || has("\u03bcp") || has("\u00b5p")) return "\u03bcP is not planned";
  return std::nullopt;
}

std::string unknown_key(std::string_view section, std::string_view key) {
  const std::string full = quote(join(section, key));
  if (const auto why = not_planned(key)) return fmt::format("unknown key {}: {}", full, *why);
  const std::vector<std::string> valid = keys_below(section);
  const std::string close = nearest(key, valid);
  const bool typo = distance(lower(key), close) <= 1 + key.size() / 4;
  if (typo) return fmt::format("unknown key {}: did you mean {}?", full, close);
  if (const SchemaKey* other = same_name_elsewhere(key)) return fmt::format("unknown key {}: did you mean {}?", full, other->path);
  return fmt::format("unknown key {}: the nearest is {}; valid here: {}", full, close, fmt::join(valid, ", "));
}

}  // namespace offramp
