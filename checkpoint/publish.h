// How a checkpoint comes to stand under its name: whole, or not at all.
#pragma once
#include <functional>

#include "checkpoint/checkpoint.h"

namespace offramp {

// Removes what saves that never ended left in a directory.
void remove_unfinished(const std::string& directory);

// Adds the index and the manifest to the files that stand in `temporary` (those that the manifest does not list yet are listed), syncs them
// and gives the directory the name of its step in `directory`; `latest` names it.
void publish(const std::string& temporary, const std::string& directory, Manifest manifest);

// A whole checkpoint, from one process: head's step, in `directory`. Tensors of every kind, in order; `rows` as in write_box_file(), of
// boxes that are whole tensors. In so many files of about equal size. add_files puts others into the directory: a tokenizer's.
struct TensorOfKind {
  std::string kind, tensor;
  Shape shape;
};
using ReadBox = std::function<void(const TensorOfKind& tensor, const Box& box, float* out)>;
void write_checkpoint(const std::string& directory, Manifest head, const std::vector<TensorOfKind>& tensors, const ReadBox& read, int files = 1,
                      const std::function<void(const std::string& directory)>& add_files = {});

}  // namespace offramp
