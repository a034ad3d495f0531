// One step's checkpoint, to read: <directory>/manifest.json, and the files beside it that the manifest names.
//
//   Checkpoint checkpoint(find_checkpoint("runs/quickstart/checkpoints"));   // reads the manifest
//   checkpoint.verify();                                                     // reads every byte
//   checkpoint.read(kWeights, "model.norm.weight", box, out);
//
// Reads by the manifest alone, and needs no ranks. Every failure is an Error(Exit::checkpoint) that names the file, and where a byte is
// wrong the tensor that it belongs to.
#pragma once
#include <functional>
#include <map>
#include <memory>

#include "checkpoint/manifest.h"
#include "checkpoint/tensor_source.h"

namespace offramp {

// Compares files first, first + step, ... of a manifest with their checksums; with the defaults all of them. `beat` hears of progress.
void verify_files(const std::string& directory, const Manifest& manifest, std::size_t first = 0, std::size_t step = 1,
                  const std::function<void()>& beat = {});

class Checkpoint {
 public:
  explicit Checkpoint(std::string directory);  // one step's
  ~Checkpoint();

  const std::string& directory() const { return directory_; }
  const Manifest& manifest() const { return manifest_; }
  std::vector<std::string> kinds() const;  // weights first

  void verify(std::size_t first = 0, std::size_t step = 1, const std::function<void()>& beat = {}) const;

  std::vector<TensorEntry> entries(const std::string& kind) const;
  const Shape* shape(const std::string& kind, const std::string& tensor) const;  // null: not there
  // A box of a tensor, its rows one after the other.
  void read(const std::string& kind, const std::string& tensor, const Box& box, float* out);

 private:
  class Files;
  void read_part(const StoredBox& stored, const Box& part, const Box& wanted, float* out);

  std::string directory_;
  Manifest manifest_;
  std::map<std::pair<std::string, std::string>, std::vector<std::size_t>> by_tensor_;  // indices of manifest().boxes
  std::unique_ptr<Files> files_;
  std::vector<float> buffer_;
};

// The tensors of one kind in a checkpoint: its weights.
class CheckpointTensors final : public TensorSource {
 public:
  explicit CheckpointTensors(Checkpoint& checkpoint, std::string kind = kWeights) : checkpoint_(checkpoint), kind_(std::move(kind)) {}
  std::vector<TensorEntry> entries() const override { return checkpoint_.entries(kind_); }
  void read(const std::string& name, std::int64_t first, std::int64_t count, float* out) override;
  void read_box(const std::string& name, const Shape& shape, const Box& box, float* out) override;

 private:
  Checkpoint& checkpoint_;
  std::string kind_;
};

// The steps that <directory>/step-* stand for, newest first.
std::vector<std::int64_t> steps_in(const std::string& directory);
std::string step_directory(const std::string& directory, std::int64_t step);  // "<directory>/step-100"
bool is_step_directory(const std::string& directory);

}  // namespace offramp
