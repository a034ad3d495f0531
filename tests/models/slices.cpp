#include "slices.h"

namespace offramp::testing {
namespace {

std::map<std::string, Shape> shapes_of(const ModelConfig& config, const std::vector<ExitSpec>& exits) {
  Model model = build_model(config, exits);
  std::map<std::string, Shape> shapes;
  const Visitor add = [&](Parameter& p) {
    for (const Piece& piece : p.pieces) shapes[piece.name] = piece.global;
  };
  for (Unit& unit : model.units) unit.module->visit(add);
  for (Head& head : model.heads) head.visit(add);
  return shapes;
}

bool has(const std::string& name, const char* part) { return name.find(part) != std::string::npos; }

}  // namespace

Slices::Slices(const ModelConfig& whole, const Subnet& subnet, const std::vector<ExitSpec>& exits)
    : head_(whole.head_size()), queries_(whole.queries_per_group()), fewer_(spelled_out(subnet, whole).queries_per_group) {
  const auto small = shapes_of(narrowed(whole, subnet), exits);
  for (const auto& [name, shape] : shapes_of(whole, exits)) tensors_[name] = slice_of(name, shape, small.at(name));
}

// Every axis is a prefix, but for one of query heads, where each group's first ones follow each other.
Slices::Slice Slices::slice_of(const std::string& name, const Shape& whole, const Shape& small) const {
  const bool by_rows = has(name, "q_proj"), by_columns = has(name, "o_proj") || has(name, "attn.c_proj.weight");
  const auto spread = [this](std::int64_t at) {
    const std::int64_t head = at / head_;
    return (head / fewer_ * queries_ + head % fewer_) * head_ + at % head_;
  };
  Slice slice{.whole = whole, .inside = std::vector<bool>(static_cast<std::size_t>(whole.elements()))};
  const std::int64_t columns = small.rank == 2 ? small[1] : 1, stride = whole.rank == 2 ? whole[1] : 1;
  for (std::int64_t i = 0; i < small.elements(); ++i) {
    const std::int64_t row = i / columns, column = i % columns;
    slice.index.push_back((by_rows ? spread(row) : row) * stride + (by_columns ? spread(column) : column));
    slice.inside[static_cast<std::size_t>(slice.index.back())] = true;
  }
  return slice;
}

}  // namespace offramp::testing
