#include <cerrno>
#include <filesystem>
#include <limits>
#include <vector>

#include "data/indexed.h"
#include "data/publish.h"
#include "tensor/check.h"

namespace offramp {
namespace {

constexpr std::int64_t kLongest = std::numeric_limits<std::int32_t>::max();  // tokens an i32 length counts

template <class T>
void narrow(std::span<const std::int32_t> tokens, std::vector<std::byte>& bytes) {
  bytes.resize(tokens.size() * sizeof(T));
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const auto token = static_cast<T>(tokens[i]);
    OFFRAMP_CHECK(static_cast<std::int64_t>(token) == tokens[i], "token {} does not fit the file's type", tokens[i]);
    std::memcpy(bytes.data() + i * sizeof(T), &token, sizeof(T));
  }
}

void pack(TokenType type, std::span<const std::int32_t> tokens, std::vector<std::byte>& bytes) {
  switch (type) {
    case TokenType::u8:
      return narrow<std::uint8_t>(tokens, bytes);
    case TokenType::i16:
      return narrow<std::int16_t>(tokens, bytes);
    case TokenType::u16:
      return narrow<std::uint16_t>(tokens, bytes);
    case TokenType::i32:
      return narrow<std::int32_t>(tokens, bytes);
    case TokenType::i64:
      return narrow<std::int64_t>(tokens, bytes);
  }
}

}  // namespace

IndexedWriter::IndexedWriter(const std::string& prefix, TokenType type)
    : prefix_(prefix),
      bin_path_(prefix + ".bin.tmp"),
      index_path_(prefix + ".idx.tmp"),
      lengths_path_(prefix + ".lengths.tmp"),
      type_(type) {
  const auto parent = std::filesystem::path(prefix).parent_path();
  std::error_code ignored;  // opening the files says it better
  if (!parent.empty()) std::filesystem::create_directories(parent, ignored);
  bin_ = open(bin_path_, "wb");
  lengths_ = open(lengths_path_, "wb");
}

IndexedWriter::~IndexedWriter() {
  std::error_code ignored;
  for (const auto& path : {bin_path_, index_path_, lengths_path_})
    if (!published_) std::filesystem::remove(path, ignored);
}

IndexedWriter::File IndexedWriter::open(const std::string& path, const char* mode) const {
  File file(std::fopen(path.c_str(), mode));
  if (!file) fail(Exit::checkpoint, "{}: cannot be opened: {}; choose an --output prefix that can be written", path, std::strerror(errno));
  return file;
}

void IndexedWriter::put(std::FILE* file, const void* data, std::size_t bytes) const {
  if (std::fwrite(data, 1, bytes, file) != bytes)
    fail(Exit::checkpoint, "{}: cannot be written: {}; is the disk full?", prefix_, std::strerror(errno));
}

void IndexedWriter::append(std::span<const std::int32_t> tokens) {
  std::vector<std::byte> bytes;
  while (!tokens.empty()) {
    if (in_sequence_ == kLongest) end_sequence(false);
    const auto part = tokens.first(std::min(tokens.size(), static_cast<std::size_t>(kLongest - in_sequence_)));
    pack(type_, part, bytes);
    put(bin_.get(), bytes.data(), bytes.size());
    in_sequence_ += std::ssize(part);
    tokens_ += std::ssize(part);
    tokens = tokens.subspan(part.size());
  }
}

// The lengths wait in a file, not in memory; a length with its sign bit flipped says that the document goes on.
void IndexedWriter::end_sequence(bool ends_document) {
  const auto length = static_cast<std::int32_t>(in_sequence_), record = ends_document ? length : ~length;
  put(lengths_.get(), &record, sizeof record);
  in_sequence_ = 0;
  ++sequences_;
}

void IndexedWriter::end_document() {
  end_sequence(true);
  ++documents_;
}

template <class Each>
void IndexedWriter::for_each_sequence(Each each) const {
  File file = open(lengths_path_, "rb");
  for (std::int64_t i = 0; i < sequences_; ++i) {
    std::int32_t record = 0;
    if (std::fread(&record, sizeof record, 1, file.get()) != 1) fail(Exit::checkpoint, "{}: cannot be read back", lengths_path_);
    each(i, record < 0 ? ~record : record, record >= 0);
  }
}

void IndexedWriter::write_index(std::FILE* index) const {
  put(index, "MMIDIDX\0\0", 9);
  const std::uint64_t version = 1, sequences = static_cast<std::uint64_t>(sequences_),
                      boundaries = static_cast<std::uint64_t>(documents_) + 1;
  put(index, &version, 8);
  put(index, &type_, 1);
  put(index, &sequences, 8);
  put(index, &boundaries, 8);
  for_each_sequence([&](std::int64_t, std::int32_t length, bool) { put(index, &length, 4); });
  std::int64_t offset = 0, first = 0;
  for_each_sequence([&](std::int64_t, std::int32_t length, bool) {
    put(index, &offset, 8);
    offset += length * static_cast<std::int64_t>(bytes_of(type_));
  });
  put(index, &first, 8);
  for_each_sequence([&](std::int64_t i, std::int32_t, bool ends_document) {
    const std::int64_t next = i + 1;
    if (ends_document) put(index, &next, 8);
  });
}

void IndexedWriter::finish() {
  OFFRAMP_CHECK(in_sequence_ == 0, "{} tokens after the last end_document()", in_sequence_);
  const auto close = [&](File file) {
    if (std::fclose(file.release()) != 0)
      fail(Exit::checkpoint, "{}: cannot be written: {}; is the disk full?", prefix_, std::strerror(errno));
  };
  flush_to_disk(bin_.get(), bin_path_);
  close(std::move(bin_));
  close(std::move(lengths_));
  File index = open(index_path_, "wb");
  write_index(index.get());
  flush_to_disk(index.get(), index_path_);
  close(std::move(index));
  std::error_code ignored;  // a file too many harms nobody
  std::filesystem::remove(lengths_path_, ignored);
}

void IndexedWriter::publish() {
  OFFRAMP_CHECK(!bin_ && !published_, "publish() comes once, after finish()");
  rename_published(bin_path_, prefix_ + ".bin");
  rename_published(index_path_, prefix_ + ".idx");  // last: with it the pair is complete
  published_ = true;
}

}  // namespace offramp
