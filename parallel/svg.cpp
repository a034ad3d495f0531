#include "parallel/svg.h"

#include <fmt/format.h>

namespace offramp::svg {

std::string escaped(std::string_view text) {
  std::string result;
  for (const char c : text) {
    if (c == '&')
      result += "&amp;";
    else if (c == '<')
      result += "&lt;";
    else if (c == '>')
      result += "&gt;";
    else if (c == '"')
      result += "&quot;";
    else if (static_cast<unsigned char>(c) >= ' ')
      result += c;  // XML has no control characters
  }
  return result;
}

std::string number(double value) {
  std::string text = fmt::format("{:.2f}", value);
  text.erase(text.find_last_not_of('0') + 1);
  if (text.back() == '.') text.pop_back();
  return text == "-0" ? "0" : text;
}

std::string text(double x, double y, std::string_view anchor, int size, std::string_view color, std::string_view content) {
  return fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"{}\" font-size=\"{}\" fill=\"{}\">{}</text>\n", number(x), number(y), anchor,
                     size, color, escaped(content));
}

std::string box(double x, double y, double width, double height, std::string_view fill, std::string_view more) {
  return fmt::format("<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"{}\"{}>", number(x), number(y), number(width),
                     number(height), fill, more);
}

std::string opening(double width, double height, std::string_view title) {
  return fmt::format(
             "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} {1}\" font-family=\"sans-serif\">\n",
             number(width), number(height)) +
         fmt::format("<title>{}</title>\n", escaped(title)) + box(0, 0, width, height, "#ffffff") + "\n";
}

}  // namespace offramp::svg
