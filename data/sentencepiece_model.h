// What a SentencePiece .model file says, read from its protocol buffer: the library's public headers do not tell all of it.
//
//   SentencePieceModel model = parse_sentencepiece_model(bytes, path);
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace offramp {

constexpr std::string_view kPieceSpace = "\xE2\x96\x81";  // U+2581, how pieces write a space

struct SentencePieceModel {
  enum class Kind : std::uint8_t { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };
  struct Piece {
    std::string text;
    float score = 0;
    Kind kind = Kind::normal;
  };
  std::vector<Piece> pieces;  // by id
  bool is_bpe = false;
  bool adds_prefix = true;  // a space before each text
  bool normalises = false;  // changes the text otherwise: a character map, or removed spaces
};

SentencePieceModel parse_sentencepiece_model(std::string_view bytes, const std::string& path);  // fail(Exit::data)

}  // namespace offramp
