// A SentencePiece model as a Tokenizer; made by load_tokenizer().
#pragma once
#include <memory>
#include <string>

#include "data/tokenizer.h"

namespace offramp {

// bytes: the file's; path: for messages. fail(Exit::data) when they are no model with an end token.
std::unique_ptr<Tokenizer> piece_tokenizer(const std::string& path, std::string bytes);

}  // namespace offramp
