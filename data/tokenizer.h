// Tokenizers: text in, token ids out. Three kinds: bytes (ids 0 to 255 are the bytes, 256 ends a document), SentencePiece
// models, and Hugging Face's tokenizer.json of byte-level BPE (GPT-2, Llama 3, SmolLM2 and their like: json_tokenizer.h). No
// method adds a begin or end token; whoever writes a document adds end_token() after it.
//
//   auto tokenizer = load_tokenizer("runs/data/docs_tokenizer.model");  // or "bytes"
//   std::vector<std::int32_t> ids;
//   tokenizer->encode("a first part\n", ids);                           // appends
//   tokenizer->encode_next("and what follows it\n", ids);               // the same document goes on
//   ids.push_back(tokenizer->end_token());
//
// A document that is read in parts goes through a DocumentEncoder (document_encoder.h), whose ids are those of the whole.
// Text that is not UTF-8 survives only as bytes: SentencePiece replaces what is malformed by U+FFFD, and takes U+2581 for a
// space; byte-level BPE keeps it. A tokenizer remembers words while it encodes: one thread at a time.
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
  // As much of the beginning of text, of which more follows, as has the same ids whatever that is; how many bytes that is. `next`: the
  // text goes on with a document.
  virtual std::size_t encode_part(std::string_view text, bool next, std::vector<std::int32_t>& ids) const {
    next ? encode_next(text, ids) : encode(text, ids);
    return text.size();
  }
  virtual std::string decode(std::span<const std::int32_t> ids) const = 0;
  virtual std::int64_t vocab_size() const = 0;
  virtual std::int32_t end_token() const = 0;
  virtual std::optional<std::int32_t> begin_token() const { return std::nullopt; }
  // The file that holds this tokenizer: its bytes, and the suffix (".model", ".json") it is kept under.
  virtual std::string file_bytes() const = 0;
  virtual std::string file_suffix() const = 0;
  // What stands in a tokenizer_config.json and is kept as X_config.json beside X.json; empty: there is none.
  virtual std::string config_bytes() const { return {}; }
};

// "bytes", a SentencePiece FILE.model, a tokenizer.json, a directory with a tokenizer.json or else a tokenizer.model, or what `data build`
// leaves beside its data. fail(Exit::data).
std::unique_ptr<Tokenizer> load_tokenizer(const std::string& name);

// The tokenizer file that `data build` wrote beside PREFIX_train or PREFIX_valid, if it is still there.
std::optional<std::string> tokenizer_beside(const std::string& data_prefix);

}  // namespace offramp
