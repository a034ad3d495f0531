#include "trainer/terminal.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <string_view>

namespace offramp {
namespace {

constexpr double kRedrawSeconds = 0.1, kPlainSeconds = 10;
constexpr int kDefaultColumns = 80;
constexpr std::size_t kShortestBar = 10, kLongestBar = 40;

double steady_seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// A descriptor of the terminal that shows this stream; -1: there is none. Open MPI gives every rank a terminal of its own, whatever
// mpirun writes to, so under mpirun its output is the one to ask. (Where a rank's parent is another host's daemon, that is none.)
int open_window(std::FILE* stream) {
  const bool launched = std::getenv("OMPI_COMM_WORLD_RANK") != nullptr;
  const int window = launched ? ::open(fmt::format("/proc/{}/fd/1", ::getppid()).c_str(), O_WRONLY | O_NOCTTY | O_NONBLOCK | O_CLOEXEC)
                              : ::fcntl(::fileno(stream), F_DUPFD_CLOEXEC, 0);
  const char* kind = std::getenv("TERM");
  if (window >= 0 && ::isatty(window) && kind && std::string_view(kind) != "dumb") return window;
  if (window >= 0) ::close(window);
  return -1;
}

std::string thousands(double value) {
  if (!std::isfinite(value)) return "?";
  std::string digits = fmt::format("{:.0f}", value);
  for (auto i = static_cast<std::ptrdiff_t>(digits.size()) - 3; i > 0; i -= 3) digits.insert(static_cast<std::size_t>(i), ",");
  return digits;
}

struct Part {
  int importance;  // the least important goes first
  std::string text;
};

std::vector<Part> parts_of(const StepRecord& r, std::int64_t last_step, double seconds_left) {
  const auto width = fmt::formatted_size("{}", last_step);
  std::vector<Part> parts = {{9, fmt::format("step {:>{}}/{}", r.step, width, last_step)}, {8, fmt::format("loss {:.4f}", r.loss)}};
  std::string exits;
  for (const auto& [layer, loss] : r.exit_losses) exits += fmt::format("{}{}: {:.4f}", exits.empty() ? "exits " : "  ", layer, loss);
  if (!exits.empty()) parts.push_back({4, exits});
  if (r.final_loss) parts.push_back({5, fmt::format("final {:.4f}", *r.final_loss)});
  parts.push_back({6, thousands(r.tokens_per_s) + " tokens/s"});
  if (r.step < last_step) parts.push_back({7, duration_text(seconds_left) + " left"});
  return parts;
}

std::string joined(const std::vector<Part>& parts) {
  std::string line;
  for (const auto& part : parts) line += (line.empty() ? "" : "  ") + part.text;
  return line;
}

std::string bar(double done, std::size_t length) {
  const auto inside = length - 2;
  const auto filled = static_cast<std::size_t>(std::clamp(done, 0.0, 1.0) * static_cast<double>(inside));
  return "[" + std::string(filled, '=') + std::string(inside - filled, ' ') + "]";
}

}  // namespace

std::string duration_text(double seconds) {
  if (!(seconds >= 0) || seconds > 1e9) return "?";
  const auto s = static_cast<std::int64_t>(std::llround(seconds));
  if (s < 60) return fmt::format("{}s", s);
  if (s < 3600) return fmt::format("{}m{:02}s", s / 60, s % 60);
  if (s < 86400) return fmt::format("{}h{:02}m", s / 3600, s % 3600 / 60);
  return fmt::format("{}d{:02}h", s / 86400, s % 86400 / 3600);
}

std::string progress_line(const StepRecord& record, std::int64_t last_step, double seconds_left, int columns) {
  auto parts = parts_of(record, last_step, seconds_left);
  std::string line = joined(parts);
  if (columns <= 0) return line;

  const auto limit = static_cast<std::size_t>(columns);
  while (line.size() > limit && parts.size() > 1) {
    parts.erase(std::min_element(parts.begin(), parts.end(), [](const Part& a, const Part& b) { return a.importance < b.importance; }));
    line = joined(parts);
  }
  if (line.size() > limit) line.resize(limit);
  if (line.size() + 2 + kShortestBar <= limit) {
    const auto length = std::min(kLongestBar, limit - line.size() - 2);
    const double done = last_step > 0 ? static_cast<double>(record.step) / static_cast<double>(last_step) : 1;
    line = bar(done, length) + "  " + line;
  }
  return line;
}

Terminal::Terminal(std::FILE* stream, TerminalOptions options) : stream_(stream), options_(std::move(options)) {
  window_ = open_window(stream);
  live_ = options_.live.value_or(window_ >= 0);
  if (!options_.clock) options_.clock = steady_seconds;
}

Terminal::~Terminal() {
  if (drawn_ && live_) finish();  // an error: what is said next begins a line
  if (window_ >= 0) ::close(window_);
}

void Terminal::step(const StepRecord& record) {
  mean_step_s_ = mean_step_s_ == 0 ? record.step_time_s : 0.9 * mean_step_s_ + 0.1 * record.step_time_s;
  const double now = options_.clock();
  const bool due = !last_shown_ || now - *last_shown_ >= (live_ ? kRedrawSeconds : kPlainSeconds) || record.step == options_.last_step;
  // One column stays free: a full line makes some terminals wrap.
  line_ = progress_line(record, options_.last_step, seconds_left(record.step), live_ ? std::max(1, columns() - 1) : 0);
  if (!due) return;
  last_shown_ = now;
  draw(line_);
}

double Terminal::seconds_left(std::int64_t step) const { return mean_step_s_ * static_cast<double>(options_.last_step - step); }

void Terminal::draw(const std::string& line) {
  if (live_) {
    fmt::memory_buffer out;  // one write, so that the line does not flicker
    fmt::format_to(std::back_inserter(out), "\r{}\x1b[K", line);
    std::fwrite(out.data(), 1, out.size(), stream_);
    drawn_ = true;
  } else {
    std::fputs((line + "\n").c_str(), stream_);
  }
  std::fflush(stream_);
}

void Terminal::erase() {
  if (live_ && drawn_) std::fputs("\r\x1b[K", stream_);
}

void Terminal::print(const std::string& text) {
  erase();
  std::fputs(text.c_str(), stream_);
  if (live_ && drawn_) {
    draw(line_);
  } else {
    std::fflush(stream_);
  }
}

void Terminal::finish() {
  if (live_ && drawn_) {
    draw(line_);
    std::fputs("\n", stream_);
    drawn_ = false;
  }
  std::fflush(stream_);
}

int Terminal::columns() const {
  if (options_.columns > 0) return options_.columns;
  winsize size{};
  if (::ioctl(window_, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return kDefaultColumns;
}

}  // namespace offramp
