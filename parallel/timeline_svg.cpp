#include "parallel/timeline_svg.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "parallel/kind.h"
#include "parallel/svg.h"

namespace offramp {
namespace {

constexpr double kLeft = 62, kRight = 64, kTop = 62, kLegendRow = 18, kStrip = 6, kBreak = 26;
constexpr double kLeastBox = 16;  // pixels: where boxes are narrower on average, only both ends of the time are drawn
constexpr std::string_view kHeadColor = "#f2a65a";

// A part of the time, and the pixels that it takes.
struct Window {
  double begin = 0, end = 0, left = 0, width = 0;
  double x(double t) const { return left + width * (std::clamp(t, begin, end) - begin) / (end - begin); }
};

// `part` of the way to white (255) or black (0).
std::string shaded(std::string_view color, double part, int towards) {
  std::string result = "#";
  for (std::size_t i = 1; i < 7; i += 2) {
    const int value = std::stoi(std::string(color.substr(i, 2)), nullptr, 16);
    result += fmt::format("{:02x}", static_cast<int>(std::lround(value + part * (towards - value))));
  }
  return result;
}

bool is_dark(std::string_view color) {
  const auto at = [&](std::size_t i) { return std::stoi(std::string(color.substr(i, 2)), nullptr, 16); };
  return 299 * at(1) + 587 * at(3) + 114 * at(5) < 140 * 1000;
}

class Picture {
 public:
  Picture(const Timeline& timeline, const PictureOptions& options)
      : timeline_(timeline),
        options_(options),
        rows_(std::min(static_cast<int>(timeline.busy.size()), options.rows)),
        top_(kTop + (options.passes.empty() ? 0 : kLegendRow)) {
    look_around();
    choose_unit();
    choose_windows();
  }

  std::string draw() {
    const double bottom = row_top(rows_);
    const double height = bottom + (rows_ < ranks() ? 62 : 44);
    svg_ = svg::opening(options_.width, height, options_.title);
    draw_title();
    for (const Window& window : windows_) draw_axis(window, bottom);
    for (int rank = 0; rank < rows_; ++rank) draw_row(rank);
    for (const Span& span : timeline_.spans) draw_span(span);
    if (windows_.size() > 1) svg_ += svg::text(windows_[1].left - kBreak / 2, (top_ + bottom) / 2, "middle", 16, "#777777", "...");
    if (rows_ < ranks()) {
      svg_ += svg::text(kLeft, bottom + 52, "start", 11, "#777777", fmt::format("ranks {} to {} are not drawn", rows_, ranks() - 1));
    }
    return svg_ + "</svg>\n";
  }

 private:
  int ranks() const { return static_cast<int>(timeline_.busy.size()); }
  double row_height() const { return std::clamp(640.0 / rows_, 12.0, 30.0); }
  double row_top(int rank) const { return top_ + rank * (row_height() + (strips_ ? kStrip + 1 : 0) + 6); }

  // A message, or a sum, lies below what its rank does meanwhile.
  static bool travels(const Span& span) {
    const Kind kind = kind_of(span.action.op);
    return (kind == Kind::communication || kind == Kind::gradients) && span.action.op != Op::ReduceTied;
  }

  void look_around() {
    for (const Span& span : timeline_.spans) {
      if (span.end <= span.begin) continue;
      const Kind kind = kind_of(span.action.op);
      strips_ = strips_ || travels(span);
      seen_.insert(kind);
      if (kind == Kind::exit)
        exits_.insert(span.action.index);
      else if (!travels(span))
        stages_ = std::max(stages_, span.action.stage + 1);
    }
    head_ = options_.ends_with_head && !exits_.empty() ? *exits_.rbegin() : -1;
  }

  void choose_unit() {
    unit_ = options_.unit;
    if (!unit_.empty()) return;
    const bool milli = timeline_.seconds < 1, micro = timeline_.seconds < 1e-3;
    unit_ = micro ? "us" : milli ? "ms" : "s";
    scale_ = micro ? 1e6 : milli ? 1e3 : 1;
  }

