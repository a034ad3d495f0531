#include "checkpoint/sliced_source.h"

#include <algorithm>

#include "checkpoint/huggingface.h"
#include "models/names.h"
#include "tensor/check.h"

namespace offramp {
namespace {

std::vector<TensorEntry> all_entries(const ModelConfig& model, std::span<const ExitSpec> exits) {
  std::vector<TensorEntry> all = logical_entries(backbone_entries(model));
  for (TensorEntry& entry : logical_entries(exit_entries(model, exits))) all.push_back(std::move(entry));
  return all;
}

AxisSlice prefix(std::int64_t used, std::int64_t stored) {
  OFFRAMP_CHECK(used <= stored, "[SlicedSource] {} of {} elements", used, stored);
  return {1, used, stored};
}

AxisSlice query_heads(const ModelConfig& narrow, const ModelConfig& whole) {
  const std::int64_t head = whole.head_size();
  return {narrow.num_key_value_heads, narrow.queries_per_group() * head, whole.queries_per_group() * head};
}

// Elements of an axis that follow each other in the slice and in the whole.
struct Stretch {
  std::int64_t slice, whole, count;
};
std::vector<Stretch> stretches(const AxisSlice& axis, std::int64_t first, std::int64_t count) {
  if (axis.groups == 1 || axis.used == axis.stored) return {{first, first, count}};
  std::vector<Stretch> all;
  for (std::int64_t at = first; at < first + count;) {
    const std::int64_t group = at / axis.used, in_group = at % axis.used, taken = std::min(axis.used - in_group, first + count - at);
    all.push_back({at, group * axis.stored + in_group, taken});
    at += taken;
  }
  return all;
}

}  // namespace

SlicedSource::SlicedSource(TensorSource& whole, const ModelConfig& model, std::span<const ExitSpec> exits, const Subnet& subnet)
    : whole_(whole) {
  Subnet width = subnet;
  width.num_hidden_layers = 0;
  const ModelConfig narrow = narrowed(model, width);
  const LayerNames names = Names(model).below("");
  entries_ = all_entries(narrow, exits);
  const std::vector<TensorEntry> there = all_entries(model, exits);
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    const auto& [name, shape] = entries_[i];
    const Matrix here = matrix_of(shape), of_whole = matrix_of(there[i].shape);
    Slice slice{there[i].shape, here.columns, prefix(here.rows, of_whole.rows), prefix(here.columns, of_whole.columns)};
    if (name.ends_with(weight_of(names.query))) slice.rows = query_heads(narrow, model);
    if (name.ends_with(bias_of(names.query)) || name.ends_with(weight_of(names.attention_output)))
      slice.columns = query_heads(narrow, model);
    slices_[name] = slice;
  }
}

const SlicedSource::Slice& SlicedSource::slice_of(const std::string& name) const {
  const auto it = slices_.find(name);
  OFFRAMP_CHECK(it != slices_.end(), "[SlicedSource] there is no tensor {}", name);
  return it->second;
}

void SlicedSource::read(const std::string& name, std::int64_t first, std::int64_t count, float* out) {
  const Slice& slice = slice_of(name);
  for (const Box& box : boxes_between(first, count, slice.width)) {
    read_slice(name, slice, box, out);
    out += box.elements();
  }
}

void SlicedSource::read_box(const std::string& name, const Shape&, const Box& box, float* out) {
  read_slice(name, slice_of(name), box, out);
}

void SlicedSource::read_slice(const std::string& name, const Slice& slice, const Box& box, float* out) {
  for (const Stretch& rows : stretches(slice.rows, box.row, box.rows)) {
    for (const Stretch& columns : stretches(slice.columns, box.column, box.columns)) {
      const Box from{rows.whole, rows.count, columns.whole, columns.count};
      float* to = out + (rows.slice - box.row) * box.columns + columns.slice - box.column;
      if (columns.count == box.columns) {
        whole_.read_box(name, slice.whole, from, to);
        continue;
      }
      part_.resize(static_cast<std::size_t>(from.elements()));
      whole_.read_box(name, slice.whole, from, part_.data());
      copy_box(to, box.columns, part_.data(), columns.count, {0, rows.count, 0, columns.count});
    }
  }
}

}  // namespace offramp
