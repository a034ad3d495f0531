// Everything a job says while it trains, in one object on one rank: the files of log.h and the terminal of terminal.h.
//
//   JobLog log(config, degrees);                                      // opens the files
//   log.begin(notes);                                                 // says what runs where
//   log.step(record);                                                 // every step; files get every logging.interval-th and the last
//   log.validation(result);                                          // to the files, and as a table
//   log.finish();
#pragma once
#include <string>
#include <vector>

#include "comm/mesh.h"
#include "trainer/config.h"
#include "trainer/log.h"
#include "trainer/terminal.h"

namespace offramp {

class JobLog {
 public:
  JobLog(const Config& config, const Degrees& degrees);
  void begin(const std::vector<std::string>& notes);
  void step(const StepRecord& record);
  void validation(const ValidationRecord& record);
  void note(const std::string& text);  // a line for people
  void warn(const std::string& text);
  void finish();

 private:
  Config config_;
  Degrees degrees_;
  MetricsLog files_;
  Terminal terminal_;
};

}  // namespace offramp
