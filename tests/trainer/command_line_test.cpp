#include "trainer/command_line.h"

#include <gtest/gtest.h>

#include "tensor/check.h"

namespace offramp {
namespace {

using Words = std::vector<std::string>;

std::string refusal(const Words& words) {
  try {
    parse_command_line(words);
  } catch (const Error& error) {
    EXPECT_EQ(error.code, Exit::configuration);
    return error.what();
  }
  return "accepted";
}

bool holds(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST(CommandLine, Train) {
  const CommandLine line = parse_command_line({"train", "--set", "a.b=1", "job.yaml", "--set", "exits=[{layer: 2}]", "--set=c.d=[1, 2]"});
  EXPECT_EQ(line.verb, CommandLine::Verb::train);
  EXPECT_EQ(line.train.config, "job.yaml");
  EXPECT_EQ(line.train.sets, (Words{"a.b=1", "exits=[{layer: 2}]", "c.d=[1, 2]"}));
  EXPECT_FALSE(line.train.dry_run || line.train.print_config);
  const CommandLine dry = parse_command_line({"train", "job.yaml", "--dry-run", "--ranks", "8"});
  EXPECT_TRUE(dry.train.dry_run);
  EXPECT_EQ(dry.train.ranks, 8);
}

TEST(CommandLine, Plan) {
  const CommandLine line = parse_command_line({"plan", "job.yaml", "--ranks", "8", "--set", "a.b=1", "--cluster", "measured", "--json"});
  EXPECT_EQ(line.verb, CommandLine::Verb::plan);
  EXPECT_EQ(line.plan.config, "job.yaml");
  EXPECT_EQ(line.plan.ranks, 8);
  EXPECT_EQ(line.plan.cluster, "measured");
  EXPECT_TRUE(line.plan.json && !line.plan.search && !line.plan.dump_schedule);
  EXPECT_NE(refusal({"plan", "job.yaml", "--json", "--search"}), "accepted");
  EXPECT_NE(refusal({"plan"}), "accepted");
}

TEST(CommandLine, TokenizerAndData) {
  const CommandLine tokenizer =
      parse_command_line({"tokenizer", "train", "--input", "a", "b", "--vocab-size", "512", "--output", "t.model"});
  EXPECT_EQ(tokenizer.verb, CommandLine::Verb::train_tokenizer);
  EXPECT_EQ(tokenizer.tokenizer.inputs, (Words{"a", "b"}));
  EXPECT_EQ(tokenizer.tokenizer.vocab_size, 512);
  const CommandLine data = parse_command_line({"data", "build", "--input", "a", "--input", "b", "--tokenizer", "bytes", "--output", "p"});
  EXPECT_EQ(data.verb, CommandLine::Verb::build_data);
  EXPECT_EQ(data.data.inputs, (Words{"a", "b"}));
  EXPECT_EQ(data.data.validation_fraction, 0.01);
}

TEST(CommandLine, Merge) {
  const CommandLine line = parse_command_line({"checkpoint", "merge", "a", "b/step-2", "--output", "c"});
  EXPECT_EQ(line.verb, CommandLine::Verb::checkpoint);
  EXPECT_EQ(line.checkpoint.verb, CheckpointArguments::Verb::merge);
  EXPECT_EQ(line.checkpoint.inputs, (Words{"a", "b/step-2"}));
  EXPECT_EQ(line.checkpoint.output, "c");
  EXPECT_TRUE(holds(refusal({"checkpoint", "merge", "a", "--output", "c"}), "At least 2 required"));
  EXPECT_TRUE(holds(refusal({"checkpoint", "merge", "a", "b"}), "--output is required"));
}

TEST(CommandLine, SearchIsByWhatItsLimitIsOf) {
  const auto parsed = [](Words more) {
    Words words = {"search", "runs/s", "--data", "docs", "--samples", "3"};
    words.insert(words.end(), more.begin(), more.end());
    const CommandLine line = parse_command_line(words);
    EXPECT_EQ(line.verb, CommandLine::Verb::search);
    EXPECT_EQ(line.search.checkpoint, "runs/s");
    return line.search;
  };
  EXPECT_EQ(parsed({}).by, CostKind::flops);
  EXPECT_FALSE(parsed({}).limit);
  EXPECT_EQ(parsed({"--max-flops", "9.5M"}).limit, 9.5e6);
  EXPECT_EQ(parsed({"--max-parameters", "2G"}).limit, 2e9);
  EXPECT_EQ(parsed({"--max-parameters", "200"}).by, CostKind::parameters);
  EXPECT_DOUBLE_EQ(parsed({"--max-latency", "3"}).limit.value(), 0.003);
  EXPECT_EQ(parsed({"--max-latency", "3"}).by, CostKind::latency);
  EXPECT_EQ(parsed({"--by", "latency"}).by, CostKind::latency);
  const Words search = {"search", "c", "--data", "d", "--samples", "3"};
  for (const auto& [more, said] : {std::pair<Words, std::string>{{"--max-flops", "1M", "--max-latency", "3"}, "excludes"},
                                   {{"--max-flops", "1M", "--by", "latency"}, "excludes"},
                                   {{"--max-flops", "1Q"}, "--max-flops"},
                                   {{"--max-flops", "-1"}, "--max-flops"},
                                   {{"--measure", "1"}, "--measure"},
                                   {{"--by", "size"}, "flops,parameters,latency"}}) {
    Words words = search;
    words.insert(words.end(), more.begin(), more.end());
    EXPECT_TRUE(holds(refusal(words), said)) << refusal(words);
  }
}

TEST(CommandLine, HelpEverywhere) {
  for (const Words& words : {Words{"--help"}, Words{"train", "--help"}, Words{"tokenizer", "--help"}, Words{"tokenizer", "train", "--help"},
                             Words{"data", "--help"}, Words{"data", "build", "-h"}}) {
    const CommandLine line = parse_command_line(words);
    EXPECT_EQ(line.verb, CommandLine::Verb::print);
    EXPECT_TRUE(holds(line.text, "Usage")) << line.text;
    if (words.size() > 1 && words[0] == "train") {
      for (const char* option : {"--set", "--dry-run", "--ranks", "--print-config"}) EXPECT_TRUE(holds(line.text, option)) << option;
    }
  }
  EXPECT_TRUE(holds(parse_command_line({"--version"}).text, "offramp 0."));
}

TEST(CommandLine, WrongOnesNameTheNearest) {
  EXPECT_TRUE(holds(refusal({"trian", "job.yaml"}), "unknown command \"trian\": did you mean train?"));
  EXPECT_TRUE(holds(refusal({"data", "biuld"}), "did you mean build?"));
  EXPECT_TRUE(holds(refusal({"train", "job.yaml", "--dryrun"}), "did you mean --dry-run?")) << refusal({"train", "job.yaml", "--dryrun"});
  EXPECT_TRUE(holds(refusal({"train", "job.yaml", "--stes=3"}), "did you mean --set?"));
  EXPECT_TRUE(holds(refusal({"train"}), "CONFIG.yaml is missing"));
  EXPECT_TRUE(holds(refusal({"train", ""}), "CONFIG.yaml is missing"));
  for (const Words& words : {Words{}, Words{"pln", "job.yaml"}, Words{"train", "a.yaml", "b.yaml"}, Words{"train", "a.yaml", "--set"},
                             Words{"train", "a.yaml", "--ranks", "2"}, Words{"train", "a.yaml", "--dry-run", "--ranks", "0"},
                             Words{"train", "a.yaml", "--dry-run", "--ranks", "x"}, Words{"data"}, Words{"data", "build", "--input", "a"},
                             Words{"tokenizer", "train", "--input", "a", "--vocab-size", "-5", "--output", "b"}, Words{""}, Words{"-x"}}) {
    EXPECT_NE(refusal(words), "accepted") << fmt::format("{}", fmt::join(words, " "));
    EXPECT_FALSE(refusal(words).empty());
  }
}

}  // namespace
}  // namespace offramp
