#include "data/sentencepiece_model.h"

#include <cstring>
#include <optional>

#include "tensor/check.h"

namespace offramp {
namespace {

// One message of a protocol buffer: fields of a number and a value, which is an integer or a run of bytes.
class Message {
 public:
  struct Field {
    std::uint64_t number = 0, integer = 0;
    std::string_view bytes;
  };

  Message(std::string_view rest, const std::string& path) : rest_(rest), path_(path) {}

  std::optional<Field> next() {
    if (rest_.empty()) return std::nullopt;
    const std::uint64_t tag = varint();
    Field field{tag >> 3};
    switch (tag & 7) {
      case 0:
        field.integer = varint();
        return field;
      case 1:
        field.bytes = take(8);
        return field;
      case 2:
        field.bytes = take(varint());
        return field;
      case 5:
        field.bytes = take(4);
        return field;
      default:
        damaged();
    }
  }

 private:
  [[noreturn]] void damaged() const {
    fail(Exit::data, "{}: not a SentencePiece model, or damaged {} bytes before its end; copy it again", path_, rest_.size());
  }

  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1)[0]);
      value |= static_cast<std::uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    damaged();
  }

  std::string_view take(std::uint64_t count) {
    if (count > rest_.size()) damaged();
    const auto taken = rest_.substr(0, count);
    rest_.remove_prefix(count);
    return taken;
  }

  std::string_view rest_;
  const std::string& path_;
};

SentencePieceModel::Piece parse_piece(std::string_view bytes, const std::string& path) {
  SentencePieceModel::Piece piece;
  Message message(bytes, path);
  while (auto field = message.next()) {
    if (field->number == 1) piece.text = field->bytes;
    if (field->number == 2 && field->bytes.size() == 4) std::memcpy(&piece.score, field->bytes.data(), 4);
    if (field->number == 3) piece.kind = static_cast<SentencePieceModel::Kind>(field->integer);
  }
  return piece;
}

void parse_trainer(std::string_view bytes, const std::string& path, SentencePieceModel& model) {
  Message message(bytes, path);
  while (auto field = message.next())
    if (field->number == 3) model.is_bpe = field->integer == 2;
}

// A map of characters: u32 bytes of a trie | the trie | the texts, each with a 0 behind it. The library follows what stands in the trie
// unseen: from unit i to i ^ offset ^ byte, and from a leaf to its text. So both must lie where there is something, for any text.
void check_character_map(std::string_view map, const std::string& path) {
  constexpr std::uint32_t kLeaf = 1u << 31, kHasLeaf = 1u << 8, kBlock = 256;
  const auto check = [&](bool sound) {
    if (!sound) fail(Exit::data, "{}: its map of characters is damaged; copy it again", path);
  };
  const auto number = [&](std::size_t at) {
    std::uint32_t value = 0;
    std::memcpy(&value, map.data() + at, sizeof value);
    return value;
  };
  check(map.size() > sizeof(std::uint32_t));
  const std::uint32_t bytes = number(0);
  check(bytes > 0 && bytes % (kBlock * sizeof(std::uint32_t)) == 0 && bytes < map.size() - sizeof bytes && map.back() == '\0');
  const std::uint32_t units = bytes / sizeof(std::uint32_t);
  const std::size_t texts = map.size() - sizeof bytes - bytes;
  const auto unit = [&](std::uint32_t i) { return number(sizeof bytes + i * sizeof(std::uint32_t)); };
  for (std::uint32_t i = 0; i < units; ++i) {
    const std::uint32_t u = unit(i), offset = (u >> 10) << ((u & (1u << 9)) >> 6), to = i ^ offset;
    if (i > 0 && (u & kLeaf)) continue;
    check(to / kBlock < units / kBlock && (!(u & kHasLeaf) || (unit(to) & ~kLeaf) < texts));
  }
}

void parse_normalizer(std::string_view bytes, const std::string& path, SentencePieceModel& model) {
  bool removes_spaces = true, has_map = false;  // the format's defaults
  Message message(bytes, path);
  while (auto field = message.next()) {
    if (field->number == 2) {
      has_map = !field->bytes.empty();
      if (has_map) check_character_map(field->bytes, path);
    }
    if (field->number == 3) model.adds_prefix = field->integer != 0;
    if (field->number == 4) removes_spaces = field->integer != 0;
  }
  model.normalises = has_map || removes_spaces;
}

}  // namespace

SentencePieceModel parse_sentencepiece_model(std::string_view bytes, const std::string& path) {
  SentencePieceModel model;
  Message message(bytes, path);
  while (auto field = message.next()) {
    if (field->number == 1) model.pieces.push_back(parse_piece(field->bytes, path));
    if (field->number == 2) parse_trainer(field->bytes, path, model);
    if (field->number == 3) parse_normalizer(field->bytes, path, model);
    if (field->number == 5) {  // the way back, of texts that are decoded
      SentencePieceModel ignored;
      parse_normalizer(field->bytes, path, ignored);
    }
  }
  return model;
}

}  // namespace offramp
