// Tokenizers: text in, token ids out. Two kinds: bytes (ids 0 to 255 are the bytes, 256 ends a document) and SentencePiece
// models. No method adds a begin or end token; whoever writes a document adds end_token() after it.
//
//   auto tokenizer = load_tokenizer("runs/data/docs_tokenizer.model");  // or "bytes"
//   std::vector<std::int32_t> ids;
//   tokenizer->encode("a first part\n", ids);                           // appends
//   tokenizer->encode_next("and what follows it\n", ids);               // the same document goes on
//   ids.push_back(tokenizer->end_token());
//
// Text that is not UTF-8 survives only as bytes: SentencePiece replaces what is malformed by U+FFFD, and takes U+2581 for a
// space. A tokenizer remembers words while it encodes: one thread at a time.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace offramp {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  virtual void encode(std::string_view text, std::vector<std::int32_t>& ids) const = 0;
  // As encode(), for text that follows a line end of the same document and begins with none: no space is put in front where the model does
  // that.
  virtual void encode_next(std::string_view text, std::vector<std::int32_t>& ids) const { encode(text, ids); }
  virtual std::string decode(std::span<const std::int32_t> ids) const = 0;
  virtual std::int64_t vocab_size() const = 0;
  virtual std::int32_t end_token() const = 0;
  virtual std::optional<std::int32_t> begin_token() const { return std::nullopt; }
  // The file that holds this tokenizer: its bytes, and the suffix (".model", ".json") it is kept under.
  virtual std::string file_bytes() const = 0;
  virtual std::string file_suffix() const = 0;
};

// "bytes", a SentencePiece FILE.model, or the file `data build --tokenizer bytes` leaves beside its data. fail(Exit::data).
std::unique_ptr<Tokenizer> load_tokenizer(const std::string& name);

// The tokenizer file that `data build` wrote beside PREFIX_train or PREFIX_valid, if it is still there.
std::optional<std::string> tokenizer_beside(const std::string& data_prefix);

}  // namespace offramp
