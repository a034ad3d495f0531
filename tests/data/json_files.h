// A tokenizer.json for tests: the 256 bytes as ids 0 to 255, a few merges from 256 on, and parts that a test puts in their places.
#pragma once
#include <fmt/format.h>

#include <string>
#include <utility>
#include <vector>

#include "data/unicode.h"

namespace offramp {

struct SmallJson {
  std::string pre_tokenizer = R"({"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true})";
  std::string added = R"({"id":266,"content":"<|endoftext|>","special":true,"normalized":false})";
  std::string normalizer = "null", decoder = R"({"type":"ByteLevel"})";
  std::string model = R"("type":"BPE","dropout":null,"unk_token":null)";  // before its vocabulary
  std::string vocabulary;                                                 // more of it
  std::string merge = R"("h e")";                                         // the first
};

inline std::string letter(int byte) { return letters_of_bytes(std::string(1, static_cast<char>(byte))); }

// Wholes 256 to 265: he, " t", " the", in, ing, ll, "  ", "11", "aa", "aaaa".
inline std::string text_of(const SmallJson& json) {
  const std::vector<std::pair<std::string, std::string>> merges = {{"h", "e"}, {" ", "t"}, {" t", "he"}, {"i", "n"}, {"in", "g"},
                                                                   {"l", "l"}, {" ", " "}, {"1", "1"},   {"a", "a"}, {"aa", "aa"}};
  std::string vocabulary, rules;
  for (int byte = 0; byte < 256; ++byte)
    vocabulary += fmt::format("\"{}{}\":{},", byte == '"' || byte == '\\' ? "\\" : "", letter(byte), byte);
  int id = 256;
  for (const auto& [left, right] : merges) {
    const std::string a = letters_of_bytes(left), b = letters_of_bytes(right);
    vocabulary += fmt::format("{}\"{}{}\":{}", id > 256 ? "," : "", a, b, id);
    rules += id == 256 ? json.merge : fmt::format(",[\"{}\",\"{}\"]", a, b);
    ++id;
  }
  return fmt::format(
      R"({{"version":"1.0","truncation":null,"padding":null,"added_tokens":[{}],"normalizer":{},"pre_tokenizer":{},"post_processor":null,)"
      R"("decoder":{},"model":{{{},"vocab":{{{}{}}},"merges":[{}]}}}})",
      json.added, json.normalizer, json.pre_tokenizer, json.decoder, json.model, vocabulary, json.vocabulary, rules);
}

inline std::string sequence(const std::string& first) {
  return fmt::format(
      R"({{"type":"Sequence","pretokenizers":[{},{{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}}]}})",
      first);
}

inline std::string split(const std::string& escaped_pattern, const std::string& behavior = "Isolated",
                         const std::string& invert = "false") {
  return fmt::format(R"({{"type":"Split","pattern":{{"Regex":"{}"}},"behavior":"{}","invert":{}}})", escaped_pattern, behavior, invert);
}

constexpr const char* kEscapedLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+)";

}  // namespace offramp
