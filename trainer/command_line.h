// The command line, read into values; what it asks for is done elsewhere. Wrong ones throw Error(Exit::configuration) with the
// nearest command or option.
//
//   CommandLine line = parse_command_line({"train", "job.yaml", "--set", "training.steps=20"});
//   if (line.verb == CommandLine::Verb::print) std::fputs(line.text.c_str(), stdout);   // --help, --version
#pragma once
#include <string>
#include <vector>

#include "data/build.h"
#include "data/train_tokenizer.h"
#include "trainer/checkpoint_commands.h"
#include "trainer/convert_commands.h"
#include "trainer/eval_command.h"
#include "trainer/search_command.h"

namespace offramp {

inline constexpr const char* kVersion = "0.1.0";

struct TrainArguments {
  std::string config;
  std::vector<std::string> sets;  // "a.b=value"
  std::string resume;             // "auto", a checkpoint or a directory of them; empty: from the start
  bool dry_run = false, print_config = false, config_reference = false;
  int ranks = 0;  // of a dry run; 0: as the launcher started, or as few as the configuration allows
};

struct PlanArguments {
  std::string config;
  std::vector<std::string> sets;
  int ranks = 0;        // 0: as few as the configuration allows
  std::string cluster;  // a file, or "measured"; empty: a node of H100
  bool json = false, search = false, dump_schedule = false;
  std::string svg, trace;  // files to write; empty: none
  std::string compare;     // a measured trace; empty: none
};

struct CommandLine {
  enum class Verb { print, train, plan, train_tokenizer, build_data, checkpoint, convert, eval, search };
  Verb verb = Verb::print;
  std::string text;  // print
  TrainArguments train;
  PlanArguments plan;
  TrainTokenizerOptions tokenizer;
  BuildOptions data;
  CheckpointArguments checkpoint;
  ConvertArguments convert;
  EvalArguments eval;
  SearchArguments search;
};

// `arguments` without the program's name.
CommandLine parse_command_line(const std::vector<std::string>& arguments);

}  // namespace offramp
