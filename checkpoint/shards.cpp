#include "checkpoint/shards.h"

#include <filesystem>
#include <set>

#include "checkpoint/json_file.h"
#include "tensor/check.h"

namespace offramp {
namespace {

namespace fs = std::filesystem;

// A name of a file in the same directory, nothing that leads elsewhere.
bool is_plain_name(const std::string& name) {
  return !name.empty() && name.find_first_of(std::string("/\\\0", 3)) == std::string::npos && name.find("..") == std::string::npos &&
         name != ".";
}

// Tensor to file, as the index says.
std::map<std::string, std::string> read_index(const std::string& path) {
  constexpr std::size_t kMaxFiles = 10000;
  const nlohmann::json json = read_json(path);
  const auto map = json.find("weight_map");
  if (map == json.end() || !map->is_object() || map->empty()) fail(Exit::checkpoint, "{}: has no weight_map", path);
  std::map<std::string, std::string> files;
  std::set<std::string> names;
  for (const auto& [tensor, file] : map->items()) {
    const std::string name = file.is_string() ? file.get<std::string>() : "";
    if (!is_plain_name(name) || !name.ends_with(".safetensors")) {
      fail(Exit::checkpoint, "{}: '{}' is said to be in {}, which is no safetensors file of this directory", path, tensor,
           file.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace).substr(0, 200));
    }
    files[tensor] = name;
    names.insert(name);
  }
  if (names.size() > kMaxFiles) fail(Exit::checkpoint, "{}: names {} files, {} are allowed", path, names.size(), kMaxFiles);
  return files;
}

}  // namespace

Shards::Shards(const std::string& directory, const std::string& stem) {
  const std::string whole = directory + "/" + stem + ".safetensors", index = whole + ".index.json";
  std::error_code error;  // opening says it better
  if (fs::exists(whole, error) || !fs::exists(index, error)) {
    files_.reserve(1);
    where_ = whole;
    open(whole);
    return;
  }
  where_ = index;
  const auto listed = read_index(index);
  std::set<std::string> names;
  for (const auto& [tensor, file] : listed) names.insert(file);
  files_.reserve(names.size());  // what was found points into it
  for (const std::string& name : names) open(directory + "/" + name);
  for (const auto& [tensor, file] : listed) {
    const Found found = find(tensor);
    if (!found || found.file->path() != directory + "/" + file) {
      fail(Exit::checkpoint, "{}: says that '{}' is in {}, where it is not", index, tensor, file);
    }
  }
}

void Shards::open(const std::string& path) {
  const SafetensorsReader& file = files_.emplace_back(path);
  for (const auto& tensor : file.tensors()) {
    const auto [it, fresh] = tensors_.try_emplace(tensor.name, Found{&file, &tensor});
    if (!fresh) fail(Exit::checkpoint, "{}: '{}' is also in {}", path, tensor.name, it->second.file->path());
  }
}

Shards::Found Shards::find(std::string_view name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? Found{} : it->second;
}

std::vector<std::string> Shards::names() const {
  std::vector<std::string> all;
  for (const auto& [name, found] : tensors_) all.push_back(name);
  return all;
}

}  // namespace offramp
