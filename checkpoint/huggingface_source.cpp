#include "checkpoint/huggingface_source.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "checkpoint/huggingface.h"
#include "checkpoint/json_file.h"
#include "checkpoint/nearest_name.h"
#include "models/names.h"
#include "tensor/check.h"

namespace offramp {
namespace {

constexpr std::int64_t kPart = std::int64_t{1} << 20;  // elements of a tensor at a time

bool there(const std::string& path) {
  std::error_code error;  // opening says it better
  return std::filesystem::exists(path, error);
}

// Buffers that older versions of transformers saved: what they hold follows from the configuration.
bool is_buffer(std::string_view name) {
  const bool gpt2 = name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias");
  return gpt2 || name.ends_with(".rotary_emb.inv_freq");
}

std::string text_of(std::span<const std::int64_t> shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

bool has_shape(const SafetensorsReader::Stored& tensor, const Shape& shape) {
  return std::equal(tensor.shape.begin(), tensor.shape.end(), shape.size.begin(), shape.size.begin() + shape.rank);
}

void check_tensor(const Shards::Found& found, const TensorEntry& wanted) {
  const SafetensorsReader::Stored& tensor = *found.tensor;
  if (!has_shape(tensor, wanted.shape)) {
    fail(Exit::checkpoint, "{}: '{}' is {}, by its configuration it would be {}", found.file->path(), tensor.name, text_of(tensor.shape),
         to_text(wanted.shape));
  }
  if (tensor.dtype != "F32" && tensor.dtype != "F16" && tensor.dtype != "BF16") {
    fail(Exit::checkpoint, "{}: '{}' has the type {}, only F32, F16 and BF16 are read", found.file->path(), tensor.name, tensor.dtype);
  }
}

ExitSpec read_exit(const std::string& path, const nlohmann::json& json, const ModelConfig& model) {
  const auto refuse = [&](std::string_view why) {
    fail(Exit::checkpoint, "{}: {} {}", path, json.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace).substr(0, 200), why);
  };
  if (!json.is_object()) refuse("is no exit");
  ExitSpec exit;
  const auto word = [&](const char* key) { return json.contains(key) && json[key].is_string() ? json[key].get<std::string>() : ""; };
  const auto shared = [&](const char* key) {
    if (word(key) != "own" && word(key) != "shared") refuse(fmt::format("has no {} that is own or shared", key));
    return word(key) == "shared";
  };
  const bool sound = json.contains("layer") && json["layer"].is_number_unsigned() && json["layer"].get<std::uint64_t>() >= 1 &&
                     json["layer"].get<std::uint64_t>() <= static_cast<std::uint64_t>(model.num_hidden_layers);
  if (!sound) refuse(fmt::format("has no layer from 1 to {}", model.num_hidden_layers));
  exit.layer = json["layer"].get<int>();
  bool known = false;
  for (const HeadKind head : {HeadKind::bare, HeadKind::norm, HeadKind::mlp, HeadKind::block, HeadKind::attention}) {
    if (word("head") == name_of(head)) exit.head = head, known = true;
  }
  if (!known) refuse("has no head of a known kind");
  exit.shared_output = shared("output");
  exit.shared_norm = shared("norm") && exit.head != HeadKind::bare;
  for (const auto& [key, value] : json.items()) {
    if (key != "layer" && key != "head" && key != "output" && key != "norm") refuse(fmt::format("has the unknown key '{}'", key));
  }
  return exit;
}

}  // namespace

std::vector<ExitSpec> read_exits_json(const std::string& directory, const ModelConfig& model) {
  const std::string path = directory + "/exits.json";
  if (!there(path)) return {};
  const nlohmann::json json = read_json(path);
  if (json.size() != 1 || !json.contains("exits") || !json["exits"].is_array()) fail(Exit::checkpoint, "{}: is no list of exits", path);
  std::vector<ExitSpec> exits;
  std::set<int> layers;
  for (const auto& item : json["exits"]) {
    exits.push_back(read_exit(path, item, model));
    if (!layers.insert(exits.back().layer).second) fail(Exit::checkpoint, "{}: layer {} has two exits", path, exits.back().layer);
  }
  return exits;
}

HuggingFaceSource::HuggingFaceSource(const std::string& directory) : config_(read_config_json(directory)) {
  const ModelConfig& model = config_.model;
  backbone_ = std::make_unique<Shards>(directory, "model");
  // A count that is no model's would make a table of any size.
  if (static_cast<std::uint64_t>(model.num_hidden_layers) > backbone_->count()) {
    fail(Exit::checkpoint, "{}/config.json: {} layers, but the files hold only {} tensors", directory, model.num_hidden_layers,
         backbone_->count());
  }
  exits_ = read_exits_json(directory, model);
  add(*backbone_, backbone_entries(model), model.gpt2() ? "transformer." : "model.");
  if (model.tie_word_embeddings) check_tied_output();
  const std::string extra = directory + "/exits.safetensors";
  const std::vector<ExportEntry> of_exits = exit_entries(model, exits_);
  if (of_exits.empty() && !there(extra)) return;
  of_exits_ = std::make_unique<Shards>(directory, "exits");
  add(*of_exits_, of_exits, "");
}

// Every entry of the table must be in the files, and nothing else. Files of a base model leave its prefix out, all alike.
void HuggingFaceSource::add(const Shards& shards, const std::vector<ExportEntry>& table, const std::string& base_prefix) {
  const bool bare = !base_prefix.empty() && !table.empty() && !shards.find(table.front().file.name);
  const auto name_there = [&](const std::string& name) {
    return bare && name.starts_with(base_prefix) ? name.substr(base_prefix.size()) : name;
  };
  std::set<std::string, std::less<>> expected;
  for (const ExportEntry& entry : table) expected.insert(name_there(entry.file.name));
  for (const ExportEntry& entry : table) {
    const Shards::Found found = shards.find(name_there(entry.file.name));
    if (!found) {
      fail(Exit::checkpoint, "{}: '{}' is missing{}", shards.where(), entry.file.name,
           nearest_hint(name_there(entry.file.name), shards.names(), expected));
    }
    check_tensor(found, entry.file);
    const Shape shape = part_shape(entry);
    const auto parts = static_cast<std::int64_t>(entry.parts.size());
    for (std::int64_t part = 0; part < parts; ++part) {
      const std::string& name = entry.parts[static_cast<std::size_t>(part)];
      entries_.push_back({name, shape});
      places_[name] = {found, entry.transposed, part, parts, shape};
    }
  }
  for (const std::string& name : shards.names()) {
    const bool tied_output = config_.model.tie_word_embeddings && name == "lm_head.weight" && !base_prefix.empty();
    if (expected.contains(name) || is_buffer(name) || tied_output) continue;
    fail(Exit::checkpoint, "{}: '{}' is no tensor of this model{}", shards.find(name).file->path(), name,
         nearest_hint(name, std::vector<std::string>(expected.begin(), expected.end())));
  }
}

// A tied output matrix in the file must be the embedding: otherwise the configuration does not say what the model is.
void HuggingFaceSource::check_tied_output() const {
  const Shards::Found output = backbone_->find("lm_head.weight");
  if (!output) return;
  const TensorEntry& embedding = entries_.front();
  check_tensor(output, embedding);
  std::vector<float> a, b;
  for (std::int64_t first = 0; first < embedding.shape.elements(); first += kPart) {
    const auto count = static_cast<std::size_t>(std::min(kPart, embedding.shape.elements() - first));
    a.resize(count), b.resize(count);
    output.file->read(*output.tensor, static_cast<std::uint64_t>(first), a);
    const Shards::Found& tied = places_.at(embedding.name).found;
    tied.file->read(*tied.tensor, static_cast<std::uint64_t>(first), b);
    if (a != b) {
      fail(Exit::checkpoint,
           "{}: 'lm_head.weight' is not the embedding, though config.json says tie_word_embeddings: true; set it to false",
           output.file->path());
    }
  }
}

const HuggingFaceSource::Place& HuggingFaceSource::place_of(const std::string& name) const {
  const auto it = places_.find(name);
  OFFRAMP_CHECK(it != places_.end(), "[HuggingFaceSource] there is no tensor {}", name);
  return it->second;
}

void HuggingFaceSource::read(const std::string& name, std::int64_t first, std::int64_t count, float* out) {
  const Place& place = place_of(name);
  OFFRAMP_CHECK(first >= 0 && count >= 0 && first + count <= place.shape.elements(), "[HuggingFaceSource] {} {} has no elements {} + {}",
                name, to_text(place.shape), first, count);
  if (!place.transposed) {
    place.found.file->read(*place.found.tensor, static_cast<std::uint64_t>(place.part * place.shape.elements() + first),
                           std::span(out, static_cast<std::size_t>(count)));
    return;
  }
  for (const Box& box : boxes_between(first, count, place.shape[1])) {
    read_transposed(place, box, out);
    out += box.elements();
  }
}

void HuggingFaceSource::read_box(const std::string& name, const Shape& shape, const Box& box, float* out) {
  const Place& place = place_of(name);
  return place.transposed ? read_transposed(place, box, out) : TensorSource::read_box(name, shape, box, out);
}

// Element (row, column) is in the file at (column, part's first column + row). One row of the file at a time is read, as far as the
// wanted rows go.
void HuggingFaceSource::read_transposed(const Place& place, const Box& box, float* out) const {
  const std::int64_t rows = place.shape[0], width = rows * place.parts;
  std::vector<float> row_of_file(static_cast<std::size_t>(box.rows));
  for (std::int64_t c = 0; c < box.columns; ++c) {
    place.found.file->read(*place.found.tensor, static_cast<std::uint64_t>((box.column + c) * width + place.part * rows + box.row),
                           row_of_file);
    for (std::int64_t r = 0; r < box.rows; ++r) out[r * box.columns + c] = row_of_file[static_cast<std::size_t>(r)];
  }
}

}  // namespace offramp
