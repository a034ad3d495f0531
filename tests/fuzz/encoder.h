// Encodes texts with a tokenizer that was loaded: ids must be those of its vocabulary.
#pragma once
#include <vector>

#include "data/tokenizer.h"
#include "tests/fuzz/target.h"

namespace offramp::fuzz {

inline void encode_texts(const Tokenizer& tokenizer) {
  const std::string spaces(200, ' ');
  const std::string texts[] = {"", "Hello, w\u00f6rld 12345 \n\n it's <|endoftext|></s> fine\t",
                               "e\u0301 \u65e5\u672c\u8a9e \u2581\u2581x \U0001F600",
                               "\xFF\xFE"
                               "abc\xC3",
                               spaces + "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!" + spaces};
  for (const std::string& text : texts) {
    std::vector<std::int32_t> ids;
    tokenizer.encode(text, ids);
    tokenizer.encode_next(text, ids);
    promise(tokenizer.encode_part(text, false, ids) <= text.size(), "a part is no longer than its text");
    for (const std::int32_t id : ids) promise(id >= 0 && id < tokenizer.vocab_size(), "ids are those of the vocabulary");
    tokenizer.decode(ids);
  }
  promise(tokenizer.end_token() >= 0 && tokenizer.end_token() < tokenizer.vocab_size(), "the end token is one of the vocabulary");
}

}  // namespace offramp::fuzz
