// The files that a run logs to: metrics.jsonl, one JSON object a logged step, and TensorBoard's event files beside it. One rank
// writes, with values gathered over all stages. A line is one write, done before the next step starts; numbers read back to the
// same bits; what JSON cannot say (NaN, infinity) and what was not computed is null.
//
//   MetricsLog log(config.logging.directory, config.logging.tensorboard);
//   log.write(StepRecord{.step = 1, .loss = 9.0, .final_loss = 9.0, .exit_losses = {{2, 9.1}}, ...});
//   log.write(ValidationRecord{.step = 300, .set = "docs_valid", ...});
//
// A disk that fills up ends no run: see append_file.h.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "parallel/interpreter.h"
#include "trainer/append_file.h"
#include "trainer/tensorboard.h"

namespace offramp {

using ByLayer = std::vector<std::pair<int, double>>;  // an exit's layer and its value

// Of a supernet's pass over a subnet.
struct SubnetResult {
  std::string subnet;                               // its sizes, a JSON object
  std::string name{};                               // in validation: "smallest"
  double weight = 1;                                // of its loss in a step
  double loss = 0, accuracy = 0;                    // of the head that it ends with, with the labels
  std::optional<double> acceptance{}, agreement{};  // with whom it learns from
};

struct StepRecord {
  std::int64_t step = 0;             // from 1
  double loss = 0;                   // the weighted total
  std::optional<double> final_loss;  // like the exits' a plain mean cross-entropy in nats
  ByLayer exit_losses;
  ByLayer exit_acceptances, exit_agreements;  // with the final head's output: sum_v min(p_final, p_exit); equal argmax. Empty: not compared
  std::vector<SubnetResult> subnets;
  double lr = 0;
  double grad_norm = 0;     // before clipping
  std::int64_t tokens = 0;  // of this step's global batch
  double step_time_s = 0, tokens_per_s = 0;
  std::optional<double> mfu;  // of the devices' peak, where that is known
  std::int64_t peak_bytes = 0;
  PhaseTimes phase_s;  // means over ranks; the end of a step (statistics, update) counts in the next one
};

struct ValidationRecord {
  std::int64_t step = 0;
  std::string set;  // the corpus's name
  double loss = 0;
  std::optional<double> final_loss, final_accuracy;  // accuracy: share of tokens whose likeliest successor is the right one
  ByLayer exit_losses, exit_accuracies;
  ByLayer exit_acceptances, exit_agreements;  // as of a step
  std::vector<SubnetResult> subnets;
  std::int64_t tokens = 0;  // counted
};

// One line each, newline included.
std::string to_json(const StepRecord& record);
std::string to_json(const ValidationRecord& record);
// Tags: a step's are its keys ("loss", "exit_losses/2", "phase_s/forward"), a validation's stand under "validation/<set>/".
std::vector<Scalar> to_scalars(const StepRecord& record);
std::vector<Scalar> to_scalars(const ValidationRecord& record);

class MetricsLog {
 public:
  // An empty directory: no files, and write() does nothing. A torn last line of an earlier run is ended first.
  MetricsLog(const std::string& directory, bool tensorboard);
  void write(const StepRecord& record);
  void write(const ValidationRecord& record);

 private:
  std::optional<AppendFile> lines_;
  std::optional<TensorBoardWriter> board_;
};

}  // namespace offramp
