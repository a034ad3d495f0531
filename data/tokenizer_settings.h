// What stands beside a tokenizer.json and belongs to the tokenizer: which tokens begin and end a text, more added tokens, the chat
// template. Read from X_config.json beside X.json; for a file called tokenizer.json also from special_tokens_map.json,
// chat_template.jinja, and, when those name no end token, from generation_config.json and config.json (the first of several ids).
// Where nothing names one, the end token is the first of <|endoftext|>, <|end_of_text|>, </s>, <eos>, <|im_end|> that the tokenizer has.
//
//   TokenizerSettings settings = read_settings("model/tokenizer.json", json);   // may add to json's added tokens
#pragma once
#include <cstdint>
#include <optional>
#include <string>

#include "data/tokenizer_json.h"

namespace offramp {

struct TokenizerSettings {
  std::string config;  // a tokenizer_config.json with all of it that transformers reads, and nothing that names code
  std::int32_t end = -1;
  std::optional<std::int32_t> begin;
};

// Adds to `json` what transformers would: tokens named here are found in text too. fail(Exit::data): a file is damaged, names a
// token that the tokenizer lacks, or nothing names an end token.
TokenizerSettings read_settings(const std::string& path, TokenizerJson& json);

}  // namespace offramp
