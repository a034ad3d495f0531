#include "data/indexed.h"

#include "tensor/check.h"

namespace offramp {
namespace {

constexpr char kMagic[9] = {'M', 'M', 'I', 'D', 'I', 'D', 'X', 0, 0};
constexpr std::size_t kVersionAt = 9, kTypeAt = 17, kSequencesAt = 18, kDocumentsAt = 26, kHeaderBytes = 34;
constexpr const char* kRebuild = "write the pair again with `offramp data build`, or copy it again";

void sign_of_life(const std::function<void()>& alive, std::int64_t entry) {
  if (alive && entry % 65536 == 65535) alive();
}

bool known(std::uint8_t type) { return type == 1 || type == 3 || type == 4 || type == 5 || type == 8; }

}  // namespace

std::size_t bytes_of(TokenType type) {
  switch (type) {
    case TokenType::u8:
      return 1;
    case TokenType::i16:
    case TokenType::u16:
      return 2;
    case TokenType::i32:
      return 4;
    case TokenType::i64:
      return 8;
  }
  OFFRAMP_CHECK(false, "token type {} is none of ours", static_cast<int>(type));
  return 0;
}

TokenType token_type_for(std::int64_t vocab_size) { return vocab_size <= 65500 ? TokenType::u16 : TokenType::i32; }

IndexedTokens::IndexedTokens(const std::string& prefix, const std::function<void()>& alive)
    : prefix_(prefix), index_(prefix + ".idx"), bin_(prefix + ".bin") {
  read_header();
  index_.expect(MappedFile::Order::sequential);
  check_sequences(alive);
  check_documents(alive);
  index_.expect(MappedFile::Order::random);  // samples, and where their documents begin, are read in any order
  bin_.expect(MappedFile::Order::random);
}

void IndexedTokens::read_header() {
  const std::string& path = index_.path();
  if (index_.size() < kHeaderBytes)
    fail(Exit::data, "{}: offset {}: the file ends inside the {}-byte header; {}", path, index_.size(), kHeaderBytes, kRebuild);
  if (std::memcmp(index_.data(), kMagic, sizeof kMagic) != 0)
    fail(Exit::data, "{}: offset 0: not a token index (no \"MMIDIDX\" at its start); {}", path, kRebuild);
  if (auto version = index_.load<std::uint64_t>(kVersionAt); version != 1)
    fail(Exit::data, "{}: offset {}: version {}, only 1 is known; {}", path, kVersionAt, version, kRebuild);
  const auto type = index_.load<std::uint8_t>(kTypeAt);
  if (!known(type))
    fail(Exit::data, "{}: offset {}: token type {}; readable are 1 (u8), 3 (i16), 4 (i32), 5 (i64), 8 (u16)", path, kTypeAt, type);
  type_ = static_cast<TokenType>(type);

  // Compared by division, so that a made-up count cannot overflow.
  const auto sequences = index_.load<std::uint64_t>(kSequencesAt), documents = index_.load<std::uint64_t>(kDocumentsAt);
  const std::uint64_t room = index_.size() - kHeaderBytes;
  if (sequences > room / 12)
    fail(Exit::data, "{}: offset {}: {} sequences do not fit in a file of {} bytes; {}", path, kSequencesAt, sequences, index_.size(),
         kRebuild);
  const std::uint64_t left = room - sequences * 12;
  if (documents == 0 || documents > left / 8 || documents * 8 != left)
    fail(Exit::data, "{}: offset {}: {} document boundaries need 8 bytes each where {} bytes are left; {}", path, kDocumentsAt, documents,
         left, kRebuild);
  sequences_ = static_cast<std::int64_t>(sequences);
  documents_ = static_cast<std::int64_t>(documents) - 1;
  offsets_at_ = kHeaderBytes + sequences * 4;
  documents_at_ = offsets_at_ + sequences * 8;
}

void IndexedTokens::check_sequences(const std::function<void()>& alive) const {
  const std::string& path = index_.path();
  const auto width = static_cast<std::int64_t>(bytes_of(type_)), size = static_cast<std::int64_t>(bin_.size());
  std::int64_t expected = 0;  // bytes of .bin the sequences so far cover
  for (std::int64_t i = 0; i < sequences_; ++i) {
    sign_of_life(alive, i);
    const std::size_t length_at = kHeaderBytes + static_cast<std::size_t>(i) * 4, offset_at = offsets_at_ + static_cast<std::size_t>(i) * 8;
    const auto length = index_.load<std::int32_t>(length_at);
    const auto offset = index_.load<std::int64_t>(offset_at);
    if (length < 0) fail(Exit::data, "{}: offset {}: sequence {} has length {}; {}", path, length_at, i, length, kRebuild);
    if (offset != expected)
      fail(Exit::data, "{}: offset {}: sequence {} starts at byte {} of the .bin file, where {} bytes come before it; {}", path, offset_at,
           i, offset, expected, kRebuild);
    expected += length * width;
    if (expected > size)
      fail(Exit::data, "{}: offset {}: the file ends inside sequence {}, which reaches to byte {}; {}", bin_.path(), size, i, expected,
           kRebuild);
  }
  if (expected != size)
    fail(Exit::data, "{}: offset {}: {} bytes more than the lengths in {} add up to; {}", bin_.path(), expected, size - expected, path,
         kRebuild);
}

void IndexedTokens::check_documents(const std::function<void()>& alive) {
  std::int64_t before = 0;
  for (std::int64_t d = 0; d <= documents_; ++d) {
    sign_of_life(alive, d);
    const std::size_t at = documents_at_ + static_cast<std::size_t>(d) * 8;
    const auto sequence = index_.load<std::int64_t>(at);
    const bool fits =
        sequence >= before && sequence <= sequences_ && (d > 0 || sequence == 0) && (d < documents_ || sequence == sequences_);
    if (!fits)
      fail(Exit::data, "{}: offset {}: document {} starts at sequence {}, after {} and with {} sequences in all; {}", index_.path(), at, d,
           sequence, before, sequences_, kRebuild);
    before = sequence;
  }
  tokens_ = static_cast<std::int64_t>(bin_.size() / bytes_of(type_));
  if (tokens_ == 0) fail(Exit::data, "{}: offset 0: holds no token; build it from input that has text", bin_.path());
}

std::int64_t IndexedTokens::document_begin(std::int64_t document) const {
  const auto sequence = index_.load<std::int64_t>(documents_at_ + static_cast<std::size_t>(document) * 8);
  if (sequence == sequences_) return tokens_;
  return index_.load<std::int64_t>(offsets_at_ + static_cast<std::size_t>(sequence) * 8) / static_cast<std::int64_t>(bytes_of(type_));
}

std::int64_t IndexedTokens::document_of(std::int64_t token) const {
  std::int64_t low = 0, high = documents_;  // the last document that begins at or before the token; empty ones come before it
  while (high - low > 1) {
    const std::int64_t middle = low + (high - low) / 2;
    (document_begin(middle) <= token ? low : high) = middle;
  }
  return low;
}

std::int64_t IndexedTokens::value(std::int64_t token) const {
  const std::size_t at = static_cast<std::size_t>(token) * bytes_of(type_);
  switch (type_) {
    case TokenType::u8:
      return bin_.load<std::uint8_t>(at);
    case TokenType::i16:
      return bin_.load<std::int16_t>(at);
    case TokenType::u16:
      return bin_.load<std::uint16_t>(at);
    case TokenType::i32:
      return bin_.load<std::int32_t>(at);
    case TokenType::i64:
      return bin_.load<std::int64_t>(at);
  }
  return -1;
}

void IndexedTokens::read(std::int64_t first, std::span<std::int32_t> out, std::int64_t limit) const {
  OFFRAMP_CHECK(first >= 0 && first + std::ssize(out) <= tokens_, "tokens {} to {} of {}", first, first + std::ssize(out), tokens_);
  for (std::size_t i = 0; i < out.size(); ++i) {
    const std::int64_t position = first + static_cast<std::int64_t>(i), token = value(position);
    if (token < 0 || token >= limit)
      fail(Exit::data,
           "{}: offset {}: token {} is outside the vocabulary of {}; set model.vocab_size to the tokenizer's, or build the data with the "
           "model's tokenizer",
           bin_.path(), position * static_cast<std::int64_t>(bytes_of(type_)), token, limit);
    out[i] = static_cast<std::int32_t>(token);
  }
}

void IndexedTokens::read_nonzero(std::int64_t first, std::span<std::uint8_t> out) const {
  OFFRAMP_CHECK(first >= 0 && first + std::ssize(out) <= tokens_, "values {} to {} of {}", first, first + std::ssize(out), tokens_);
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = value(first + static_cast<std::int64_t>(i)) != 0;
}

void IndexedTokens::prefetch(std::int64_t first, std::int64_t count) const {
  OFFRAMP_CHECK(first >= 0 && count >= 0 && first + count <= tokens_, "tokens {} to {} of {}", first, first + count, tokens_);
  bin_.prefetch(static_cast<std::size_t>(first) * bytes_of(type_), static_cast<std::size_t>(count) * bytes_of(type_));
}

}  // namespace offramp
