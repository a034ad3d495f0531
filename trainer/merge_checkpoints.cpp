#include "trainer/merge_checkpoints.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <memory>
#include <set>

#include "checkpoint/export_source.h"
#include "checkpoint/publish.h"
#include "tensor/check.h"
#include "trainer/checkpoint_commands.h"
#include "trainer/frozen_base.h"
#include "trainer/resume.h"
#include "trainer/schema.h"

namespace offramp {
namespace {

using Keys = std::map<std::string, std::string>;
using Inputs = std::vector<std::unique_ptr<Checkpoint>>;

// No exit's numbers follow from these keys, but for their last bits. What stands behind a path is compared instead, where it is known.
bool is_free(std::string_view key) {
  constexpr std::array<std::string_view, 6> kSections = {"exits.", "parallel.", "tuning.", "export.", "checkpoint.", "logging."};
  constexpr std::array<std::string_view, 9> kKeys = {"model.from",
                                                     "data.train",
                                                     "data.validation",
                                                     "training.stop_at",
                                                     "training.validation_interval",
                                                     "training.validation_samples",
                                                     "training.timeout_s",
                                                     "training.threads",
                                                     "training.nan"};
  return std::ranges::any_of(kSections, [&](std::string_view section) { return key.starts_with(section); }) ||
         std::ranges::find(kKeys, key) != kKeys.end();
}

std::string weights_of_corpora(const std::string& value) {
  Config config;
  Problems problems;
  const YamlNode node = parse_yaml(value, {.source = "data.train"}, problems);
  assign(*find_key("data.train"), config, 0, node, problems);
  std::vector<double> weights;
  for (const CorpusConfig& corpus : config.data.train) weights.push_back(corpus.weight);
  return fmt::format("{}", weights);
}

std::string value_of(const Keys& keys, const std::string& key) {
  const auto it = keys.find(key);
  return it == keys.end() ? "not there" : it->second;
}

// What an exit's numbers follow from.
Keys decisive(const Keys& configuration) {
  Keys all;
  for (const auto& [key, value] : configuration)
    if (!is_free(key)) all[key] = value;
  all["data.train's weights"] = weights_of_corpora(value_of(configuration, "data.train"));
  const std::string cached = "tuning.feature_dtype";  // it rounds what exits read
  all[cached] = value_of(configuration, configuration.contains(cached) ? cached : "training.precision");
  return all;
}

// "training.seed is 2, not 1; ..."
std::string differences(const Keys& was, const Keys& is) {
  std::set<std::string> keys;
  for (const Keys* each : {&was, &is})
    for (const auto& [key, value] : *each) keys.insert(key);
  std::vector<std::string> all;
  for (const std::string& key : keys)
    if (value_of(was, key) != value_of(is, key)) all.push_back(fmt::format("{} is {}, not {}", key, value_of(is, key), value_of(was, key)));
  return fmt::format("{}", fmt::join(all, "; "));
}

// What last bits follow from.
Keys arithmetic(const Manifest& m) {
  Keys all = m.made_by;
  all.erase("hdf5");
  for (const auto& [key, value] : m.layout) all[key] = std::to_string(value);
  for (const char* key : {"parallel.sequence_parallel", "parallel.shard_heads_over_pipeline"}) all[key] = value_of(m.configuration, key);
  return all;
}

std::set<int> exits_of(const Manifest& m) {
  std::set<int> layers;
  for (const ExitSpec& exit : model_of(m).exits) layers.insert(exit.layer);
  return layers;
}

// Only the exits' own tensors have learned.
void check_tuned(const Checkpoint& checkpoint) {
  const std::set<int> exits = exits_of(checkpoint.manifest());
  const auto own = [&](const std::string& name) {
    return std::ranges::any_of(exits, [&](int layer) { return name.starts_with(fmt::format("exits.{}.", layer)); });
  };
  for (const std::string& kind : checkpoint.kinds())
    for (const TensorEntry& entry : checkpoint.entries(kind))
      if (!is_frozen(checkpoint.manifest()) || !own(entry.name))
        fail(Exit::checkpoint,
             "{}: has trainable shared tensors ({} is one), of which there can be only one training; merge exits that "
             "training.freeze: backbone has tuned",
             checkpoint.directory(), entry.name);
}

void check_exits(const Checkpoint& a, const Checkpoint& b) {
  const std::set<int> taken = exits_of(a.manifest());
  for (const int layer : exits_of(b.manifest()))
    if (taken.contains(layer))
      fail(Exit::checkpoint, "{}: has an exit at layer {}, as {} has; at most one a layer: leave out one of the two", b.directory(), layer,
           a.directory());
}

void check_base(const Checkpoint& a, const Checkpoint& b) {
  const Keys &first = a.manifest().base, &second = b.manifest().base;
  const auto name = [](const Keys& base) { return base.empty() ? "a fresh backbone" : value_of(base, "directory"); };
  if (first.empty() != second.empty() || value_of(first, "identity") != value_of(second, "identity"))
    fail(Exit::checkpoint, "{}: stands on another base than {} ({}, and {}, or what that was then); tune all exits on the same files",
         b.directory(), a.directory(), name(second), name(first));
}

void check_configuration(const Checkpoint& a, const Checkpoint& b) {
  const std::string other = differences(decisive(a.manifest().configuration), decisive(b.manifest().configuration));
  if (!other.empty())
    fail(Exit::checkpoint, "{}: was tuned otherwise than {}, so that no one job would have both: {}; tune all exits alike", b.directory(),
         a.directory(), other);
}

void check_progress(const Checkpoint& a, const Checkpoint& b) {
  const Manifest &first = a.manifest(), &second = b.manifest();
  for (const auto& [what, was, is] : {std::tuple{"steps", first.step, second.step},
                                      {"samples", first.samples, second.samples},
                                      {"updates", first.updates, second.updates}})
    if (is != was)
      fail(Exit::checkpoint, "{}: counts {} {}, {} counts {}; name a step-N of each at which they agree, or resume the one that is behind",
           b.directory(), is, what, a.directory(), was);
}

void check_alike(const Checkpoint& a, const Checkpoint& b) {
  check_exits(a, b);
  check_base(a, b);
  if (a.manifest().data != b.manifest().data)
    fail(Exit::checkpoint, "{}: was trained on other data than {}; tune all exits on the same files of data.train", b.directory(),
         a.directory());
  check_configuration(a, b);
  check_progress(a, b);
  if (a.kinds() != b.kinds())
    fail(Exit::checkpoint, "{}: holds {}, {} holds {}; merge what was trained, before anything is averaged", b.directory(),
         fmt::join(b.kinds(), ", "), a.directory(), fmt::join(a.kinds(), ", "));
}

void check_output(const Inputs& all, const std::string& output) {
  const std::string step = step_directory(output, all.front()->manifest().step);
  std::error_code ignored;
  for (const auto& each : all)
    if (std::filesystem::equivalent(step, each->directory(), ignored))
      fail(Exit::checkpoint, "{}: is to be merged, and would be replaced; name another --output", each->directory());
}

Inputs open(const std::vector<std::string>& inputs) {
  Inputs all;
  for (const std::string& input : inputs) {
    all.push_back(std::make_unique<Checkpoint>(newest_sound(input)));
    check_tuned(*all.back());
    for (std::size_t i = 0; i + 1 < all.size(); ++i) check_alike(*all[i], *all.back());
  }
  return all;
}

// The first's, with the exits of all.
Manifest head_of(const Inputs& all) {
  Manifest head = all.front()->manifest();
  head.files.clear(), head.boxes.clear();
  for (const auto& each : all)
    for (const auto& [key, value] : each->manifest().configuration)
      if (key.starts_with("exits.")) head.configuration[key] = value;
  return head;
}

std::string note_of(const Inputs& all) {
  std::string text;
  for (std::size_t i = 1; i < all.size(); ++i) {
    const std::string other = differences(arithmetic(all.front()->manifest()), arithmetic(all[i]->manifest()));
    if (other.empty()) continue;
    text += fmt::format("{}: last bits may differ from those of a training together with {}: {}\n", all[i]->directory(),
                        all.front()->directory(), other);
  }
  return text;
}

}  // namespace

std::string merge_checkpoints(const std::vector<std::string>& inputs, const std::string& output) {
  const Inputs all = open(inputs);
  check_output(all, output);
  std::vector<TensorOfKind> tensors;
  std::map<std::string, Checkpoint*> holder;
  const Checkpoint& first = *all.front();
  for (const std::string& kind : first.kinds())
    for (const auto& each : all)
      for (const TensorEntry& entry : each->entries(kind)) {
        tensors.push_back({kind, entry.name, entry.shape});
        holder[entry.name] = each.get();
      }
  const auto read = [&](const TensorOfKind& t, const Box& box, float* out) { holder.at(t.tensor)->read(t.kind, t.tensor, box, out); };
  const Manifest head = head_of(all);
  write_checkpoint(output, head, tensors, read, 1, [&](const std::string& to) { copy_tokenizer_files(first.directory(), to); });
  return fmt::format("{}{}: the exits of layers {}, of {} checkpoints\n", note_of(all), step_directory(output, head.step),
                     fmt::join(exits_of(head), ", "), all.size());
}

}  // namespace offramp
