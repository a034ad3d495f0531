// manifest.json: what a checkpoint holds, where every box of it lies, and checksums of every byte. Loading reads this and the bytes that
// it names; HDF5's own structure is for other tools.
//
//   {"format": "offramp checkpoint 1", "run_id": ..., "step": 100, ..., "files": [...], "datasets": [...], "checksum": "<16 hex digits>"}
//
// A checksum is XXH3's 64 bits: of each MiB of each file, and last in the manifest of all that stands before it.
//
// Nothing in a manifest is trusted: names lead nowhere but to files of its own directory, boxes lie within their tensors and their
// bytes within their files, no element of a tensor is given twice and none is missing. Every failure is an Error(Exit::checkpoint) that
// names the manifest.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "checkpoint/box.h"
#include "models/subnet.h"

namespace offramp {

// Parts of a file that have a checksum each.
inline constexpr std::size_t kSummed = std::size_t{1} << 20;

struct StoredFile {
  std::string name;  // in the checkpoint's directory
  std::uint64_t bytes = 0;
  std::vector<std::uint64_t> sums;
};

// Which of a tensor's numbers these are.
inline const std::string kWeights = "weights";  // in full precision
// and any of optimizer_state(): "exp_avg", ...

// A contiguous dataset: one box of one tensor, f32.
struct StoredBox {
  std::string kind, tensor;  // "weights", "model.norm.weight"
  Shape shape;               // of the whole tensor
  Box box;
  std::size_t file = 0;      // of Manifest::files
  std::string dataset;       // its name in the file
  std::uint64_t offset = 0;  // in the file
  std::uint64_t bytes() const { return static_cast<std::uint64_t>(box.elements()) * sizeof(float); }
};

struct Manifest {
  std::string run_id;
  std::int64_t step = 0, samples = 0, updates = 0;   // updates: steps that changed parameters
  std::map<std::string, std::string> configuration;  // by key: "training.seed", and of the exit at layer 2 "exits.2.head"
  std::map<std::string, std::int64_t> layout;        // tensor, pipeline, data, zero_stage, threads
  std::map<std::string, std::string> made_by;        // versions, processor
  std::map<std::string, std::string> data;           // fingerprints by corpus
  std::map<std::string, std::string> base;           // of a job with a frozen backbone: where that is (trainer/frozen_base.h)
  Space supernet;                                    // of a once-for-all model: the sizes that its subnets may have
  std::vector<StoredFile> files;
  std::vector<StoredBox> boxes;
};

std::string to_json(const Manifest& manifest);
Manifest parse_manifest(const std::string& path, const std::string& text);

// What one writer adds to the manifest, in a file of its own until all are there.
std::string part_to_json(const StoredFile& file, const std::vector<StoredBox>& boxes);
void add_part(Manifest& manifest, const std::string& path, const std::string& text);

}  // namespace offramp
