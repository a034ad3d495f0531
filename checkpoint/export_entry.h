// A tensor of an exported file, and which of the model's it is made of. Mostly it is one of them, as it is; GPT-2's files hold
// matrices transposed, [in, out], and q, k, v side by side in one.
//
//   for (const ExportEntry& entry : entries)      // on every rank
//     gather_entry(gatherer, entry, [&](std::span<const float> values) { if (rank == 0) writer.write(values); });
#pragma once
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/safetensors.h"

namespace offramp {

class Gatherer;

struct ExportEntry {
  TensorEntry file;                // name and shape there
  std::vector<std::string> parts;  // logical tensors of one shape, side by side along the last axis; several: vectors or transposed
  bool transposed = false;         // each part is a matrix [out, in], the file has [in, out]
};
std::vector<TensorEntry> file_entries(std::span<const ExportEntry> entries);
// Shape of each of the entry's parts, and all parts of all entries, in order.
Shape part_shape(const ExportEntry& entry);
std::vector<TensorEntry> logical_entries(std::span<const ExportEntry> entries);

// Collective over the world. Hands `take` the entry's elements in order, part after part: on rank 0 their values, elsewhere, as
// often, nothing. Memory is bounded by a few times Gatherer::kMost elements.
void gather_entry(Gatherer& gatherer, const ExportEntry& entry, const std::function<void(std::span<const float>)>& take);

}  // namespace offramp
