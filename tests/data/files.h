// What the tests of data/ share: a directory that is gone afterwards, small files, and the check of a refusal.
#pragma once
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "data/indexed.h"
#include "tensor/check.h"
#include "tests/files.h"

namespace offramp {

class Files : public testing::Test {
 protected:
  std::string path(const std::string& name) const { return directory_ / name; }

  std::string write(const std::string& name, const std::string& content) const {
    std::filesystem::create_directories(std::filesystem::path(path(name)).parent_path());
    std::ofstream(path(name), std::ios::binary) << content;
    return path(name);
  }

  std::string content(const std::string& name) const { return read_bytes(path(name)); }

  std::string write_tokens(const std::string& name, const std::vector<std::vector<std::int32_t>>& documents,
                           TokenType type = TokenType::u16) const {
    IndexedWriter writer(path(name), type);
    for (const auto& document : documents) {
      writer.append(document);
      writer.end_document();
    }
    writer.finish();
    writer.publish();
    return path(name);
  }

  TemporaryDirectory directory_;
};

inline std::vector<std::int32_t> counting(std::int32_t from, std::int32_t count) {
  std::vector<std::int32_t> tokens;
  for (std::int32_t i = 0; i < count; ++i) tokens.push_back(from + i);
  return tokens;
}

// The call must fail with this code and a message that names each of the parts.
inline void expect_refused(Exit code, const std::vector<std::string>& parts, const std::function<void()>& call) {
  try {
    call();
    ADD_FAILURE() << "not refused";
  } catch (const Error& error) {
    EXPECT_EQ(error.code, code) << error.what();
    for (const auto& part : parts)
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << "no \"" << part << "\" in: " << error.what();
  }
}

}  // namespace offramp
