// What a person sees while a model trains. On a terminal: one live line, rewritten in place at most ten times a second and cut to
// the window. Elsewhere (a file, a pipe): a plain line for the first and the last step, and every ten seconds between them.
//
//   Terminal terminal(stdout, {.last_step = 300});
//   terminal.step(record);                         // every step
//   terminal.print(validation_table(...));         // whole lines; the live line makes room for them
//   terminal.finish();                             // the live line stays as it is, the cursor goes below
//
// Nothing here throws: a terminal that has gone away must not end a training run.
#pragma once
#include <cstdint>
#include <cstdio>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "trainer/log.h"

namespace offramp {

struct TerminalOptions {
  std::int64_t last_step = 0;
  std::optional<bool> live;       // nothing: whether the stream is a terminal
  int columns = 0;                // 0: what the terminal says
  std::function<double()> clock;  // seconds; empty: the steady clock
};

class Terminal {
 public:
  Terminal(std::FILE* stream, TerminalOptions options);
  ~Terminal();
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;
  void step(const StepRecord& record);
  void print(const std::string& text);  // ends with a newline
  void finish();

 private:
  double seconds_left(std::int64_t step) const;
  void draw(const std::string& line);
  void erase();
  int columns() const;

  std::FILE* stream_;
  TerminalOptions options_;
  int window_ = -1;  // a descriptor of the terminal that shows the stream
  bool live_ = false, drawn_ = false;
  std::optional<double> last_shown_;
  double mean_step_s_ = 0;  // exponential mean, which follows a change of pace
  std::string line_;        // the newest, perhaps not drawn yet
};

// "step  12/300  loss 5.1234  exits 2: 5.4  5: 5.2  final 5.0  8,123 tokens/s  1m20s left", and a bar where there is room. What
// matters less is left out first when it does not fit; never wider than `columns` (0: no limit, no bar).
std::string progress_line(const StepRecord& record, std::int64_t last_step, double seconds_left, int columns);

std::string duration_text(double seconds);  // "45s", "3m05s", "2h07m", "3d04h"

// A head's result on a validation set, for the table.
struct ExitResult {
  std::string label;  // "exit" or "final"
  int layer = 0;
  std::string head;  // "norm"
  double loss = 0, accuracy = 0;
  std::optional<double> acceptance{}, agreement{};  // with the final head, where exits were compared with it
};

// A row a head: layer, head, loss, perplexity, accuracy; acceptance and agreement, if any has them. Ends with a newline.
std::string results_table(const std::vector<ExitResult>& results);
// Below a line that says what it is of.
std::string validation_table(const std::string& set, std::int64_t step, const std::vector<ExitResult>& results);

}  // namespace offramp
