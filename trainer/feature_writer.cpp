#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "checkpoint/checksum.h"
#include "checkpoint/file.h"
#include "checkpoint/json_file.h"
#include "tensor/check.h"
#include "tensor/ops.h"
#include "trainer/feature_cache.h"
#include "trainer/feature_files.h"

namespace offramp {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr std::size_t kSyncBytes = std::size_t{64} << 20;  // a disk's whole backlog at the end would keep all ranks waiting

bool is_ours(const fs::path& path) {
  const std::string name = path.filename().string();
  return name == kFeaturesUnfinished || name.starts_with(kFeatureDescription) || path.extension() == kFeatureSuffix ||
         path.extension() == kSumSuffix;
}

// What was begun and not finished goes; what somebody else has there stays.
void clear(const std::string& directory) {
  const bool begun = fs::exists(directory + "/" + kFeaturesUnfinished);
  for (const fs::directory_entry& entry : fs::directory_iterator(directory)) {
    if (entry.path().filename().string().starts_with("run.lock")) continue;
    if (!begun || !is_ours(entry.path()))
      fail(Exit::data, "{}: holds other files ({}) and no features; name a new directory", directory, entry.path().filename().string());
  }
  for (const fs::directory_entry& entry : fs::directory_iterator(directory))
    if (is_ours(entry.path()) && entry.path().filename() != kFeaturesUnfinished) fs::remove(entry.path());
}

void make_file(const std::string& path, std::size_t bytes) {
  const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (file < 0) fail_io(path, "create", errno);
  const int failed = ::ftruncate(file, static_cast<off_t>(bytes)) == 0 ? 0 : errno;
  ::close(file);
  if (failed != 0) fail_io(path, "write", failed);
}

template <class F>
void each_file(const std::string& directory, const Features& features, F&& body) {
  for (std::size_t set = 0; set < features.sets.size(); ++set)
    for (const int tap : features.taps)
      for (const char* suffix : {kFeatureSuffix, kSumSuffix}) {
        const std::size_t one = suffix == kFeatureSuffix ? features.sample_bytes() : sizeof(std::uint64_t);
        body(feature_path(directory, set, tap) + suffix, static_cast<std::size_t>(features.sets[set].samples) * one);
      }
}

}  // namespace

std::size_t Features::bytes() const {
  std::size_t all = 0;
  for (const FeatureSet& set : sets) all += static_cast<std::size_t>(set.samples) * taps.size() * (sample_bytes() + sizeof(std::uint64_t));
  return all;
}

void FeatureWriter::prepare(const std::string& directory, const Features& features) {
  try {
    fs::create_directories(directory);
    clear(directory);
    make_file(directory + "/" + kFeaturesUnfinished, 0);
    const std::size_t needed = features.bytes(), free = fs::space(directory).available;
    if (needed > free)
      fail(Exit::data, "{}: the features take {:.2f} GB, {:.2f} GB are free; name a directory on another disk, or use fewer data",
           directory, static_cast<double>(needed) / 1e9, static_cast<double>(free) / 1e9);
    each_file(directory, features, make_file);
  } catch (const fs::filesystem_error& error) {
    fail(Exit::data, "tuning.feature_cache: {}; name another directory", error.what());
  }
}

void FeatureWriter::publish(const std::string& directory, const Features& features) {
  Json json = {{"format", kFeatureFormat}, {"of", features.of}, {"taps", features.taps}, {"sets", Json::array()}};
  for (const FeatureSet& set : features.sets)
    json["sets"].push_back({{"path", set.path}, {"identity", set.identity}, {"samples", set.samples}});
  json["checksum"] = hex(checksum(summed(json)));
  write_file(directory + "/" + kFeatureDescription, summed(json) + "\n");
  sync_path(directory);
  fs::remove(directory + "/" + kFeaturesUnfinished);
}

FeatureWriter::FeatureWriter(const std::string& directory, const Features& features)
    : features_(features), sample_(features.sample_bytes()) {
  each_file(directory, features, [&](const std::string& path, std::size_t) {
    File& file = files_.emplace_back(File{path, ::open(path.c_str(), O_WRONLY | O_CLOEXEC), 0});
    if (file.descriptor < 0) fail_io(path, "open", errno);
  });
}

FeatureWriter::~FeatureWriter() {
  for (const File& file : files_) ::close(file.descriptor);
}

void FeatureWriter::write(Context& ctx, const FeaturePlace& place, Tensor from) {
  const std::size_t first = 2 * (place.set * features_.taps.size() + place.tap), sample = static_cast<std::size_t>(place.sample);
  copy(ctx, Tensor(sample_.data(), features_.shape(), features_.type), from);
  const std::uint64_t sum = checksum({reinterpret_cast<const char*>(sample_.data()), sample_.size()});
  write_at(files_[first], sample * sample_.size(), sample_.data(), sample_.size());
  write_at(files_[first + 1], sample * sizeof(sum), &sum, sizeof(sum));
}

void FeatureWriter::write_at(File& file, std::size_t offset, const void* data, std::size_t bytes) {
  const char* from = static_cast<const char*>(data);
  for (std::size_t done = 0; done < bytes;) {
    const ssize_t written = ::pwrite(file.descriptor, from + done, bytes - done, static_cast<off_t>(offset + done));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) fail_io(file.path, "write", errno);
    done += static_cast<std::size_t>(written);
  }
  file.unsynced += bytes;
  if (file.unsynced < kSyncBytes) return;
  if (::fdatasync(file.descriptor) != 0) fail_io(file.path, "write", errno);
  file.unsynced = 0;
}

void FeatureWriter::finish() {
  for (File& file : files_)
    if (::fdatasync(file.descriptor) != 0) fail_io(file.path, "write", errno);
}

}  // namespace offramp
