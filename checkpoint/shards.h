// Shards: the safetensors files that together hold a model: STEM.safetensors, or those that STEM.safetensors.index.json names, all in
// one directory.
//
//   const Shards shards("hf", "model");
//   const auto found = shards.find("lm_head.weight");   // {reader, tensor}; null where there is none
//
// Refuses (Error(Exit::checkpoint)) an index with paths in it, a tensor that is not where the index says, and one in two files.
#pragma once
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/safetensors.h"

namespace offramp {

class Shards {
 public:
  struct Found {
    const SafetensorsReader* file = nullptr;
    const SafetensorsReader::Stored* tensor = nullptr;
    explicit operator bool() const { return tensor != nullptr; }
  };
  Shards(const std::string& directory, const std::string& stem);

  const std::string& where() const { return where_; }  // the file, or the index
  Found find(std::string_view name) const;
  std::vector<std::string> names() const;
  std::size_t count() const { return tensors_.size(); }

 private:
  void open(const std::string& path);

  std::string where_;
  std::vector<SafetensorsReader> files_;
  std::map<std::string, Found, std::less<>> tensors_;
};

}  // namespace offramp
