#include "checkpoint/publish.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include "checkpoint/file.h"
#include "tests/files.h"

namespace offramp::testing {
namespace {

TEST(Publish, WhatNeverEndedIsRemovedAndNothingElse) {
  const TemporaryDirectory directory;
  const std::filesystem::path path = directory.path();
  for (const char* name : {"step-4.tmp-0badcafe", "step-4.tmp-0badcafe-old", "step-3", "others.tmp-1"}) {
    std::filesystem::create_directory(path / name);
    write_file((path / name / "rank-00000.h5").string(), "numbers");
  }
  for (const char* name : {"latest", "latest.tmp-77", "latest-news"}) write_file((path / name).string(), "step-3\n");
  remove_unfinished(path.string());
  std::set<std::string> left;
  for (const auto& entry : std::filesystem::directory_iterator(path)) left.insert(entry.path().filename());
  EXPECT_EQ(left, (std::set<std::string>{"step-3", "others.tmp-1", "latest", "latest-news"}));
}

}  // namespace
}  // namespace offramp::testing
