#include "trainer/log.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <bit>
#include <cmath>
#include <csignal>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tensor/check.h"
#include "tests/files.h"

namespace offramp {
namespace {

using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

StepRecord full_record() {
  return {.step = 12,
          .loss = 9.75,
          .final_loss = 4.5,
          .exit_losses = {{2, 5.25}, {11, 6.0}},
          .lr = 3e-4,
          .grad_norm = 1.0 / 3,
          .tokens = 8192,
          .step_time_s = 0.1,
          .tokens_per_s = 81920.0,
          .mfu = 0.25,
          .peak_bytes = 5'000'000'000,
          .phase_s = {.forward = 0.01, .backward = 0.02, .exits = 0.03, .communication = 0.04, .optimizer = 0.05, .data = 0.06}};
}

std::vector<std::string> lines_of(const std::string& path) {
  std::istringstream text(read_bytes(path));
  std::vector<std::string> lines;
  for (std::string line; std::getline(text, line);) lines.push_back(line);
  return lines;
}

TEST(StepLine, HasTheContractsKeysInItsOrder) {
  EXPECT_EQ(to_json(full_record()),
            R"({"step":12,"loss":9.75,"final_loss":4.5,"exit_losses":{"2":5.25,"11":6.0},"lr":0.0003,"grad_norm":0.3333333333333333,)"
            R"("tokens":8192,"step_time_s":0.1,"tokens_per_s":81920.0,"mfu":0.25,"peak_bytes":5000000000,)"
            R"("phase_s":{"forward":0.01,"backward":0.02,"exits":0.03,"communication":0.04,"optimizer":0.05,"data":0.06}})"
            "\n");
}

TEST(StepLine, NumbersReadBackToTheSameBits) {
  for (const double value : {0.0, -0.0, 1.0, 0.1, 1.0 / 3, 6.02214076e23, 5e-324, std::numeric_limits<double>::max(),
                             std::nextafter(1.0, 2.0), 1e15, 123456789012345678.0, static_cast<double>(0.1f), 3.0000000000000004e-5}) {
    const auto json = Json::parse(to_json(StepRecord{.loss = value}));
    ASSERT_TRUE(json["loss"].is_number_float()) << value;  // an integer would lose the sign of zero
    EXPECT_EQ(std::bit_cast<std::uint64_t>(json["loss"].get<double>()), std::bit_cast<std::uint64_t>(value)) << value;
  }
}

TEST(StepLine, WhatJsonCannotSayIsNull) {
  const double infinity = std::numeric_limits<double>::infinity();
  const auto json = Json::parse(to_json(StepRecord{.loss = std::nan(""), .exit_losses = {{2, infinity}}, .grad_norm = -infinity}));
  for (const auto* key : {"loss", "final_loss", "grad_norm", "mfu"}) EXPECT_TRUE(json[key].is_null()) << key;
  EXPECT_TRUE(json["exit_losses"]["2"].is_null());
}

TEST(ValidationLine, NamesItsSplitAndItsSet) {
  ValidationRecord record{.step = 300,
                          .set = "a \"set\"\xff",
                          .loss = 5,
                          .final_loss = 4.5,
                          .final_accuracy = 0.25,
                          .exit_losses = {{2, 5.5}},
                          .exit_accuracies = {{2, 0.125}},
                          .tokens = 16384};
  EXPECT_EQ(to_json(record),
            "{\"step\":300,\"split\":\"validation\",\"set\":\"a \\\"set\\\"\xef\xbf\xbd\",\"loss\":5.0,\"final_loss\":4.5,"
            "\"exit_losses\":{\"2\":5.5},\"final_accuracy\":0.25,\"exit_accuracies\":{\"2\":0.125},\"tokens\":16384}\n");
}

TEST(MetricsLog, AppendsAndEndsATornLine) {
  TemporaryDirectory directory;
  const std::string logs = directory / "runs/one";
  MetricsLog(logs, false).write(StepRecord{.step = 1});
  MetricsLog(logs, false).write(StepRecord{.step = 2});
  const std::string path = logs + "/metrics.jsonl";
  EXPECT_EQ(read_bytes(path), to_json(StepRecord{.step = 1}) + to_json(StepRecord{.step = 2}));
  write_bytes(path, read_bytes(path) + R"({"step":3,"lo)");
  MetricsLog(logs, false).write(StepRecord{.step = 3});
  const auto lines = lines_of(path);
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_EQ(lines[2], R"({"step":3,"lo)");
  EXPECT_EQ(Json::parse(lines[3])["step"], 3);
}

TEST(MetricsLog, ALineIsThereBeforeTheNextStepStarts) {
  TemporaryDirectory directory;
  MetricsLog log(directory.path(), false);
  for (std::int64_t step = 1; step <= 3; ++step) {
    log.write(StepRecord{.step = step});
    EXPECT_EQ(lines_of(directory / "metrics.jsonl").size(), static_cast<std::size_t>(step));
  }
}

TEST(MetricsLog, WithoutADirectoryThereAreNoFiles) {
  MetricsLog log("", true);
  log.write(StepRecord{.step = 1});
  log.write(ValidationRecord{.step = 1});
  EXPECT_FALSE(fs::exists("/metrics.jsonl"));
}

TEST(MetricsLog, ADirectoryThatCannotBeMadeIsTheUsersToChange) {
  TemporaryDirectory directory;
  write_bytes(directory / "file", "");
  try {
    MetricsLog log(directory / "file/logs", true);
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code, Exit::checkpoint);
    EXPECT_NE(std::string(error.what()).find("file/logs"), std::string::npos) << error.what();
  }
}

// A limit on file sizes stands for the full disk.
TEST(MetricsLog, AFullDiskCostsLinesAndNothingElse) {
  TemporaryDirectory directory;
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const std::size_t line = to_json(StepRecord{.step = 1}).size();
  MetricsLog log(directory.path(), false);
  testing::internal::CaptureStderr();
  const rlimit small{2 * line + line / 2, before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  for (std::int64_t step = 1; step <= 5; ++step) log.write(StepRecord{.step = step});
  setrlimit(RLIMIT_FSIZE, &before);
  log.write(StepRecord{.step = 6});
  std::signal(SIGXFSZ, handler);
  const std::string warnings = testing::internal::GetCapturedStderr();
  EXPECT_EQ(std::count(warnings.begin(), warnings.end(), '\n'), 1) << warnings;
  EXPECT_NE(warnings.find(directory / "metrics.jsonl"), std::string::npos) << warnings;
  std::vector<int> steps;
  for (const auto& text : lines_of(directory / "metrics.jsonl")) steps.push_back(Json::parse(text)["step"]);
  EXPECT_EQ(steps, (std::vector<int>{1, 2, 6}));
}

// ---- TensorBoard

// Bit by bit, straight from the definition.
std::uint32_t slow_crc32c(std::string_view bytes) {
  std::uint32_t crc = 0xffffffff;
  for (const char c : bytes) {
    crc ^= static_cast<unsigned char>(c);
    for (int i = 0; i < 8; ++i) crc = (crc & 1) ? (crc >> 1) ^ 0x82f63b78u : crc >> 1;
  }
  return crc ^ 0xffffffff;
}

TEST(Crc32c, HasThePublishedValues) {
  EXPECT_EQ(crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aau);  // RFC 3720, B.4
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43u);
  EXPECT_EQ(crc32c(""), 0u);
  EXPECT_EQ(crc32c("early exits"), slow_crc32c("early exits"));
}

std::uint32_t unmask(std::uint32_t masked) {
  const std::uint32_t rotated = masked - 0xa282ead8u;
  return (rotated >> 17) | (rotated << 15);
}

// The events of a file whose checksums are right.
std::vector<std::string> events_of(const std::string& bytes) {
  std::vector<std::string> events;
  for (std::size_t at = 0; at < bytes.size();) {
    std::uint64_t length = 0;
    std::uint32_t crc = 0;
    std::memcpy(&length, bytes.data() + at, 8);
    std::memcpy(&crc, bytes.data() + at + 8, 4);
    EXPECT_EQ(unmask(crc), slow_crc32c(bytes.substr(at, 8)));
    events.push_back(bytes.substr(at + 12, length));
    std::memcpy(&crc, bytes.data() + at + 12 + length, 4);
    EXPECT_EQ(unmask(crc), slow_crc32c(events.back()));
    at += 16 + length;
  }
  return events;
}

TEST(TensorBoardWriter, EveryByteIsAsTheFormatSays) {
  TemporaryDirectory directory;
  TensorBoardWriter board(directory.path());
  board.write(300, {{"a/2", 1.5}, {"b", -2.0}});
  const auto events = events_of(read_bytes(board.path()));
  ASSERT_EQ(events.size(), 2u);
  using namespace std::string_literals;
  EXPECT_EQ(events[0][0], '\x09');  // field 1, a double: the time
  double time = 0;
  std::memcpy(&time, events[0].data() + 1, 8);
  EXPECT_NEAR(time, static_cast<double>(std::time(nullptr)), 60);
  EXPECT_EQ(events[0].substr(9),
            "\x1a\x0d"
            "brain.Event:2"s);  // field 3
  EXPECT_EQ(events[1].substr(9),
            "\x10\xac\x02"  // field 2: 300
            "\x2a\x16"      // field 5, 22 bytes: the summary
            "\x0a\x0a"
            "\x0a\x03"
            "a/2"
            "\x15\0\0\xc0\x3f"  // a value: its tag, and 1.5
            "\x0a\x08"
            "\x0a\x01"
            "b"
            "\x15\0\0\0\xc0"s);
}

TEST(TensorBoardWriter, TensorBoardReadsIt) {
  OFFRAMP_NEEDS_PYTHON();
  TemporaryDirectory directory;
  MetricsLog log(directory / "logs", true);
  log.write(full_record());
  log.write(StepRecord{.step = 100'000, .loss = std::nan("")});
  log.write(ValidationRecord{
      .step = 12, .set = "docs", .loss = 5, .final_loss = 4.5, .exit_losses = {{2, 5.5}}, .exit_accuracies = {{2, 0.125}}});
  const std::string program = R"(
import sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1])
events.Reload()
for tag in sorted(events.Tags()["scalars"]):
    print(tag, *[f"{e.step}:{e.value:.6g}" for e in events.Scalars(tag)])
)";
  EXPECT_EQ(
      run_python(directory, program, directory / "logs"),
      "exit_losses/11 12:6\nexit_losses/2 12:5.25\nfinal_loss 12:4.5\ngrad_norm 12:0.333333 100000:0\nloss 12:9.75 100000:nan\n"
      "lr 12:0.0003 100000:0\nmfu 12:0.25\npeak_bytes 12:5e+09 100000:0\nphase_s/backward 12:0.02 100000:0\n"
      "phase_s/communication 12:0.04 100000:0\nphase_s/data 12:0.06 100000:0\nphase_s/exits 12:0.03 100000:0\n"
      "phase_s/forward 12:0.01 100000:0\nphase_s/optimizer 12:0.05 100000:0\nstep_time_s 12:0.1 100000:0\ntokens_per_s 12:81920 100000:0\n"
      "validation/docs/exit_accuracies/2 12:0.125\nvalidation/docs/exit_losses/2 12:5.5\nvalidation/docs/final_loss 12:4.5\n"
      "validation/docs/loss 12:5\n");
}

}  // namespace
}  // namespace offramp