  void choose_windows() {
    const double width = options_.width - kLeft - kRight;
    const double all = timeline_.seconds > 0 ? timeline_.seconds : 1;
    if (options_.end > options_.begin) {
      windows_ = {{options_.begin, options_.end, kLeft, width}};
      return;
    }
    const auto boxes = std::ranges::count_if(timeline_.spans, [](const Span& s) { return s.end > s.begin && !travels(s); });
    const double drawn = width / kLeastBox * ranks() / static_cast<double>(std::max<std::ptrdiff_t>(1, boxes));
    if (drawn >= 1) {
      windows_ = {{0, all, kLeft, width}};
      return;
    }
    const double half = (width - kBreak) / 2;
    windows_ = {{0, all * drawn / 2, kLeft, half}, {all - all * drawn / 2, all, kLeft + half + kBreak, half}};
  }

  void draw_title() {
    const double busy = std::accumulate(timeline_.busy.begin(), timeline_.busy.end(), 0.0);
    const double idle = timeline_.seconds > 0 ? 1 - busy / (timeline_.seconds * ranks()) : 0;
    svg_ += svg::text(kLeft, 22, "start", 16, "#111111", options_.title);
    svg_ += svg::text(options_.width - kRight, 22, "end", 12, "#333333",
                      fmt::format("step {:.4g} {}, bubble {:.1f}%", scale_ * timeline_.seconds, unit_, 100 * idle));
    svg_ += svg::text(options_.width - 8, top_ - 8, "end", 11, "#333333", "busy");
    double x = kLeft;
    for (const Kind kind : kKinds) {
      if (!seen_.contains(kind)) continue;
      if (kind != Kind::exit) {
        draw_legend(x, color_of(kind), name_of(kind));
        continue;
      }
      if (head_ < 0 || exits_.size() > 1) draw_legend(x, color_of(kind), head_ < 0 ? "exit" : "early exit");
      if (head_ >= 0) draw_legend(x, kHeadColor, "final head");
    }
    svg_ += svg::box(x, 33, 12, 12, "#f4f4f4", " stroke=\"#cccccc\"/") + "\n" + svg::text(x + 17, 43, "start", 11, "#333333", "idle");
    draw_passes();
  }

  // Each with its forward beside its backward.
  void draw_passes() {
    double x = kLeft;
    for (std::size_t p = 0; p < options_.passes.size(); ++p) {
      const PassName& pass = options_.passes[p];
      const double y = 33 + kLegendRow;
      const auto shade = [&](Op op) { return color({op, 0, static_cast<std::int16_t>(p), -1}); };
      const std::string name = fmt::format("{}  {}", pass.letter, pass.text);
      svg_ += svg::box(x, y, 6, 12, shade(Op::Forward)) + svg::box(x + 6, y, 6, 12, shade(Op::Backward)) + "\n";
      svg_ += svg::text(x + 17, y + 10, "start", 11, "#333333", name);
      x += 34 + 6.2 * static_cast<double>(name.size());
    }
  }

  void draw_legend(double& x, std::string_view color, std::string_view name) {
    svg_ += svg::box(x, 33, 12, 12, color) + "\n" + svg::text(x + 17, 43, "start", 11, "#333333", name);
    x += 34 + 6.2 * static_cast<double>(name.size());
  }

  void draw_axis(const Window& window, double bottom) {
    const double wanted = scale_ * (window.end - window.begin) / std::max(2.0, window.width / 110);
    const double power = std::pow(10.0, std::floor(std::log10(wanted)));
    const double step = power * (wanted <= power ? 1 : wanted <= 2 * power ? 2 : wanted <= 5 * power ? 5 : 10);
    for (auto k = static_cast<std::int64_t>(std::ceil(scale_ * window.begin / step - 1e-9));
         static_cast<double>(k) * step <= scale_ * window.end * (1 + 1e-12); ++k) {
      const double x = window.x(static_cast<double>(k) * step / scale_);
      svg_ += fmt::format("<path d=\"M{0} {1}V{2}\" stroke=\"#dddddd\"/>\n", svg::number(x), svg::number(top_ - 4), svg::number(bottom));
      svg_ += svg::text(x, bottom + 14, "middle", 11, "#333333", fmt::format("{:.6g}", static_cast<double>(k) * step));
    }
    svg_ += svg::text(window.left + window.width / 2, bottom + 32, "middle", 11, "#333333", fmt::format("time, {}", unit_));
  }

