// A search's result as a picture.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "parallel/svg.h"
#include "trainer/search_result.h"

namespace offramp {
namespace {

constexpr double kWidth = 860, kHeight = 520, kLeft = 70, kRight = 24, kTop = 76, kBottom = 56;
constexpr const char *kMeasured = "#9db4c8", *kProposed = "#4f7cac", *kFront = "#c0392b";

// From values to pixels, with room at both ends.
struct Axis {
  Axis(double least, double most, double first_pixel, double last_pixel) : from(first_pixel), to(last_pixel) {
    const double margin = most > least ? 0.05 * (most - least) : 0.05 * std::max(std::abs(most), 1e-9);
    begin = least - margin, end = most + margin;
  }
  double at(double value) const { return from + (to - from) * (value - begin) / (end - begin); }
  // Round values, at most eight of them.
  std::vector<double> ticks() const {
    const double rough = (end - begin) / 8, power = std::pow(10, std::floor(std::log10(rough)));
    const double step = power * (rough <= power ? 1 : rough <= 2 * power ? 2 : rough <= 5 * power ? 5 : 10);
    std::vector<double> values;
    for (auto k = static_cast<std::int64_t>(std::ceil(begin / step)); static_cast<double>(k) * step <= end; ++k)
      values.push_back(static_cast<double>(k) * step);
    return values;
  }
  double begin = 0, end = 0, from, to;
};

// Millions, and milliseconds.
double scaled(CostKind kind, double cost) { return kind == CostKind::latency ? 1e3 * cost : cost / 1e6; }
const char* unit_of(CostKind kind) {
  return kind == CostKind::flops ? "MFLOPs a token" : kind == CostKind::parameters ? "million parameters" : "ms a sample";
}

class Plot {
 public:
  explicit Plot(const SearchResult& result)
      : result_(result), x_(axis(&Plot::cost, kLeft, kWidth - kRight)), y_(axis(&Plot::loss, kHeight - kBottom, kTop)) {}

  std::string draw() {
    const std::string title =
        fmt::format("loss of {} subnets over {} samples of {} tokens", result_.subnets.size(), result_.samples, result_.sequence_length);
    svg_ = svg::opening(kWidth, kHeight, title) + svg::text(kLeft, 24, "start", 16, "#111111", title);
    svg_ += svg::text(kLeft, 42, "start", 11, "#555555", fmt::format("{}, {}", result_.directory, result_.data));
    draw_legend();
    draw_axes();
    draw_limit();
    draw_front();
    for (std::size_t i = 0; i < result_.subnets.size(); ++i) draw_point(i);
    return svg_ + "</svg>\n";
  }

 private:
  double cost(const MeasuredSubnet& subnet) const { return scaled(result_.by, subnet.cost(result_.by)); }
  double loss(const MeasuredSubnet& subnet) const { return subnet.loss; }
  Axis axis(double (Plot::*value)(const MeasuredSubnet&) const, double from, double to) const {
    double least = INFINITY, most = -INFINITY;
    for (const MeasuredSubnet& subnet : result_.subnets) {
      least = std::min(least, (this->*value)(subnet));
      most = std::max(most, (this->*value)(subnet));
    }
    return {least, most, from, to};
  }
  bool on_front(std::size_t i) const { return std::ranges::count(result_.front, i) > 0; }

  void circle(double x, double y, double radius, std::string_view more) {
    svg_ += fmt::format("<circle cx=\"{}\" cy=\"{}\" r=\"{}\" {}>", svg::number(x), svg::number(y), svg::number(radius), more);
  }

