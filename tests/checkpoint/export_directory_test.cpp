#include <gtest/gtest.h>

#include <set>

#include "tests/checkpoint/small_export.h"
#include "tests/files.h"

namespace offramp::testing {
namespace {

namespace fs = std::filesystem;

std::set<std::string> names_in(const std::string& directory) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory)) names.insert(entry.path().filename().string());
  return names;
}

TEST(ExportDirectory, AppearsWholeOrNotAtAll) {
  TemporaryDirectory directory;
  const std::string target = directory / "runs/hf";
  {
    ExportDirectory out(target);
    write_config_json(out.path(), small_model(), -1);
    EXPECT_FALSE(fs::exists(target));
  }
  EXPECT_TRUE(names_in(directory / "runs").empty());
  write_export(target + "/", small_model(), all_exits(), 1);
  EXPECT_EQ(names_in(directory / "runs"), std::set<std::string>{"hf"});
  EXPECT_EQ(names_in(target), (std::set<std::string>{"config.json", "exits.json", "exits.safetensors", "model.safetensors"}));
}

TEST(ExportDirectory, ReplacesAnEarlierExport) {
  TemporaryDirectory directory;
  const std::string target = directory / "hf";
  write_export(target, small_model(), all_exits(), 1);
  write_bytes(target + "/tokenizer.model", "of the earlier one");
  write_export(target, small_model(), {}, 2);
  EXPECT_EQ(names_in(directory.path()), std::set<std::string>{"hf"});
  EXPECT_FALSE(fs::exists(target + "/tokenizer.model"));
  EXPECT_EQ(SafetensorsReader(target + "/model.safetensors").read("model.norm.weight").front(), 2);
}

TEST(ExportDirectory, FollowsALinkToTheRealDirectory) {
  TemporaryDirectory directory;
  fs::create_directory(directory / "disk");
  fs::create_directory_symlink(directory / "disk", directory / "hf");
  write_export(directory / "hf", small_model(), {}, 2);
  EXPECT_TRUE(fs::is_symlink(directory / "hf"));
  EXPECT_TRUE(fs::exists(directory / "disk/config.json"));
}

TEST(ExportDirectory, NeverTouchesForeignFiles) {
  TemporaryDirectory directory;
  const std::string target = directory / "hf";
  write_export(target, small_model(), {}, 1);
  EXPECT_NO_THROW(check_export_target(target));
  EXPECT_NO_THROW(check_export_target(directory / "new"));
  write_bytes(target + "/thesis.tex", "years of work");
  EXPECT_NE(checkpoint_error([&] { check_export_target(target); }).find("'thesis.tex'"), std::string::npos);

  const std::string text = checkpoint_error([&] { write_export(target, small_model(), {}, 2); });
  EXPECT_NE(text.find("'thesis.tex'"), std::string::npos) << text;
  EXPECT_EQ(read_bytes(target + "/thesis.tex"), "years of work");
  EXPECT_EQ(SafetensorsReader(target + "/model.safetensors").read("model.norm.weight").front(), 1);
  // The training that led here was not in vain.
  const auto kept = text.substr(text.find("export is in ") + 13);
  EXPECT_EQ(SafetensorsReader(kept + "/model.safetensors").read("model.norm.weight").front(), 2);
}

TEST(ExportDirectory, KnowsWhatItDidNotWrite) {
  TemporaryDirectory directory;
  fs::create_directory(directory / "downloaded");
  write_bytes(directory / "downloaded/config.json", "{}");
  write_bytes(directory / "downloaded/model.safetensors", "weights");
  EXPECT_NE(checkpoint_error([&] { check_export_target(directory / "downloaded"); }).find("no exits.json"), std::string::npos);
  write_bytes(directory / "file", "");
  EXPECT_NE(checkpoint_error([&] { check_export_target(directory / "file"); }).find("is a file"), std::string::npos);
  EXPECT_NE(checkpoint_error([&] { check_export_target(directory / "file/below"); }).find("cannot create"), std::string::npos);
  fs::create_directories(directory / "nested/tokenizer.model");  // a directory under one of our names
  write_bytes(directory / "nested/exits.json", "{}");
  EXPECT_NE(checkpoint_error([&] { check_export_target(directory / "nested"); }).find("'tokenizer.model'"), std::string::npos);
}

}  // namespace
}  // namespace offramp::testing
