// The few elements that pictures are made of. Text stays text; there are no scripts and no fonts of its own; equal arguments give equal
// bytes.
#pragma once
#include <string>
#include <string_view>

namespace offramp::svg {

std::string escaped(std::string_view text);
std::string number(double value);  // at most two decimals
std::string text(double x, double y, std::string_view anchor, int size, std::string_view color, std::string_view content);
// `more`: attributes, and how the element ends: "/" or, to put a title in it, "".
std::string box(double x, double y, double width, double height, std::string_view fill, std::string_view more = "/");
// A white page with a title, to be closed by "</svg>".
std::string opening(double width, double height, std::string_view title);

}  // namespace offramp::svg
