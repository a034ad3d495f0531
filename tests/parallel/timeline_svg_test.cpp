#include "parallel/timeline_svg.h"

#include <gtest/gtest.h>

#include "layouts.h"
#include "parallel/actions.h"
#include "parallel/generators.h"
#include "parallel/kind.h"

namespace offramp {
namespace {

std::size_t count(const std::string& text, std::string_view part) {
  std::size_t found = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

// Every tag that opens closes again, in turn, and nothing else begins with '<' or '&'.
void expect_well_formed(const std::string& xml) {
  std::vector<std::string> open;
  for (std::size_t at = xml.find('<'); at != std::string::npos; at = xml.find('<', at + 1)) {
    const std::size_t end = xml.find('>', at);
    ASSERT_NE(end, std::string::npos);
    const std::string tag = xml.substr(at + 1, end - at - 1);
    if (tag.back() == '/') continue;
    const std::string name = tag.substr(0, tag.find(' '));
    if (name[0] != '/') {
      open.push_back(name);
      continue;
    }
    ASSERT_FALSE(open.empty());
    EXPECT_EQ(name, "/" + open.back());
    open.pop_back();
  }
  EXPECT_TRUE(open.empty());
}

Timeline timeline_of(std::string_view schedule, int microbatches, double wire = 0) {
  Layout layout = test::plain_layout(4, microbatches);
  layout.exits = {{0, 3}, {0, 5}, {3, 30}};
  const Times times = [&](const Action& action) { return is_message(action.op) ? wire : nominal_times(action); };
  return simulate(build_schedule(schedule, layout), layout, times);
}

TEST(TimelineSvg, ShowsWhereTheExitsWent) {
  const std::string svg = timeline_svg(timeline_of("1f1b", 4), {.title = "a < b & \"c\""});
  expect_well_formed(svg);
  EXPECT_EQ(count(svg, "<title>a &lt; b &amp; &quot;c&quot;</title>"), 1u);
  EXPECT_EQ(count(svg, "<title>X"), 12u);
  EXPECT_EQ(count(svg, std::string(color_of(Kind::exit))), 8u + 1u);  // two early exits of four microbatches, and the legend
  EXPECT_EQ(count(svg, ">early exit<"), 1u);
  EXPECT_EQ(count(svg, ">final head<"), 1u);
  EXPECT_EQ(count(svg, ">communication<"), 0u);  // none takes time
  EXPECT_EQ(count(svg, ">rank "), 4u);
  EXPECT_EQ(count(svg, "%</text>"), 4u + 1u);
  EXPECT_EQ(svg, timeline_svg(timeline_of("1f1b", 4), {.title = "a < b & \"c\""}));
}

TEST(TimelineSvg, MessagesLieInAStripOfTheirOwn) {
  const std::string svg = timeline_svg(timeline_of("1f1b", 4, 0.25), {.title = "1f1b"});
  expect_well_formed(svg);
  EXPECT_EQ(count(svg, "<title>SA"), 12u);
  EXPECT_EQ(count(svg, "height=\"6\""), 24u);
  EXPECT_EQ(count(svg, "<title>RA"), 0u);
}

TEST(TimelineSvg, OfALongScheduleBothEndsAreDrawn) {
  const Timeline timeline = timeline_of("gpipe", 200);
  const std::string svg = timeline_svg(timeline, {.title = "gpipe"});
  expect_well_formed(svg);
  EXPECT_EQ(count(svg, ">...<"), 1u);
  EXPECT_EQ(count(svg, "<title>F0@0 "), 1u);
  EXPECT_EQ(count(svg, "<title>B199@0 "), 1u);
  EXPECT_LT(count(svg, "<title>"), timeline.spans.size() / 4);
  const std::string part = timeline_svg(timeline, {.title = "gpipe", .begin = 10, .end = 12});
  EXPECT_EQ(count(part, ">...<"), 0u);
  EXPECT_EQ(count(part, "<title>F10@0 "), 1u);
  EXPECT_EQ(count(part, "<title>F13@0 "), 0u);
}

TEST(TimelineSvg, PassesHaveLettersAndShades) {
  Layout layout = test::plain_layout(2, 4);
  layout.passes = {{1, {}}, {0, {}}};  // two of each microbatch, the second of which ends on the first stage
  layout.exits = {{0, 3}, {1, 30}};
  layout.passes[0].exits = {ExitRole::alone, ExitRole::alone}, layout.passes[1].exits = {ExitRole::alone, ExitRole::absent};
  const Timeline timeline = simulate(build_schedule("1f1b", layout), layout, nominal_times);
  const std::string svg = timeline_svg(timeline, {.title = "passes", .passes = {{'W', "the whole"}, {'S', "the <smallest>"}}});
  expect_well_formed(svg);
  EXPECT_EQ(count(svg, ">W  the whole<"), 1u);
  EXPECT_EQ(count(svg, ">S  the &lt;smallest&gt;<"), 1u);
  EXPECT_EQ(count(svg, ">1W<"), 2u + 2u + 2u);  // its forward, exit and backward on both stages
  EXPECT_EQ(count(svg, ">1S<"), 1u + 1u + 1u);
  EXPECT_EQ(count(svg, "<title>F3@0 (1S) "), 1u);
  const std::string plain(color_of(Kind::backward));
  EXPECT_EQ(count(svg, plain), 4u + 1u + 1u);  // those of the whole, and both legends
  EXPECT_EQ(count(timeline_svg(timeline, {.title = "none"}), plain), 6u + 1u);
}

TEST(TimelineSvg, DrawsManyRanksAndNothing) {
  Timeline timeline{.seconds = 1e-5, .busy = std::vector<double>(100, 1e-5)};
  for (int rank = 0; rank < 100; ++rank) timeline.spans.push_back({make_action(Op::Forward, rank, 0), rank, 0, 1e-5});
  const std::string svg = timeline_svg(timeline, {.title = "wide"});
  expect_well_formed(svg);
  EXPECT_EQ(count(svg, "<title>F"), 64u);
  EXPECT_EQ(count(svg, "ranks 64 to 99 are not drawn"), 1u);
  EXPECT_EQ(count(svg, "time, us"), 1u);
  expect_well_formed(timeline_svg({.seconds = 0, .busy = {0}}, {.title = "nothing"}));
}

}  // namespace
}  // namespace offramp
