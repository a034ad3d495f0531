// HDF5 files, as other tools read them: contiguous datasets, and an index of virtual ones. Only structure is written here; the numbers go
// to the places that are returned.
//
// Every failure is an Error(Exit::checkpoint) that names the file.
#pragma once
#include <span>
#include <string>
#include <vector>

#include "checkpoint/manifest.h"

namespace offramp {

// A file with a contiguous dataset of f32 for each box, named as the box says; its place in the file goes into `offset`.
void create_hdf5(const std::string& path, std::span<StoredBox> boxes);

// A file in which each tensor of each kind is one dataset, /<kind>/<tensor>, made of the boxes in the files beside it.
void create_hdf5_index(const std::string& path, const Manifest& manifest);

// "1.10.8"
std::string hdf5_version();

}  // namespace offramp
