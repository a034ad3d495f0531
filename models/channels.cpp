#include "models/channels.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include "models/names.h"
#include "tensor/check.h"

namespace offramp {
namespace {

// Collects the channels of a model's axes; names of tensors that it does not have (biases, gates, an exit's layers) are passed over.
class Finder {
 public:
  explicit Finder(Model& model) : config_(model.config), space_(model.space), names_(model.config) {
    const Visitor note = [this](Parameter& p) {
      for (const Piece& piece : p.pieces) shapes_[piece.name] = piece.global;
    };
    for (Unit& unit : model.units) unit.module->visit(note);
    for (Head& head : model.heads) head.visit(note), exits_.insert(head.spec().layer);
    for (std::int64_t l = 0; l < config_.num_hidden_layers; ++l) layers_.push_back(names_.below(names_.layer(l)));
    for (const int exit : exits_)
      for (const std::string& prefix : {Names::exit(exit), Names::exit_block(exit)}) layers_.push_back(names_.below(prefix));
  }

  std::vector<Channels> run() {
    for (const LayerNames& layer : layers_) {
      if (space_.queries_per_group.size() > 1) queries(layer);
      if (space_.num_key_value_heads.size() > 1) groups(layer);
      if (space_.intermediate_size.size() > 1) columns(layer);
    }
    if (space_.hidden_size.size() > 1) residual_stream();
    return std::move(all_);
  }

 private:
  void queries(const LayerNames& layer) {
    begin("queries_per_group", config_.queries_per_group(), config_.num_key_value_heads);
    out(layer.query, config_.head_size());
    in(layer.attention_output, config_.head_size());
    end();
  }

  void groups(const LayerNames& layer) {
    begin("num_key_value_heads", config_.num_key_value_heads);
    out(layer.query, config_.queries_per_group() * config_.head_size());
    out(layer.key, config_.head_size());
    out(layer.value, config_.head_size());
    in(layer.attention_output, config_.queries_per_group() * config_.head_size());
    end();
  }

  void columns(const LayerNames& layer) {
    begin("intermediate_size", config_.intermediate_size);
    out(layer.gate);
    out(layer.up);
    in(layer.down);
    end();
  }

  void residual_stream() {
    begin("hidden_size", config_.hidden_size);
    in(names_.embedding);
    in(names_.positions);
    for (const LayerNames& layer : layers_) {
      for (const std::string& norm : {layer.first_norm, layer.second_norm}) out(norm);
      for (const std::string& reader : {layer.query, layer.key, layer.value, layer.gate, layer.up}) in(reader);
      for (const std::string& writer : {layer.attention_output, layer.down}) out(writer);
    }
    for (const int exit : exits_) out(Names::exit_norm(exit)), in(Names::exit_output(exit));
    out(names_.final_norm);
    if (names_.output != names_.embedding) in(names_.output);
    end();
  }

  void begin(const char* axis, std::int64_t count, std::int64_t segments = 1) { all_.push_back({axis, segments, count, {}}); }
  void end() {
    if (all_.back().parts.empty()) all_.pop_back();
  }
  // What a module puts out lies along its rows and its bias, what it reads along its columns.
  void out(const std::string& module, std::int64_t width = 1) {
    add({weight_of(module), 0, width});
    add({bias_of(module), 0, width});
  }
  void in(const std::string& module, std::int64_t width = 1) { add({weight_of(module), 1, width}); }
  void add(ChannelPart part) {
    const auto it = shapes_.find(part.tensor);
    if (it == shapes_.end()) return;
    const Channels& channels = all_.back();
    OFFRAMP_CHECK(it->second[part.axis] == channels.segments * channels.count * part.width, "[channels] {} {} along axis {}: {} x {} of {}",
                  part.tensor, to_text(it->second), part.axis, channels.segments, channels.count, part.width);
    all_.back().parts.push_back(std::move(part));
  }

  const ModelConfig& config_;
  const Space& space_;
  const Names names_;
  std::map<std::string, Shape> shapes_;
  std::set<int> exits_;  // by layer; the final head is at the last one, with names of its own
  std::vector<LayerNames> layers_;
  std::vector<Channels> all_;
};

}  // namespace

std::vector<Channels> elastic_channels(Model& model) {
  OFFRAMP_CHECK(!model.frozen, "[channels] a frozen backbone stays in the order that it has");
  return Finder(model).run();
}

void add_magnitudes(std::span<double> importance, std::span<const float> lines, const ChannelPart& part) {
  const auto width = static_cast<std::size_t>(part.width), length = importance.size() * width;
  OFFRAMP_CHECK(lines.size() % length == 0, "[channels] {} elements in lines of {}", lines.size(), length);
  for (std::size_t line = 0; line < lines.size(); line += length)
    for (std::size_t i = 0; i < length; ++i) importance[i / width] += std::abs(static_cast<double>(lines[line + i]));
}

std::vector<std::int64_t> order_by_importance(const Channels& channels, std::span<const double> importance) {
  std::vector<std::int64_t> order(importance.size());
  std::iota(order.begin(), order.end(), 0);
  for (auto first = order.begin(); first != order.end(); first += channels.count)
    std::stable_sort(first, first + channels.count, [&](std::int64_t a, std::int64_t b) {
      return importance[static_cast<std::size_t>(a)] > importance[static_cast<std::size_t>(b)];
    });
  return order;
}

std::vector<std::int64_t> element_order(std::span<const std::int64_t> channels, std::int64_t width) {
  std::vector<std::int64_t> order;
  for (const std::int64_t channel : channels)
    for (std::int64_t i = 0; i < width; ++i) order.push_back(channel * width + i);
  return order;
}

void permute_lines(std::span<float> lines, std::span<const std::int64_t> order) {
  const std::size_t length = order.size();
  OFFRAMP_CHECK(length > 0 && lines.size() % length == 0, "[channels] {} elements in lines of {}", lines.size(), length);
  std::vector<float> before(length);
  for (std::size_t line = 0; line < lines.size(); line += length) {
    std::copy_n(lines.begin() + static_cast<std::ptrdiff_t>(line), length, before.begin());
    for (std::size_t i = 0; i < length; ++i) lines[line + i] = before[static_cast<std::size_t>(order[i])];
  }
}

}  // namespace offramp