  void draw_legend() {
    double x = kLeft + 5;
    const std::string ring = fmt::format("stroke=\"{}\" stroke-width=\"1.5\"/", kFront);
    const auto entry = [&](double radius, const std::string& look, const std::string& name) {
      circle(x, 58, radius, look);
      svg_ += "\n" + svg::text(x + 11, 62, "start", 11, "#333333", name);
      x += 36 + 6.2 * static_cast<double>(name.size());
    };
    entry(4, fmt::format("fill=\"{}\"/", kMeasured), "sampled");
    entry(4, fmt::format("fill=\"{}\"/", kProposed), "proposed by evolution");
    entry(4, "fill=\"none\" " + ring, "Pareto front");
    entry(7.5, "fill=\"none\" " + ring, result_.limit ? "least loss within the limit" : "least loss");
  }

  void draw_axes() {
    const double bottom = kHeight - kBottom;
    for (const double value : x_.ticks()) {
      svg_ +=
          fmt::format("<path d=\"M{0} {1}V{2}\" stroke=\"#e2e2e2\"/>\n", svg::number(x_.at(value)), svg::number(kTop), svg::number(bottom));
      svg_ += svg::text(x_.at(value), bottom + 16, "middle", 11, "#333333", fmt::format("{:.6g}", value));
    }
    for (const double value : y_.ticks()) {
      svg_ += fmt::format("<path d=\"M{0} {1}H{2}\" stroke=\"#e2e2e2\"/>\n", svg::number(kLeft), svg::number(y_.at(value)),
                          svg::number(kWidth - kRight));
      svg_ += svg::text(kLeft - 6, y_.at(value) + 4, "end", 11, "#333333", fmt::format("{:.6g}", value));
    }
    svg_ += svg::text((kLeft + kWidth - kRight) / 2, bottom + 38, "middle", 12, "#333333", unit_of(result_.by));
    svg_ += svg::text(kLeft - 6, kTop - 6, "end", 12, "#333333", "loss");
  }

  void draw_limit() {
    if (!result_.limit) return;
    const double value = scaled(result_.by, *result_.limit);
    if (value > x_.end) return;  // beyond all that there is
    svg_ += fmt::format("<path d=\"M{0} {1}V{2}\" stroke=\"#333333\" stroke-dasharray=\"5 4\"/>\n", svg::number(x_.at(value)),
                        svg::number(kTop), svg::number(kHeight - kBottom));
    svg_ += svg::text(x_.at(value) + 4, kTop + 11, "start", 11, "#333333", fmt::format("limit {:.6g}", value));
  }

  // What is the best for a cost is so until a better one is paid for.
  void draw_front() {
    std::string path;
    for (const std::size_t i : result_.front) {
      const MeasuredSubnet& subnet = result_.subnets[i];
      const std::string x = svg::number(x_.at(cost(subnet))), y = svg::number(y_.at(subnet.loss));
      path += path.empty() ? fmt::format("M{} {}", x, y) : fmt::format("H{}V{}", x, y);
    }
    svg_ += fmt::format("<path d=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.2\"/>\n", path, kFront);
  }

  void draw_point(std::size_t i) {
    const MeasuredSubnet& subnet = result_.subnets[i];
    const double x = x_.at(cost(subnet)), y = y_.at(subnet.loss);
    const std::string ring = on_front(i) ? fmt::format(" stroke=\"{}\" stroke-width=\"1.5\"", kFront) : "";
    circle(x, y, 4, fmt::format("fill=\"{}\"{}", subnet.predicted_loss ? kProposed : kMeasured, ring));
    svg_ += fmt::format("<title>{}\nloss {:.4f}, {}</title></circle>\n", svg::escaped(to_text(subnet.subnet)), subnet.loss,
                        cost_text(result_.by, subnet.cost(result_.by)));
    if (i == result_.best) circle(x, y, 7.5, fmt::format("fill=\"none\" stroke=\"{}\" stroke-width=\"1.5\"/", kFront)), svg_ += "\n";
  }

  const SearchResult& result_;
  Axis x_, y_;
  std::string svg_;
};

}  // namespace

std::string search_plot(const SearchResult& result) { return Plot(result).draw(); }

}  // namespace offramp
