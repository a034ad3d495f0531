// The text form of schedules, and back.
#include <fmt/format.h>

#include <charconv>
#include <limits>
#include <stdexcept>

#include "parallel/actions.h"
#include "parallel/schedule_file.h"
#include "tensor/check.h"

namespace offramp {
namespace {

struct OpName {
  std::string_view name;
  Op op;
};
// A name that begins with another's comes first.
constexpr std::array<OpName, kOps> kNames{{{"SA", Op::SendActivation},
                                           {"RA", Op::RecvActivation},
                                           {"SG", Op::SendGradient},
                                           {"RG", Op::RecvGradient},
                                           {"HT", Op::ShareTap},
                                           {"HM", Op::ShareScores},
                                           {"HU", Op::SumShares},
                                           {"HF", Op::ShareFinal},
                                           {"F", Op::Forward},
                                           {"R", Op::Recompute},
                                           {"X", Op::Exit},
                                           {"B", Op::Backward},
                                           {"W", Op::WeightGrad},
                                           {"T", Op::Tap},
                                           {"S", Op::Scores},
                                           {"G", Op::HeadBackward},
                                           {"H", Op::HeadWeightGrad},
                                           {"U", Op::Untap},
                                           {"Y", Op::ReduceTied},
                                           {"D", Op::ReduceGradients}}};

bool names_exit(Op op) { return op == Op::Exit || is_head(op); }
bool has_segments(Op op) { return op == Op::Backward || op == Op::WeightGrad; }

std::string_view name_of(Op op) {
  for (const OpName& entry : kNames) {
    if (entry.op == op) return entry.name;
  }
  return "?";
}

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\r'; }

// Reads one line; every step leaves position_ behind what it read.
class LineParser {
 public:
  LineParser(std::string_view line, int number) : line_(line), number_(number) {}

  Program parse(std::vector<TextPlace>& places) {
    Program program;
    for (skip_spaces(); position_ < line_.size(); skip_spaces()) {
      places.push_back({number_, static_cast<int>(position_) + 1});
      program.push_back(action());
    }
    return program;
  }

 private:
  Action action() {
    start_ = position_;
    const Op op = operation();
    const int first = number();
    Action action = make_action(op, 0, first);
    if (op == Op::ReduceTied || op == Op::ReduceGradients) action = make_action(op, 0, -1, first);
    if (names_exit(op)) {
      expect('.');
      action = make_action(op, 0, number(), first);
    } else if (has_segments(op) && peek() == '.') {
      ++position_;
      action = make_action(op, 0, first, number());
    }
    expect('@');
    action.stage = static_cast<std::int16_t>(number());
    if (position_ < line_.size() && !is_space(line_[position_])) wrong("a space");
    return action;
  }

  Op operation() {
    for (const OpName& entry : kNames) {
      if (line_.substr(position_).starts_with(entry.name)) {
        position_ += entry.name.size();
        return entry.op;
      }
    }
    wrong("F, R, X, B, W, T, S, G, H, U, SA, RA, SG, RG, HT, HM, HU, Y or D");
  }

  int number() {
    int value = 0;
    const char* begin = line_.data() + position_;
    const auto [end, error] = std::from_chars(begin, line_.data() + line_.size(), value);
    if (peek() == '-' || error == std::errc::invalid_argument) wrong("a number");
    if (error != std::errc() || value > std::numeric_limits<std::int16_t>::max()) wrong("a number up to 32767");
    position_ += static_cast<std::size_t>(end - begin);
    return value;
  }

  void expect(char c) {
    if (peek() != c) wrong(fmt::format("'{}'", c));
    ++position_;
  }

  char peek() const { return position_ < line_.size() ? line_[position_] : '\0'; }

  void skip_spaces() {
    while (position_ < line_.size() && is_space(line_[position_])) ++position_;
  }

  [[noreturn]] void wrong(std::string_view expected) const {
    std::size_t end = start_;
    while (end < line_.size() && !is_space(line_[end])) ++end;
    throw std::invalid_argument(fmt::format("{}:{}: expected {} in '{}'; actions look like F2@1, X0.2@1, B7.1@0, SA2@1, Y0@0", number_,
                                            position_ + 1, expected, line_.substr(start_, end - start_)));
  }

  std::string_view line_;
  int number_;
  std::size_t position_ = 0, start_ = 0;
};

ScheduleFile parse_lines(std::string_view text) {
  ScheduleFile file;
  for (int number = 1; !text.empty(); ++number) {
    const std::size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    line = line.substr(0, line.find('#'));
    std::vector<TextPlace> places;
    Program program = LineParser(line, number).parse(places);
    if (program.empty()) continue;
    file.schedule.push_back(std::move(program));
    file.places.push_back(std::move(places));
  }
  return file;
}

}  // namespace

std::optional<Op> op_of(std::string_view action) {
  const std::string_view name = action.substr(0, action.find_first_of("0123456789"));
  for (const OpName& entry : kNames) {
    if (entry.name == name && name.size() < action.size()) return entry.op;
  }
  return std::nullopt;
}

std::string to_text(const Action& action) {
  const std::string_view name = name_of(action.op);
  if (names_exit(action.op)) return fmt::format("{}{}.{}@{}", name, action.index, action.microbatch, action.stage);
  if (action.op == Op::ReduceTied || action.op == Op::ReduceGradients) return fmt::format("{}{}@{}", name, action.index, action.stage);
  if (action.index >= 0) return fmt::format("{}{}.{}@{}", name, action.microbatch, action.index, action.stage);
  return fmt::format("{}{}@{}", name, action.microbatch, action.stage);
}

std::string to_text(const Program& program) {
  std::string text;
  for (const Action& action : program) {
    if (!text.empty()) text += ' ';
    text += to_text(action);
  }
  return text;
}

std::string to_text(const Schedule& schedule) {
  std::string text;
  for (const Program& program : schedule) text += to_text(program) + '\n';
  return text;
}

Schedule parse_schedule(std::string_view text) {
  try {
    return parse_lines(text).schedule;
  } catch (const std::invalid_argument& error) {
    throw std::invalid_argument(fmt::format("schedule:{}", error.what()));
  }
}

ScheduleFile parse_schedule_file(const std::string& path, std::string_view text) {
  try {
    ScheduleFile file = parse_lines(text);
    file.path = path;
    return file;
  } catch (const std::invalid_argument& error) {
    fail(Exit::configuration, "{}:{}", path, error.what());
  }
}

}  // namespace offramp
