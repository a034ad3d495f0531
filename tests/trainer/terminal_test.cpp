#include "trainer/terminal.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <sstream>

namespace offramp {
namespace {

StepRecord record_at(std::int64_t step) {
  return {.step = step, .loss = 9.75, .final_loss = 4.5, .exit_losses = {{2, 5.25}, {5, 5.0}}, .step_time_s = 2, .tokens_per_s = 1234567.8};
}

// What a stream received.
class Screen {
 public:
  Screen() : stream_(std::tmpfile()) {}
  ~Screen() { std::fclose(stream_); }
  Screen(const Screen&) = delete;
  Screen& operator=(const Screen&) = delete;
  std::FILE* stream() const { return stream_; }
  std::string text() const {
    std::string bytes;
    std::rewind(stream_);
    for (int c = std::fgetc(stream_); c != EOF; c = std::fgetc(stream_)) bytes.push_back(static_cast<char>(c));
    return bytes;
  }

 private:
  std::FILE* stream_;
};

TEST(ProgressLine, SaysEverything) {
  EXPECT_EQ(progress_line(record_at(7), 300, 586, 0),
            "step   7/300  loss 9.7500  exits 2: 5.2500  5: 5.0000  final 4.5000  1,234,568 tokens/s  9m46s left");
  EXPECT_EQ(progress_line({.step = 300, .loss = std::nan(""), .tokens_per_s = 12}, 300, 0, 0), "step 300/300  loss nan  12 tokens/s");
}

TEST(ProgressLine, FitsEveryWindow) {
  for (int columns = 1; columns <= 200; ++columns) {
    const auto line = progress_line(record_at(7), 300, 586, columns);
    EXPECT_LE(line.size(), static_cast<std::size_t>(columns));
    EXPECT_FALSE(line.empty());
  }
  EXPECT_EQ(progress_line(record_at(7), 300, 586, 40), "step   7/300  loss 9.7500  9m46s left");
  EXPECT_EQ(progress_line(record_at(150), 300, 300, 123).substr(0, 24), "[==========          ]  ");
}

TEST(Duration, IsReadableAtEveryLength) {
  EXPECT_EQ(duration_text(0.4), "0s");
  EXPECT_EQ(duration_text(59.6), "1m00s");
  EXPECT_EQ(duration_text(185), "3m05s");
  EXPECT_EQ(duration_text(7620), "2h07m");
  EXPECT_EQ(duration_text(273600), "3d04h");
  EXPECT_EQ(duration_text(std::nan("")), "?");
}

TEST(Terminal, PlainLinesComeEverySoOften) {
  Screen screen;
  double now = 100;
  Terminal terminal(screen.stream(), {.last_step = 50, .live = false, .clock = [&] { return now; }});
  for (std::int64_t step = 1; step <= 50; ++step, now += 1) terminal.step(record_at(step));
  terminal.finish();
  std::istringstream text(screen.text());
  std::vector<std::string> shown;
  for (std::string line; std::getline(text, line);) shown.push_back(line.substr(0, 10));
  EXPECT_EQ(shown, (std::vector<std::string>{"step  1/50", "step 11/50", "step 21/50", "step 31/50", "step 41/50", "step 50/50"}));
  EXPECT_EQ(screen.text().find('\x1b'), std::string::npos);
}

TEST(Terminal, TheLiveLineIsRewrittenAtMostTenTimesASecond) {
  Screen screen;
  double now = 100;
  Terminal terminal(screen.stream(), {.last_step = 1000, .live = true, .columns = 80, .clock = [&] { return now; }});
  for (std::int64_t step = 1; step <= 200; ++step, now += 0.01) terminal.step(record_at(step));  // two seconds
  const auto text = screen.text();
  const auto drawn = std::count(text.begin(), text.end(), '\r');
  EXPECT_GE(drawn, 15);
  EXPECT_LE(drawn, 21);
  EXPECT_EQ(text.find('\n'), std::string::npos);
}

TEST(Terminal, TheNewestStepIsLeftOnTheScreen) {
  Screen screen;
  Terminal terminal(screen.stream(), {.last_step = 1000, .live = true, .columns = 80, .clock = [] { return 1.0; }});
  for (std::int64_t step = 1; step <= 3; ++step) terminal.step(record_at(step));
  terminal.finish();
  const auto text = screen.text();
  EXPECT_NE(text.substr(text.rfind('\r')).find("step    3/1000"), std::string::npos);
  EXPECT_EQ(text.back(), '\n');
}

TEST(Terminal, WhatIsSaidAfterAnErrorBeginsALine) {
  Screen screen;
  {
    Terminal terminal(screen.stream(), {.last_step = 1000, .live = true, .columns = 80, .clock = [] { return 1.0; }});
    terminal.step(record_at(1));
  }
  EXPECT_EQ(screen.text().back(), '\n');
}

TEST(Terminal, MessagesStandAboveTheLiveLine) {
  Screen screen;
  Terminal terminal(screen.stream(), {.last_step = 10, .live = true, .columns = 30, .clock = [] { return 1.0; }});
  terminal.print("before\n");
  terminal.step(record_at(4));
  terminal.print("between\n");
  const std::string line = progress_line(record_at(4), 10, 12, 29);
  EXPECT_EQ(screen.text(), "before\n\r" + line + "\x1b[K\r\x1b[Kbetween\n\r" + line + "\x1b[K");
}

TEST(Terminal, TimeLeftFollowsThePace) {
  Screen screen;
  Terminal terminal(screen.stream(), {.last_step = 11, .live = false, .clock = [] { return 1.0; }});
  terminal.step(record_at(1));
  EXPECT_NE(screen.text().find("20s left"), std::string::npos) << screen.text();
}

TEST(ValidationTable, IsAligned) {
  EXPECT_EQ(validation_table("docs_valid", 300,
                             {{.label = "exit", .layer = 2, .head = "norm", .loss = 6.25, .accuracy = 0.0525},
                              {.label = "exit", .layer = 12, .head = "attention", .loss = 20, .accuracy = 0},
                              {.label = "final", .layer = 24, .head = "norm", .loss = 0, .accuracy = 1}}),
            "validation on docs_valid, step 300\n"
            "         layer  head          loss  perplexity  accuracy\n"
            "  exit       2  norm        6.2500      518.01     5.25%\n"
            "  exit      12  attention  20.0000    4.85e+08     0.00%\n"
            "  final     24  norm        0.0000        1.00   100.00%\n");
}

}  // namespace
}  // namespace offramp
