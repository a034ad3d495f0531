#include "trainer/resume.h"

#include "checkpoint/hdf5.h"
#include "tensor/check.h"
#include "trainer/base_model.h"
#include "trainer/command_line.h"
#include "trainer/fingerprint.h"

namespace offramp {
namespace {

std::string instruction_sets() {
#if defined(__x86_64__)
  std::string all = "x86-64";
  if (__builtin_cpu_supports("avx2")) all += " avx2";
  if (__builtin_cpu_supports("fma")) all += " fma";
  if (__builtin_cpu_supports("avx512f")) all += " avx512f";
  if (__builtin_cpu_supports("avx512bw")) all += " avx512bw";
  if (__builtin_cpu_supports("avx512bf16")) all += " avx512bf16";
  return all;
#else
  return "other";
#endif
}

// Of an exit only its loss may change; of a model what leaves tensors and their meaning alone.
bool may_change(std::string_view key) {
  if (key.starts_with("exits."))
    return !key.ends_with(".layer") && !key.ends_with(".head") && !key.ends_with(".output") && !key.ends_with(".norm");
  if (key.starts_with("model.")) return may_differ_from_base(key);
  return key != "training.seed" && key != "training.sequence_length" && key != "data.shuffle" && key != "data.document_mask" &&
         key != "optimizer.name" && key != "optimizer.momentum";
}

}  // namespace

std::map<std::string, std::string> fingerprints(const Config& config) {
  std::map<std::string, std::string> all;
  for (std::size_t i = 0; i < config.data.train.size(); ++i)
    for (const char* suffix : {".idx", ".bin"}) all[fmt::format("train.{}{}", i, suffix)] = fingerprint(config.data.train[i].path + suffix);
  return all;
}

std::map<std::string, std::string> made_by() {
  return {{"offramp", kVersion}, {"compiler", __VERSION__}, {"hdf5", hdf5_version()}, {"instruction_sets", instruction_sets()}};
}

std::map<std::string, std::int64_t> layout_of(const Config& config, const Degrees& degrees) {
  return {{"tensor", degrees.tensor},
          {"pipeline", degrees.pipeline},
          {"data", degrees.data},
          {"zero_stage", config.parallel.zero_stage},
          {"threads", config.training.threads}};
}

void check_resume(const Manifest& manifest, const Config& config, const std::map<std::string, std::string>& data) {
  const std::map<std::string, std::string> now = remembered(config);
  std::string changed;
  const auto compare = [&](const std::string& key, const std::string& was, const std::string& is) {
    if (was != is && !may_change(key)) changed += fmt::format("{}{} is {}, was {}", changed.empty() ? "" : "; ", key, is, was);
  };
  for (const auto& [key, value] : now) {
    const auto it = manifest.configuration.find(key);
    if (!manifest.configuration.empty()) compare(key, it == manifest.configuration.end() ? "not there" : it->second, value);
  }
  for (const auto& [key, value] : manifest.configuration)
    if (!now.contains(key)) compare(key, value, "not there");
  if (!changed.empty())
    fail(Exit::configuration,
         "a resumed job goes on with what it was: {}; set it back, or start a new job from its weights with "
         "model.from",
         changed);
  if (!manifest.data.empty() && manifest.data != data)
    fail(Exit::data, "data.train is not what the checkpoint of step {} was trained on; name the same files, or start anew", manifest.step);
}

std::string no_longer_bitwise(const Manifest& manifest, const Config& config, const Degrees& degrees) {
  std::string why;
  const auto note = [&](const std::string& what) { why += (why.empty() ? "" : ", ") + what; };
  for (const auto& [key, value] : layout_of(config, degrees)) {
    const auto it = manifest.layout.find(key);
    if (it != manifest.layout.end() && it->second != value) note(fmt::format("{} {} instead of {}", key, value, it->second));
  }
  for (const auto& [key, value] : made_by()) {
    const auto it = manifest.made_by.find(key);
    if (it != manifest.made_by.end() && it->second != value && key != "hdf5")
      note(fmt::format("{} '{}' instead of '{}'", key, value, it->second));
  }
  return why;
}

}  // namespace offramp
