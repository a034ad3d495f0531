#include "trainer/base_model.h"

#include <algorithm>
#include <filesystem>

#include "tensor/check.h"
#include "trainer/fingerprint.h"
#include "trainer/resume.h"
#include "trainer/schema.h"

namespace offramp {
namespace {

std::unique_ptr<Checkpoint> newest_readable(const std::string& path) {
  if (is_step_directory(path)) return std::make_unique<Checkpoint>(path);
  const std::vector<std::int64_t> steps = steps_in(path);
  if (steps.empty())
    fail(Exit::checkpoint, "{}: no model is there; name a checkpoint, a directory of them, or a directory with a config.json", path);
  for (const std::int64_t step : steps) {
    try {
      return std::make_unique<Checkpoint>(step_directory(path, step));
    } catch (const Error&) {
      if (step == steps.back()) throw;
    }
  }
  return nullptr;  // not reached
}

void copy_value(const SchemaKey& key, Config& from, Config& to) {
  std::visit(
      [](auto* value, auto* out) {
        if constexpr (std::is_same_v<decltype(value), decltype(out)>) *out = *value;
      },
      key.field(from, 0), key.field(to, 0));
}

// A GPT-2 has neither, whatever stands there.
bool means_nothing(const ModelConfig& model, std::string_view key) {
  return model.gpt2() && (key == "model.rope_theta" || key == "model.rms_norm_eps");
}

// Exits that come from the base are what they are there.
void compare_exits(const Config& config, const BaseModel& base, const Locations& at, const std::set<std::string>& unknown,
                   Problems& problems) {
  for (std::size_t i = 0; i < config.exits.size(); ++i) {
    const ExitSpec& ours = config.exits[i];
    const auto it = std::find_if(base.exits().begin(), base.exits().end(), [&](const ExitSpec& e) { return e.layer == ours.layer; });
    if (ours.init != ExitInit::base || it == base.exits().end()) continue;
    Config theirs;
    theirs.exits = {*it};
    for (const char* name : {"head", "output", "norm"}) {
      const std::string path = fmt::format("exits.{}.{}", i, name);
      const SchemaKey& key = *find_key(fmt::format("exits[].{}", name));
      const std::string is = print_value(key, config, i), was = print_value(key, theirs, 0);
      if (is == was || unknown.contains(path)) continue;
      problems.push_back(
          {at.where(path), fmt::format("{}: is {}, but the exit of {} at layer {} has {}; write that, or begin the exit anew with "
                                       "init: random, final or copy_layer",
                                       path, is, base.directory(), ours.layer, was)});
    }
  }
}

}  // namespace

BaseModel::BaseModel(const std::string& path) : directory_(path) {
  if (is_hugging_face(path)) {
    hugging_face_ = std::make_unique<HuggingFaceSource>(path);
    model_ = hugging_face_->config(), exits_ = hugging_face_->exits(), end_token_ = hugging_face_->end_token();
    return;
  }
  checkpoint_ = newest_readable(path);
  directory_ = checkpoint_->directory();
  const Manifest& manifest = checkpoint_->manifest();
  const Config config = model_of(manifest);
  model_ = config.model, exits_ = config.exits;
  if (const auto it = manifest.configuration.find(kEndToken); it != manifest.configuration.end())
    end_token_ = std::atoll(it->second.c_str());
}

// A manifest has checksums of all else.
std::string BaseModel::identity() const {
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(directory_)) {
    const std::string path = entry.path().string();
    const bool weights = checkpoint_ ? path.ends_with("/manifest.json") : path.ends_with(".safetensors") || path.ends_with("/config.json");
    if (weights) files.push_back(path);
  }
  std::ranges::sort(files);
  return fingerprint_of_all(files);
}

bool BaseModel::is(const ModelConfig& other) const {
  ModelConfig model = model_;
  model.attention_dropout = other.attention_dropout, model.hidden_dropout = other.hidden_dropout;
  model.initializer_range = other.initializer_range;
  return model == other;
}

bool is_hugging_face(const std::string& directory) {
  std::error_code ignored;
  return std::filesystem::is_regular_file(directory + "/config.json", ignored);
}

bool may_differ_from_base(std::string_view key) {
  return key == "model.from" || key == "model.initializer_range" || key.ends_with("_dropout");
}

void adopt_base(Config& config, const Locations& at, const std::set<std::string>& unknown, Problems& problems) {
  if (config.model_from.empty()) return;
  const BaseModel base(config.model_from);
  Config adopted = config;
  adopted.model = base.model();
  if (at.given("model.head_dim")) adopted.model.head_dim = adopted.model.head_size();
  for (const SchemaKey& key : schema()) {
    const bool stated = key.path.starts_with("model.") && at.given(key.path) && !unknown.contains(std::string(key.path));
    if (!stated || means_nothing(adopted.model, key.path)) continue;
    const std::string is = print_value(key, config, 0), was = print_value(key, adopted, 0);
    if (is == was) continue;
    if (may_differ_from_base(key.path))
      copy_value(key, config, adopted);
    else
      problems.push_back(
          {at.where(key.path), fmt::format("{}: is {}, but the model of {} has {}; remove this key", key.path, is, base.directory(), was)});
  }
  compare_exits(config, base, at, unknown, problems);
  config.model = adopted.model;
}

}  // namespace offramp
