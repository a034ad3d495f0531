// HDF5 files, as other tools read them: contiguous datasets, and an index of virtual ones. Only structure is made here, in memory; the
// numbers go to the places that are returned.
//
// Every failure is an Error(Exit::checkpoint).
#pragma once
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/manifest.h"

namespace offramp {

// A file of `size` bytes: what stands where. Between the pieces are numbers, or nothing, which is zeros.
struct Hdf5Structure {
  std::map<std::uint64_t, std::string> pieces;  // by offset; they neither touch nor overlap
  std::uint64_t size = 0;
};

// A file with a contiguous dataset of f32 for each box, named as the box says; its place in the file goes into `offset`.
Hdf5Structure hdf5_of(std::span<StoredBox> boxes);

// A file in which each tensor of each kind is one dataset, /<kind>/<tensor>, made of the boxes in the files beside it.
std::string hdf5_index_of(const Manifest& manifest);

// "1.10.8"
std::string hdf5_version();

}  // namespace offramp
