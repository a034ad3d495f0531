// Channels: what a subnet has the first so many of. An elastic axis is in several tensors at once: an MLP's column is a row of gate, a
// row of up and a column of down, and whoever puts columns in another order does so in all three, and the model computes what it did.
//
//   for (const Channels& channels : elastic_channels(model)) {
//     std::vector<double> importance(...);                     // [segments * count]
//     ... add_magnitudes(importance, lines, part) over all its parts, in their order ...
//     const auto order = order_by_importance(channels, importance);
//     ... permute_lines(lines, element_order(order, part.width)) over the same parts ...
//   }
//
// A tensor's *lines* along one of its axes are its rows' elements (axis 1), its columns' (axis 0), or a vector as a whole.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "models/model.h"

namespace offramp {

// A logical tensor's axis that is made of channels, `width` elements in a row each.
struct ChannelPart {
  std::string tensor;
  int axis = 0;
  std::int64_t width = 1;
};
struct Channels {
  std::string axis;           // of a space: "intermediate_size"
  std::int64_t segments = 1;  // of the axis, each with an order of its own: query heads stay in their group
  std::int64_t count = 0;     // a segment
  std::vector<ChannelPart> parts;
};

// Of every axis of width that the model's space has several sizes of; those of exits' own layers, too. In an order that is the model's
// alone: query heads of each layer, its groups, its MLP's columns, and at last the residual stream, which is one for all of the model.
std::vector<Channels> elastic_channels(Model& model);

// importance += the magnitudes of all that belongs to each channel, line after line.
void add_magnitudes(std::span<double> importance, std::span<const float> lines, const ChannelPart& part);
// Of each segment the most important first, equal ones in the order that they have. order[new place] = old place.
std::vector<std::int64_t> order_by_importance(const Channels& channels, std::span<const double> importance);
// The order of channels as one of single elements of an axis.
std::vector<std::int64_t> element_order(std::span<const std::int64_t> channels, std::int64_t width);
// Puts each line, as long as `order`, in that order.
void permute_lines(std::span<float> lines, std::span<const std::int64_t> order);

}  // namespace offramp
