// Token files in Megatron's format: PREFIX.bin holds the tokens of all documents one after the other, PREFIX.idx says where
// each document stands. Little-endian, packed:
//
//   .idx   "MMIDIDX\0\0" | u64 version 1 | u8 type | u64 sequences S | u64 documents + 1, D
//          i32 lengths[S], tokens | i64 offsets[S], bytes into .bin | i64 documents[D], index of each one's first sequence, then S
//   .bin   the tokens, of the type
//
// A document is one sequence, unless it has more tokens than an i32 counts. The reader checks the whole .idx against both
// files' sizes when it opens, so that later reads need no checks but the token's value.
//
//   IndexedWriter writer("docs_train", TokenType::u16);
//   writer.append(tokens);                       // any number of times
//   writer.end_document();
//   writer.finish();                             // complete, under temporary names
//   writer.publish();                            // under their own
//   IndexedTokens stream("docs_train");
//   stream.read(100, tokens, vocab_size);        // tokens [100, 100 + tokens.size()) of the concatenated stream
#pragma once
#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "data/mapped_file.h"

namespace offramp {

enum class TokenType : std::uint8_t { u8 = 1, i16 = 3, i32 = 4, i64 = 5, u16 = 8 };  // Megatron's codes

std::size_t bytes_of(TokenType type);
TokenType token_type_for(std::int64_t vocab_size);  // u16 up to 65,500 tokens (Megatron's rule), i32 above

class IndexedTokens {
 public:
  // fail(Exit::data) names file, offset and what is wrong. The check takes minutes with 10^9 documents: every 65,536 entries
  // it calls alive(), if there is one.
  explicit IndexedTokens(const std::string& prefix, const std::function<void()>& alive = {});

  const std::string& prefix() const { return prefix_; }
  TokenType type() const { return type_; }
  std::int64_t tokens() const { return tokens_; }
  std::int64_t documents() const { return documents_; }
  std::int64_t document_begin(std::int64_t document) const;  // its first token's position; documents() gives tokens()
  std::int64_t document_of(std::int64_t token) const;        // the document that holds the token at this position

  // Tokens [first, first + out.size()); each must be in [0, limit), else fail(Exit::data) with its offset in the file.
  void read(std::int64_t first, std::span<std::int32_t> out, std::int64_t limit) const;
  void read_nonzero(std::int64_t first, std::span<std::uint8_t> out) const;  // 1 where the value is not 0
  void prefetch(std::int64_t first, std::int64_t count) const;               // starts reading these from disk, does not wait

 private:
  void read_header();
  void check_sequences(const std::function<void()>& alive) const;
  void check_documents(const std::function<void()>& alive);
  std::int64_t value(std::int64_t token) const;

  std::string prefix_;
  MappedFile index_, bin_;
  TokenType type_ = TokenType::u16;
  std::int64_t sequences_ = 0, documents_ = 0, tokens_ = 0;
  std::size_t offsets_at_ = 0, documents_at_ = 0;  // where the arrays start in .idx
};

// Writes tokens as they come; memory does not grow with the number of tokens or documents. Without publish() nothing is left.
class IndexedWriter {
 public:
  IndexedWriter(const std::string& prefix, TokenType type);
  ~IndexedWriter();
  IndexedWriter(const IndexedWriter&) = delete;
  IndexedWriter& operator=(const IndexedWriter&) = delete;

  void append(std::span<const std::int32_t> tokens);
  void end_document();
  void finish();
  void publish();

  std::int64_t tokens() const { return tokens_; }
  std::int64_t documents() const { return documents_; }

 private:
  struct Closer {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  using File = std::unique_ptr<std::FILE, Closer>;

  File open(const std::string& path, const char* mode) const;
  void put(std::FILE* file, const void* data, std::size_t bytes) const;
  void end_sequence(bool ends_document);
  void write_index(std::FILE* index) const;
  template <class Each>
  void for_each_sequence(Each each) const;

  std::string prefix_, bin_path_, index_path_, lengths_path_;  // the last three are temporary names
  TokenType type_;
  File bin_, lengths_;
  std::int64_t tokens_ = 0, documents_ = 0, sequences_ = 0, in_sequence_ = 0;
  bool published_ = false;
};

}  // namespace offramp
