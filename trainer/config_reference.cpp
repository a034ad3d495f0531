// docs/configuration.md, from the schema.
#include <fmt/format.h>

#include "trainer/schema.h"

namespace offramp {
namespace {

struct TypeName {
  std::string operator()(const std::int64_t*) const { return "integer"; }
  std::string operator()(const std::uint64_t*) const { return "integer"; }
  std::string operator()(const int*) const { return "integer"; }
  std::string operator()(const double*) const { return "number"; }
  std::string operator()(const bool*) const { return "true or false"; }
  std::string operator()(const std::string*) const { return "path"; }
  std::string operator()(const HeadKind*) const { return ""; }
  std::string operator()(const Target*) const { return ""; }
  std::string operator()(const ExitInit*) const { return ""; }
  std::string operator()(const std::array<double, 2>*) const { return "two numbers"; }
  std::string operator()(const std::array<std::int64_t, 2>*) const { return "two steps"; }
  std::string operator()(const PlanKind*) const { return ""; }
  std::string operator()(const std::vector<std::int64_t>*) const { return "a list of integers"; }
  std::string operator()(const LayerList*) const { return "`auto` or a list of integers"; }
  std::string operator()(const InFlight*) const { return "`1f1b`, `1f1b+K`, a number or `any`"; }
  std::string operator()(const std::vector<CorpusConfig>*) const { return "path or list"; }
};

std::string value_text(const SchemaKey& key, Config& config) {
  if (!key.rule.choices.empty()) return fmt::format("`{}`", fmt::join(key.rule.choices, "`, `"));
  const KeyField field = key.field(config, 0);
  std::string text = std::visit(TypeName{}, field);
  if (std::holds_alternative<std::vector<CorpusConfig>*>(field)) return text;  // its range is that of the weights
  const ValueRange any;
  if (key.rule.range.min != any.min) text += ", " + key.rule.range.text();
  if (!key.rule.zero_word.empty()) text += fmt::format(", or `{}`", key.rule.zero_word);
  return text;
}

std::string default_text(const SchemaKey& key, const Config& config) {
  if (!key.rule.default_note.empty()) return std::string(key.rule.default_note);
  if (key.rule.required != nullptr) return "required";
  return fmt::format("`{}`", print_value(key, config, 0));
}

constexpr const char* kIntroduction =
    R"(# Configuration

<!-- Written by `build/offramp train --config-reference > docs/configuration.md`; a test compares. -->

A job is one YAML file: `offramp train job.yaml`. `--print-config` shows it with every default filled in.

- `extends: FILE` at the top starts from another file, named relative to this one: maps merge key by key, lists and values replace.
- `--set section.key=value` on the command line overrides a key; `--set exits.0.layer=3` one of a list. The value is YAML.
- Anything unknown, duplicated, of the wrong type, out of range or contradictory ends the job before any work, with exit status 2 and
  one line for each mistake: `file:line:col: what is wrong, and the nearest valid key or value`.
- Numbers are decimal, integers without a point or exponent, booleans `true` or `false`. `null` means none, for paths that are optional.
- Mixture of experts, context parallelism, FP8 and μP are not planned.
)";

}  // namespace

std::string configuration_reference() {
  std::string text = kIntroduction, section;
  Config config;
  config.exits.emplace_back();
  for (const SchemaKey& key : schema()) {
    const std::size_t dot = key.path.rfind('.');
    if (const std::string here(key.path.substr(0, dot)); here != section) {
      section = here;
      text += fmt::format("\n## {}\n\n| key | value | default | meaning |\n|---|---|---|---|\n", section);
    }
    text += fmt::format("| `{}` | {} | {} | {} |\n", key.path.substr(dot + 1), value_text(key, config), default_text(key, config), key.doc);
  }
  return text;
}

}  // namespace offramp
