#include "data/word_cache.h"

#include <algorithm>

namespace offramp {
namespace {

constexpr std::string_view kSpace = "\xE2\x96\x81";  // U+2581, how pieces write a space

bool spans_words(const SentencePieceModel::Piece& piece) {
  if (piece.kind == SentencePieceModel::Kind::user_defined) return true;  // it is matched before any merge
  if (piece.kind != SentencePieceModel::Kind::normal) return false;
  std::string_view rest = piece.text;
  while (rest.starts_with(kSpace)) rest.remove_prefix(kSpace.size());
  return rest.find(kSpace) != rest.npos || rest.find('\n') != rest.npos;
}

}  // namespace

std::string_view next_word(std::string_view text) {
  if (text.starts_with('\n')) return text.substr(0, 1);
  const auto start = std::min(text.find_first_not_of(' '), text.size());
  return text.substr(0, std::min(text.find_first_of(" \n", start), text.size()));
}

WordCache::WordCache(const SentencePieceModel& model)
    : usable_(model.is_bpe && !model.normalises && !model.adds_prefix &&
              std::none_of(model.pieces.begin(), model.pieces.end(), spans_words)) {}

}  // namespace offramp
