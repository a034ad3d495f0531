// What a tokenizer.json of byte-level BPE says, as the tokenizers library (0.23) reads it. What would change ids and is not
// implemented is refused by name; what cannot change them without begin and end tokens (post_processor, truncation, padding) is
// passed over.
//
//   model          BPE: vocab, merges ("a b" or ["a", "b"]), ignore_merges, unk_token, fuse_unk
//   added_tokens   content, lstrip, rstrip, normalized, special; not single_word. Ids as the library gives them
//   normalizer     none, NFC
//   pre_tokenizer  ByteLevel (add_prefix_space, use_regex), behind Split (Isolated, Removed; Regex, String; invert) and Digits, in a
//   Sequence decoder        none, ByteLevel
#pragma once
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "data/byte_pairs.h"
#include "data/pre_tokenizer.h"
#include "tensor/check.h"

namespace offramp {

struct TokenizerJson {
  PreTokenizing rules;
  std::unordered_map<std::string, std::int32_t> vocabulary;  // in the alphabet of bytes, see unicode.h
  std::vector<MergeRule> merges;                             // by rank
  std::int32_t unknown = -1;                                 // for bytes that are no token; -1: they are left out
  bool fuse_unknown = false, ignore_merges = false;
};

// A tokenizer.json that holds a SentencePiece model: its tokenizer.model is what can be read.
struct SentencePieceJson : Error {
  using Error::Error;
};

TokenizerJson parse_tokenizer_json(std::string_view bytes, const std::string& path);  // path: for messages; fail(Exit::data)

}  // namespace offramp
