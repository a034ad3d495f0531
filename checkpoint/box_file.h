// The file of one writer of a checkpoint: its boxes' numbers, and what it adds to the manifest. One pass over the file in the order of
// its bytes: what goes to the disk is summed on its way from memory, not read back.
#pragma once
#include <functional>

#include "checkpoint/manifest.h"

namespace offramp {

// Where rows first .. first + count of a box stand, dense: at `room` if they have to be put there.
using BoxRows = std::function<const float*(std::size_t box, std::int64_t first, std::int64_t count, float* room)>;

// Writes <directory>/<name>, reads it back, and syncs it. Names the boxes' datasets, and sets their offsets. Error(Exit::checkpoint).
StoredFile write_box_file(const std::string& directory, const std::string& name, std::vector<StoredBox>& boxes, const BoxRows& rows);

// Of a file that is there already.
StoredFile summed_file(const std::string& directory, const std::string& name);

}  // namespace offramp
