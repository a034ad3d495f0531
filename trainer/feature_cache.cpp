#include "trainer/feature_cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "checkpoint/checksum.h"
#include "checkpoint/json_file.h"
#include "tensor/check.h"
#include "tensor/ops.h"
#include "trainer/feature_files.h"

namespace offramp {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr const char* kDelete = "delete it and the features are made again, or name another directory";

[[noreturn]] void refuse(const std::string& directory, const std::string& why) { fail(Exit::data, "{}: {}; {}", directory, why, kDelete); }

Json parsed(const std::string& directory, const std::string& path) {
  try {
    return read_json(path);
  } catch (const Error& error) {
    refuse(directory, fmt::format("is damaged: {}", error.what()));
  }
}

// What there is, in the same form as what is wanted.
Features read_description(const std::string& directory) {
  const std::string path = directory + "/" + kFeatureDescription;
  Json json = parsed(directory, path);
  try {
    const std::string sum = json.at("checksum").get<std::string>();
    json.erase("checksum");
    if (sum != hex(checksum(summed(json)))) refuse(directory, fmt::format("is damaged: {} does not have its checksum", path));
    if (json.at("format") != kFeatureFormat) refuse(directory, fmt::format("is of another version: {}", summed(json.at("format"))));
    Features features;
    features.of = json.at("of").get<std::map<std::string, std::string>>();
    features.taps = json.at("taps").get<std::vector<int>>();
    for (const Json& set : json.at("sets"))
      features.sets.push_back(
          {set.at("path").get<std::string>(), set.at("identity").get<std::string>(), set.at("samples").get<std::int64_t>()});
    return features;
  } catch (const Json::exception& error) {
    refuse(directory, fmt::format("is damaged: {}: {}", path, error.what()));
  }
}

// Where two jobs' features differ in what they are of.
void compare(const std::string& directory, const Features& has, const Features& wanted) {
  for (const auto& [what, is] : wanted.of) {
    const auto it = has.of.find(what);
    const std::string was = it == has.of.end() ? "not there" : it->second;
    if (was != is) refuse(directory, fmt::format("holds features of another job: {} is {} here, was {}", what, is, was));
  }
  for (const auto& [what, was] : has.of)
    if (!wanted.of.contains(what)) refuse(directory, fmt::format("holds features of another job: {} was {}", what, was));
}

std::size_t find_set(const std::string& directory, const Features& has, const FeatureSet& wanted) {
  const auto it = std::ranges::find(has.sets, wanted.identity, &FeatureSet::identity);
  if (it == has.sets.end()) refuse(directory, fmt::format("has no features of {} as that is now", wanted.path));
  if (it->samples < wanted.samples)
    refuse(directory, fmt::format("has features of {} samples of {}, this job needs {}", it->samples, wanted.path, wanted.samples));
  return static_cast<std::size_t>(it - has.sets.begin());
}

std::unique_ptr<MappedFile> open_file(const std::string& path, std::size_t bytes) {
  std::error_code error;
  const std::uintmax_t size = fs::file_size(path, error);
  const std::string directory = fs::path(path).parent_path().string();
  if (error) refuse(directory, fmt::format("is damaged: {} cannot be read", path));
  if (size != bytes) refuse(directory, fmt::format("is damaged: {} has {} bytes, should have {}", path, size, bytes));
  return std::make_unique<MappedFile>(path);
}

}  // namespace

bool FeatureCache::is_there(const std::string& directory) {
  std::error_code ignored;  // who makes features there says it better
  return fs::exists(directory + "/" + kFeatureDescription, ignored);
}

FeatureCache::FeatureCache(const std::string& directory, const Features& wanted) : directory_(directory), wanted_(wanted) {
  const Features has = read_description(directory);
  compare(directory, has, wanted);
  for (const int tap : wanted.taps)
    if (std::ranges::find(has.taps, tap) == has.taps.end()) refuse(directory, fmt::format("has no features of {}", feature_name(tap)));
  for (const FeatureSet& set : wanted.sets) {
    const std::size_t number = find_set(directory, has, set);
    const auto samples = static_cast<std::size_t>(has.sets[number].samples);
    for (const int tap : wanted.taps) {
      const std::string path = feature_path(directory, number, tap);
      files_.push_back({open_file(path + kFeatureSuffix, samples * wanted.sample_bytes()),
                        open_file(path + kSumSuffix, samples * sizeof(std::uint64_t))});
    }
  }
}

void FeatureCache::read(Context& ctx, const FeaturePlace& place, Tensor to) const {
  const File& from = file(place);
  const std::size_t bytes = wanted_.sample_bytes(), offset = static_cast<std::size_t>(place.sample) * bytes;
  OFFRAMP_CHECK(place.sample >= 0 && offset + bytes <= from.features->size(), "[features] sample {}", place.sample);
  const std::byte* data = from.features->data() + offset;
  const auto sum = from.sums->load<std::uint64_t>(static_cast<std::size_t>(place.sample) * sizeof(std::uint64_t));
  if (checksum({reinterpret_cast<const char*>(data), bytes}) != sum)
    refuse(directory_, fmt::format("is damaged: sample {} of {} does not have its checksum", place.sample, from.features->path()));
  copy(ctx, to, Tensor(const_cast<std::byte*>(data), wanted_.shape(), wanted_.type));
}

void FeatureCache::prefetch(const FeaturePlace& place) const {
  const std::size_t bytes = wanted_.sample_bytes();
  file(place).features->prefetch(static_cast<std::size_t>(place.sample) * bytes, bytes);
}

}  // namespace offramp