  void draw_row(int rank) {
    const double y = row_top(rank), height = row_height(), middle = y + height / 2 + 4;
    for (const Window& w : windows_)
      svg_ += svg::box(w.left, y, w.width, height, "#f4f4f4", " stroke=\"#cccccc\" stroke-width=\"0.5\"/") + "\n";
    svg_ += svg::text(kLeft - 6, middle, "end", 11, "#333333", fmt::format("rank {}", rank));
    const double busy = timeline_.seconds > 0 ? timeline_.busy[static_cast<std::size_t>(rank)] / timeline_.seconds : 0;
    svg_ += svg::text(options_.width - 8, middle, "end", 11, "#333333", fmt::format("{:.1f}%", 100 * busy));
  }

  std::string color(const Action& action) const {
    const Kind kind = kind_of(action.op);
    if (kind == Kind::exit) return std::string(action.index == head_ ? kHeadColor : color_of(kind));
    const int passes = static_cast<int>(options_.passes.size());
    const int shade = passes > 0 ? action.microbatch % passes : action.stage / ranks();
    const int shades = passes > 0 ? passes : (stages_ + ranks() - 1) / ranks();
    if (kind == Kind::communication || kind == Kind::gradients || shades < 2) return std::string(color_of(kind));
    const double part = static_cast<double>(shade) / (shades - 1);
    // Forwards grow paler and all else darker from one stage of a rank, or pass, to the next: shades of two kinds never meet.
    return kind == Kind::forward ? shaded(color_of(kind), 0.55 * part, 255) : shaded(color_of(kind), 0.4 * part, 0);
  }

  // "7", of several passes "1W", "1S": the samples, and the pass over them.
  std::string label_of(const Action& action) const {
    const auto passes = static_cast<int>(options_.passes.size());
    if (action.microbatch < 0) return "";
    if (passes == 0) return std::to_string(action.microbatch);
    return fmt::format("{}{}", action.microbatch / passes, options_.passes[static_cast<std::size_t>(action.microbatch % passes)].letter);
  }

  void draw_span(const Span& span) {
    if (span.rank >= rows_) return;
    for (const Window& window : windows_) {
      if (span.end > span.begin && span.end > window.begin && span.begin < window.end) draw_box(span, window);
    }
  }

  void draw_box(const Span& span, const Window& window) {
    const double left = window.x(span.begin), width = window.x(span.end) - left, top = row_top(span.rank), height = row_height();
    const std::string fill = color(span.action);
    const bool strip = travels(span);
    const double gap = !strip && width > 3 ? 0.6 : 0;  // between neighbours
    svg_ += strip ? svg::box(left, top + height + 1, width, kStrip, fill, "") : svg::box(left, top, width - gap, height, fill, "");
    const std::string label = label_of(span.action);
    const std::string which = options_.passes.empty() || label.empty() ? "" : fmt::format(" ({})", label);
    svg_ += fmt::format("<title>{}{} {:.6g} to {:.6g} {}</title></rect>\n", to_text(span.action), which, scale_ * span.begin,
                        scale_ * span.end, unit_);
    if (strip || label.empty() || width < 4 + 6.2 * static_cast<double>(label.size())) return;
    svg_ += svg::text(left + width / 2, top + height / 2 + 3.7, "middle", 10, is_dark(fill) ? "#ffffff" : "#111111", label);
  }

  const Timeline& timeline_;
  const PictureOptions& options_;
  int rows_ = 0, stages_ = 0, head_ = -1;
  double top_ = 0;       // of the first row
  bool strips_ = false;  // something takes time on a wire
  std::set<Kind> seen_;
  std::set<int> exits_;
  std::vector<Window> windows_;
  std::string unit_, svg_;
  double scale_ = 1;
};

}  // namespace

std::string timeline_svg(const Timeline& timeline, const PictureOptions& options) { return Picture(timeline, options).draw(); }

}  // namespace offramp
