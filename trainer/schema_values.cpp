// From YAML to typed values and back. Strict: what YAML 1.1 would guess (yes, 0x10, 010, 1e3 as an integer) is refused with a hint.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "parallel/limits.h"
#include "trainer/schema.h"

namespace offramp {
namespace {

using Wrong = std::optional<std::string>;  // what is wrong with a value, if anything

std::string describe(const YamlNode& node) {
  switch (node.kind) {
    case YamlNode::Kind::null:
      return node.text.empty() ? "nothing" : node.text;
    case YamlNode::Kind::list:
      return node.items.empty() ? "an empty list" : "a list";
    case YamlNode::Kind::map:
      return "a map";
    case YamlNode::Kind::scalar:
      break;
  }
  return node.quoted ? "text in quotes, " + quote(node.text) : quote(node.text);
}

std::string number_text(double value) {
  return value == std::floor(value) && std::abs(value) < 1e18 ? fmt::format("{}", static_cast<std::int64_t>(value))
                                                              : fmt::format("{}", value);
}

Wrong out_of_range(const ValueRange& range, double value, std::string_view written) {
  if (range.contains(value)) return std::nullopt;
  const double bound = value <= range.min ? range.min : range.max;
  const bool reachable = value <= range.min ? !range.above_min : !range.below_max;
  const std::string hint = reachable ? "; the nearest is " + number_text(bound) : "";
  return fmt::format("{} is out of range: it must be {}{}", written, range.text(), hint);
}

// Decimal digits after an optional sign, no leading zeros (YAML 1.1 would read 010 as eight).
bool integer_shaped(std::string_view text) {
  if (!text.empty() && (text[0] == '-' || text[0] == '+')) text.remove_prefix(1);
  return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos && (text.size() == 1 || text[0] != '0');
}

std::optional<double> to_real(std::string_view text) {
  if (!text.empty() && text[0] == '+') text.remove_prefix(1);
  double value = 0;
  if (text.empty() || text.find_first_not_of("0123456789+-.eE") != std::string_view::npos) return std::nullopt;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

bool plain_scalar(const YamlNode& node) { return node.kind == YamlNode::Kind::scalar && !node.quoted; }

template <class Integer>
Wrong assign_integer(Integer& to, const SchemaKey& key, const YamlNode& node) {
  const std::string also = key.rule.zero_word.empty() ? "" : fmt::format(" or {}", key.rule.zero_word);
  if (node.kind == YamlNode::Kind::scalar && !key.rule.zero_word.empty() && node.text == key.rule.zero_word) return to = 0, std::nullopt;
  if (!plain_scalar(node) || !integer_shaped(node.text)) {
    const auto real = plain_scalar(node) ? to_real(node.text) : std::nullopt;
    const bool whole = real && *real == std::floor(*real) && std::abs(*real) < 1e15;
    const std::string hint = whole ? fmt::format("; write {}", number_text(*real)) : "";
    return fmt::format("expected an integer{}, found {}{}", also, describe(node), hint);
  }
  const std::string_view digits = std::string_view(node.text).substr(node.text[0] == '+');
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  const double real = error == std::errc() ? static_cast<double>(value) : digits[0] == '-' ? -1e19 : 1e19;
  const std::string note = key.rule.range_note.empty() ? "" : fmt::format("; {}", key.rule.range_note);
  if (auto wrong = out_of_range(key.rule.range, real, node.text)) return *wrong + also + note;
  to = static_cast<Integer>(value);
  return std::nullopt;
}

Wrong assign_real(double& to, const ValueRange& range, const YamlNode& node) {
  const auto value = plain_scalar(node) ? to_real(node.text) : std::nullopt;
  if (!value) return fmt::format("expected a finite number, found {}", describe(node));
  if (auto wrong = out_of_range(range, *value, node.text)) return wrong;
  to = *value;
  return std::nullopt;
}

Wrong assign_bool(bool& to, const YamlNode& node) {
  if (plain_scalar(node) && (node.text == "true" || node.text == "false")) return to = node.text == "true", std::nullopt;
  static const std::vector<std::string> yes = {"True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON", "1", "y", "Y"};
  static const std::vector<std::string> no = {"False", "FALSE", "no", "No", "NO", "off", "Off", "OFF", "0", "n", "N"};
  const auto among = [&](const std::vector<std::string>& words) { return std::find(words.begin(), words.end(), node.text) != words.end(); };
  const char* hint = among(yes) ? "; write true" : among(no) ? "; write false" : "";
  return fmt::format("expected true or false, found {}{}", describe(node), hint);
}

Wrong assign_text(std::string& to, const YamlNode& node) {
  if (node.kind == YamlNode::Kind::null && !node.text.empty()) return to.clear(), std::nullopt;  // a written null: none
  if (node.kind != YamlNode::Kind::scalar) return fmt::format("expected a path, found {}", describe(node));
  const bool looks_typed = to_real(node.text) || node.text == "true" || node.text == "false";
  if (!node.quoted && looks_typed) return fmt::format("expected a path, found {}; quote it if that is its name", describe(node));
  if (node.text.empty()) return "expected a path, found empty text; write null for none";
  const auto control = [](char c) { return static_cast<unsigned char>(c) < 32; };
  if (std::any_of(node.text.begin(), node.text.end(), control))
    return fmt::format("expected a path, found control characters in {}", describe(node));
  to = node.text;
  return std::nullopt;
}

Wrong assign_in_flight(InFlight& to, const YamlNode& node) {
  const auto wrong = [&] { return fmt::format("expected 1f1b, 1f1b+K, a number of microbatches or any, found {}", describe(node)); };
  if (!plain_scalar(node)) return wrong();
  try {
    parse_in_flight(node.text, Layout{});
  } catch (const std::invalid_argument&) {
    return wrong();
  }
  to.text = node.text;
  return std::nullopt;
}

Wrong assign_sizes(std::vector<std::int64_t>& to, const SchemaKey& key, const YamlNode& node) {
  if (node.kind != YamlNode::Kind::list || node.items.empty())
    return fmt::format("expected a list of sizes such as [172, 344, 688], found {}", describe(node));
  std::vector<std::int64_t> sizes;
  for (const YamlNode& item : node.items)
    if (const Wrong wrong = assign_integer(sizes.emplace_back(), key, item)) return wrong;
  to = sizes;
  return std::nullopt;
}

Wrong assign_layers(LayerList& to, const SchemaKey& key, const YamlNode& node) {
  if (plain_scalar(node) && node.text == "auto") return to.layers.clear(), std::nullopt;
  if (node.kind != YamlNode::Kind::list || node.items.empty())
    return fmt::format("expected auto, or a list of layers per stage such as [7, 7, 7, 3], found {}", describe(node));
  std::vector<int> layers;
  for (const YamlNode& item : node.items) {
    std::int64_t one = 0;
    if (const Wrong wrong = assign_integer(one, key, item)) return wrong;
    layers.push_back(static_cast<int>(one));
  }
  to.layers = layers;
  return std::nullopt;
}

// Whether a word is what a choice such as file:PATH stands for.
bool names_path(std::string_view choice, std::string_view word) {
  constexpr std::string_view kPath = "PATH";
  if (!choice.ends_with(kPath)) return false;
  const std::string_view prefix = choice.substr(0, choice.size() - kPath.size());
  const auto control = [](char c) { return static_cast<unsigned char>(c) < 32; };
  return word.starts_with(prefix) && word.size() > prefix.size() && std::none_of(word.begin(), word.end(), control);
}

// The index of the choice, or what is wrong.
std::variant<std::size_t, std::string> choose(const SchemaKey& key, const YamlNode& node) {
  const std::vector<std::string> choices(key.rule.choices.begin(), key.rule.choices.end());
  const std::string all = fmt::format("{}", fmt::join(choices, ", "));
  if (node.kind != YamlNode::Kind::scalar) return fmt::format("expected one of {}, found {}", all, describe(node));
  const auto found =
      std::find_if(choices.begin(), choices.end(), [&](const auto& c) { return c == node.text || names_path(c, node.text); });
  if (found != choices.end()) return static_cast<std::size_t>(found - choices.begin());
  if (const auto why = not_planned(node.text)) return fmt::format("{} is not one of {}: {}", quote(node.text), all, *why);
  if (choices.size() == 1) return fmt::format("{} is not known: the only value is {}", quote(node.text), all);
  return fmt::format("{} is not one of {}: did you mean {}?", quote(node.text), all, nearest(node.text, choices));
}

Wrong assign_choice(const SchemaKey& key, const KeyField& field, const YamlNode& node) {
  const auto chosen = choose(key, node);
  if (const auto* wrong = std::get_if<std::string>(&chosen)) return *wrong;
  const std::size_t index = std::get<std::size_t>(chosen);
  if (const auto* text = std::get_if<std::string*>(&field)) **text = node.text;
  if (const auto* flag = std::get_if<bool*>(&field)) **flag = index == 1;
  if (const auto* head = std::get_if<HeadKind*>(&field)) **head = static_cast<HeadKind>(index);
  if (const auto* target = std::get_if<Target*>(&field)) **target = static_cast<Target>(index);
  if (const auto* init = std::get_if<ExitInit*>(&field)) **init = static_cast<ExitInit>(index);
  if (const auto* plan = std::get_if<PlanKind*>(&field)) **plan = static_cast<PlanKind>(index);
  return std::nullopt;
}

template <class T, class AssignOne>
Wrong assign_pair(std::array<T, 2>& to, const YamlNode& node, std::string_view expected, AssignOne&& assign_one) {
  if (node.kind != YamlNode::Kind::list || node.items.size() != 2) {
    const std::string found = node.kind == YamlNode::Kind::list ? fmt::format("a list of {}", node.items.size()) : describe(node);
    return fmt::format("expected {}, found {}", expected, found);
  }
  for (std::size_t i = 0; i < 2; ++i) {
    if (auto wrong = assign_one(to[i], node.items[i])) return wrong;
  }
  return std::nullopt;
}

Wrong assign_numbers(std::array<double, 2>& to, const SchemaKey& key, const YamlNode& node) {
  return assign_pair(to, node, "a list of two numbers such as [0.9, 0.95]",
                     [&](double& one, const YamlNode& item) { return assign_real(one, key.rule.range, item); });
}

Wrong assign_steps(std::array<std::int64_t, 2>& to, const SchemaKey& key, const YamlNode& node) {
  if (node.kind == YamlNode::Kind::null && !node.text.empty()) return to = {0, 0}, std::nullopt;
  return assign_pair(to, node, "a list of two steps such as [10, 12], or null",
                     [&](std::int64_t& one, const YamlNode& item) { return assign_integer(one, key, item); });
}

void read_corpus(CorpusConfig& corpus, const SchemaKey& key, const YamlNode& node, Problems& problems) {
  static const std::vector<std::string> names = {"path", "weight"};
  if (node.kind != YamlNode::Kind::map) {
    problems.push_back({node.at, fmt::format("{}: expected {{path: PREFIX, weight: 1.0}}, found {}", key.path, describe(node))});
    return;
  }
  bool has_path = false;
  for (const YamlEntry& entry : node.entries) {
    Wrong wrong;
    if (entry.key == "path") {
      has_path = true;
      wrong = assign_text(corpus.path, entry.value);
      if (!wrong && corpus.path.empty()) wrong = "expected a path, found null";
    } else if (entry.key == "weight") {
      wrong = assign_real(corpus.weight, key.rule.range, entry.value);
    } else {
      problems.push_back(
          {entry.at, fmt::format("unknown key {} in {}: did you mean {}?", quote(entry.key), key.path, nearest(entry.key, names))});
    }
    if (wrong) problems.push_back({entry.value.at, fmt::format("{}.{}: {}", key.path, entry.key, *wrong)});
  }
  if (!has_path) problems.push_back({node.at, fmt::format("{}: `path` is missing", key.path)});
}

void assign_corpora(std::vector<CorpusConfig>& to, const SchemaKey& key, const YamlNode& node, Problems& problems) {
  to.clear();
  if (node.kind == YamlNode::Kind::list && !node.items.empty()) {
    for (const YamlNode& item : node.items) read_corpus(to.emplace_back(), key, item, problems);
    return;
  }
  const bool none = node.kind == YamlNode::Kind::null && !node.text.empty() && key.rule.required == nullptr;
  if (none) return;
  CorpusConfig one;
  Wrong wrong;
  if (node.kind == YamlNode::Kind::scalar) {
    wrong = assign_text(one.path, node);
  } else {
    const std::string found = node.kind == YamlNode::Kind::list ? "an empty list" : describe(node);
    wrong = fmt::format("expected a path or a list of {{path, weight}}, found {}", found);
  }
  if (wrong) return problems.push_back({node.at, fmt::format("{}: {}", key.path, *wrong)});
  to.push_back(one);
}

struct Printer {
  const SchemaKey& key;
  std::string operator()(const std::int64_t* value) const { return integer(*value); }
  std::string operator()(const std::uint64_t* value) const { return fmt::format("{}", *value); }
  std::string operator()(const int* value) const { return integer(*value); }
  std::string operator()(const double* value) const { return real(*value); }
  std::string operator()(const bool* value) const {
    return key.rule.choices.empty() ? fmt::format("{}", *value) : std::string(key.rule.choices[*value ? 1 : 0]);
  }
  std::string operator()(const HeadKind* value) const { return std::string(key.rule.choices[static_cast<std::size_t>(*value)]); }
  std::string operator()(const Target* value) const { return std::string(key.rule.choices[static_cast<std::size_t>(*value)]); }
  std::string operator()(const ExitInit* value) const { return std::string(key.rule.choices[static_cast<std::size_t>(*value)]); }
  std::string operator()(const PlanKind* value) const { return std::string(key.rule.choices[static_cast<std::size_t>(*value)]); }
  std::string operator()(const std::vector<std::int64_t>* value) const { return fmt::format("[{}]", fmt::join(*value, ", ")); }
  std::string operator()(const std::string* value) const { return text(*value); }
  std::string operator()(const InFlight* value) const { return value->text; }
  std::string operator()(const LayerList* value) const {
    return value->layers.empty() ? "auto" : fmt::format("[{}]", fmt::join(value->layers, ", "));
  }
  std::string operator()(const std::array<double, 2>* value) const { return fmt::format("[{}, {}]", real((*value)[0]), real((*value)[1])); }
  std::string operator()(const std::array<std::int64_t, 2>* value) const {
    return (*value)[0] == 0 ? "null" : fmt::format("[{}, {}]", (*value)[0], (*value)[1]);
  }
  std::string operator()(const std::vector<CorpusConfig>* value) const {
    if (value->empty()) return "null";
    if (value->size() == 1 && value->front().weight == 1) return text(value->front().path);
    std::vector<std::string> items;
    for (const CorpusConfig& corpus : *value)
      items.push_back(fmt::format("{{path: {}, weight: {}}}", text(corpus.path), real(corpus.weight)));
    return fmt::format("[{}]", fmt::join(items, ", "));
  }

 private:
  std::string integer(std::int64_t value) const {
    return value == 0 && !key.rule.zero_word.empty() ? std::string(key.rule.zero_word) : fmt::format("{}", value);
  }
  // With a point always: other readers of YAML take 1e-05 for text.
  static std::string real(double value) {
    std::string digits = fmt::format("{}", value);
    if (digits.find('.') == std::string::npos) digits.insert(std::min(digits.find('e'), digits.size()), ".0");
    return digits;
  }
  // Quoted unless nothing could take it for anything else.
  static std::string text(std::string_view value) {
    if (value.empty()) return "null";
    const char* plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./-";
    const bool safe = value.find_first_not_of(plain) == std::string_view::npos && value[0] != '-' && !to_real(value) && value != "true" &&
                      value != "false" && value != "null";
    if (safe) return std::string(value);
    std::string quoted = "'";
    for (const char c : value) quoted += c == '\'' ? "''" : std::string(1, c);
    return quoted + "'";
  }
};

}  // namespace

std::string ValueRange::text() const {
  const std::string low = above_min ? "above " + number_text(min) : "at least " + number_text(min);
  if (!(max < 1e15)) return low;
  if (!above_min && !below_max) return fmt::format("from {} to {}", number_text(min), number_text(max));
  return fmt::format("{} and {} {}", low, below_max ? "below" : "at most", number_text(max));
}

void assign(const SchemaKey& key, Config& config, std::size_t exit, const YamlNode& node, Problems& problems) {
  const KeyField field = key.field(config, exit);
  Wrong wrong;
  if (const auto* corpora = std::get_if<std::vector<CorpusConfig>*>(&field)) return assign_corpora(**corpora, key, node, problems);
  if (!key.rule.choices.empty()) {
    wrong = assign_choice(key, field, node);
  } else if (const auto* i64 = std::get_if<std::int64_t*>(&field)) {
    wrong = assign_integer(**i64, key, node);
  } else if (const auto* u64 = std::get_if<std::uint64_t*>(&field)) {
    wrong = assign_integer(**u64, key, node);
  } else if (const auto* i32 = std::get_if<int*>(&field)) {
    wrong = assign_integer(**i32, key, node);
  } else if (const auto* real = std::get_if<double*>(&field)) {
    wrong = assign_real(**real, key.rule.range, node);
  } else if (const auto* flag = std::get_if<bool*>(&field)) {
    wrong = assign_bool(**flag, node);
  } else if (const auto* text = std::get_if<std::string*>(&field)) {
    wrong = assign_text(**text, node);
  } else if (const auto* in_flight = std::get_if<InFlight*>(&field)) {
    wrong = assign_in_flight(**in_flight, node);
  } else if (const auto* sizes = std::get_if<std::vector<std::int64_t>*>(&field)) {
    wrong = assign_sizes(**sizes, key, node);
  } else if (const auto* layers = std::get_if<LayerList*>(&field)) {
    wrong = assign_layers(**layers, key, node);
  } else if (const auto* pair = std::get_if<std::array<double, 2>*>(&field)) {
    wrong = assign_numbers(**pair, key, node);
  } else if (const auto* steps = std::get_if<std::array<std::int64_t, 2>*>(&field)) {
    wrong = assign_steps(**steps, key, node);
  }
  if (wrong) problems.push_back({node.at, fmt::format("{}: {}", key.path, *wrong)});
}

std::optional<std::string> read_real(double& to, const ValueRange& range, const YamlNode& node) { return assign_real(to, range, node); }

std::string print_value(const SchemaKey& key, const Config& config, std::size_t exit) {
  Config copy = config;  // fields are handed out for writing
  return std::visit(Printer{key}, key.field(copy, exit));
}

}  // namespace offramp
