// Kinds of work: what a reader of a timeline tells apart. The one place that says which action is of which kind, for pictures,
// traces, measured ones too, and tables.
#pragma once
#include "parallel/schedule.h"

namespace offramp {

enum class Kind : std::uint8_t { forward, backward, weight_gradient, recompute, exit, communication, gradients };
inline constexpr std::array kKinds = {Kind::forward, Kind::backward,      Kind::weight_gradient, Kind::recompute,
                                      Kind::exit,    Kind::communication, Kind::gradients};

Kind kind_of(Op op);
// Of an action's text, "B7.1@0". What is no action counts as communication: it computes nothing that is known here.
Kind kind_of(std::string_view action);
std::string_view name_of(Kind kind);    // "weight gradient"
std::string_view color_of(Kind kind);   // "#0072b2"; told apart by the colour-blind, and in grey
std::string_view chrome_of(Kind kind);  // the colour's name ("cname") in a Chrome trace

}  // namespace offramp
