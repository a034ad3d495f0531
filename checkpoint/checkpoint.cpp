#include "checkpoint/checkpoint.h"

#include <algorithm>
#include <charconv>
#include <filesystem>

#include "checkpoint/checksum.h"
#include "checkpoint/input_file.h"
#include "tensor/check.h"

namespace offramp {
namespace {

constexpr std::size_t kMostManifest = std::size_t{1} << 30;
constexpr std::int64_t kBuffer = std::int64_t{1} << 20;  // elements

InputFile open_stored(const std::string& directory, const StoredFile& stored) {
  InputFile opened(directory + "/" + stored.name);
  if (opened.size() != stored.bytes)
    fail(Exit::checkpoint, "{}: has {} bytes, its manifest says {}; resume from another checkpoint", opened.path(), opened.size(),
         stored.bytes);
  return opened;
}

}  // namespace

// Open files, few at a time: there may be more writers than descriptors.
class Checkpoint::Files {
 public:
  Files(const std::string& directory, const Manifest& manifest) : directory_(directory), manifest_(manifest) {}

  const InputFile& open(std::size_t file) {
    const auto it = open_.find(file);
    if (it != open_.end()) return it->second;
    if (open_.size() >= 64) open_.clear();
    return open_.emplace(file, open_stored(directory_, manifest_.files[file])).first->second;
  }

 private:
  std::string directory_;
  const Manifest& manifest_;
  std::map<std::size_t, InputFile> open_;
};

Checkpoint::Checkpoint(std::string directory) : directory_(std::move(directory)) {
  const std::string path = directory_ + "/manifest.json";
  manifest_ = parse_manifest(path, read_file(path, kMostManifest));
  for (std::size_t i = 0; i < manifest_.boxes.size(); ++i) by_tensor_[{manifest_.boxes[i].kind, manifest_.boxes[i].tensor}].push_back(i);
  files_ = std::make_unique<Files>(directory_, manifest_);
}
Checkpoint::~Checkpoint() = default;

std::vector<std::string> Checkpoint::kinds() const {
  std::vector<std::string> all{kWeights};
  for (const auto& [name, boxes] : by_tensor_)
    if (name.first != kWeights && name.first != all.back()) all.push_back(name.first);
  return all;
}

void verify_files(const std::string& directory, const Manifest& manifest, std::size_t first, std::size_t step,
                  const std::function<void()>& beat) {
  std::vector<char> part(kSummed);
  for (std::size_t f = first; f < manifest.files.size(); f += step) {
    const StoredFile& file = manifest.files[f];
    const InputFile input = open_stored(directory, file);
    for (std::size_t i = 0; i < file.sums.size(); ++i) {
      const std::uint64_t begin = i * kSummed, bytes = std::min<std::uint64_t>(kSummed, file.bytes - begin);
      input.read(begin, part.data(), bytes);
      if (beat) beat();
      if (checksum({part.data(), bytes}) == file.sums[i]) continue;
      std::string tensors;
      for (const StoredBox& b : manifest.boxes)
        if (b.file == f && b.offset < begin + bytes && begin < b.offset + b.bytes() && tensors.size() < 200)
          tensors += fmt::format("{}{}", tensors.empty() ? " of " : ", ", b.dataset);
      fail(Exit::checkpoint, "{}: bytes {} to {}{} are not those that were written; resume from another checkpoint", input.path(), begin,
           begin + bytes, tensors);
    }
  }
}

void Checkpoint::verify(std::size_t first, std::size_t step, const std::function<void()>& beat) const {
  verify_files(directory_, manifest_, first, step, beat);
}

std::vector<TensorEntry> Checkpoint::entries(const std::string& kind) const {
  std::vector<TensorEntry> all;
  for (const auto& [name, boxes] : by_tensor_)
    if (name.first == kind) all.push_back({name.second, manifest_.boxes[boxes.front()].shape});
  return all;
}

const Shape* Checkpoint::shape(const std::string& kind, const std::string& tensor) const {
  const auto it = by_tensor_.find({kind, tensor});
  return it == by_tensor_.end() ? nullptr : &manifest_.boxes[it->second.front()].shape;
}

void Checkpoint::read(const std::string& kind, const std::string& tensor, const Box& wanted, float* out) {
  const auto it = by_tensor_.find({kind, tensor});
  OFFRAMP_CHECK(it != by_tensor_.end(), "[Checkpoint] {} has no {} of {}", directory_, kind, tensor);
  for (const std::size_t i : it->second) {
    const StoredBox& stored = manifest_.boxes[i];
    const Box part = stored.box & wanted;
    if (part.elements() > 0) read_part(stored, part, wanted, out);
  }
}

void Checkpoint::read_part(const StoredBox& stored, const Box& part, const Box& wanted, float* out) {
  const Box& box = stored.box;
  const std::int64_t most = std::max<std::int64_t>(1, kBuffer / box.columns);
  for (std::int64_t row = part.row; row < part.row + part.rows; row += most) {
    const std::int64_t rows = std::min(most, part.row + part.rows - row);
    // Whole rows of the box at once, or of a long row what is wanted.
    const std::int64_t first = rows > 1 ? 0 : part.column - box.column, width = rows > 1 ? box.columns : part.columns;
    buffer_.resize(static_cast<std::size_t>(rows * width));
    const std::int64_t at = (row - box.row) * box.columns + first;
    files_->open(stored.file)
        .read(stored.offset + static_cast<std::uint64_t>(at) * sizeof(float), buffer_.data(), buffer_.size() * sizeof(float));
    copy_box(out + (row - wanted.row) * wanted.columns + part.column - wanted.column, wanted.columns,
             buffer_.data() + part.column - box.column - first, width, {0, rows, 0, part.columns});
  }
}

void CheckpointTensors::read(const std::string& name, std::int64_t first, std::int64_t count, float* out) {
  const Shape* shape = checkpoint_.shape(kind_, name);
  if (!shape) fail(Exit::checkpoint, "{}: has no tensor {}", checkpoint_.directory(), name);
  OFFRAMP_CHECK(first >= 0 && count >= 0 && first + count <= shape->elements(), "[CheckpointTensors] {} {} has no elements {} + {}", name,
                to_text(*shape), first, count);
  for (const Box& box : boxes_between(first, count, matrix_of(*shape).columns)) {
    checkpoint_.read(kind_, name, box, out);
    out += box.elements();
  }
}

void CheckpointTensors::read_box(const std::string& name, const Shape&, const Box& box, float* out) {
  checkpoint_.read(kind_, name, box, out);
}

std::string step_directory(const std::string& directory, std::int64_t step) { return fmt::format("{}/step-{}", directory, step); }

bool is_step_directory(const std::string& directory) {
  const std::string name = std::filesystem::path(directory + "/.").lexically_normal().parent_path().filename();
  return name.starts_with("step-");
}

std::vector<std::int64_t> steps_in(const std::string& directory) {
  std::vector<std::int64_t> steps;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
    const std::string name = entry.path().filename();
    std::int64_t step = 0;
    if (!name.starts_with("step-")) continue;
    const auto [end, status] = std::from_chars(name.data() + 5, name.data() + name.size(), step);
    if (status == std::errc() && end == name.data() + name.size()) steps.push_back(step);
  }
  std::sort(steps.rbegin(), steps.rend());
  return steps;
}

}  // namespace offramp
