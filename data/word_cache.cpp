#include "data/word_cache.h"

#include <algorithm>

namespace offramp {
namespace {

bool spans_words(const SentencePieceModel::Piece& piece) {
  if (piece.kind == SentencePieceModel::Kind::user_defined) return true;  // it is matched before any merge
  if (piece.kind != SentencePieceModel::Kind::normal) return false;
  std::string_view rest = piece.text;
  while (rest.ends_with('\n')) rest.remove_suffix(1);
  while (rest.starts_with(kPieceSpace)) rest.remove_prefix(kPieceSpace.size());
  return rest.find(kPieceSpace) != rest.npos || rest.find('\n') != rest.npos;
}

}  // namespace

std::string_view next_word(std::string_view text) {
  const auto start = text.find_first_not_of(' '), space_or_line_end = text.find_first_of(" \n", start);
  return text.substr(0, text.find_first_not_of('\n', space_or_line_end));
}

WordCache::WordCache(const SentencePieceModel& model)
    : usable_(model.is_bpe && !model.normalises && !model.adds_prefix &&
              std::none_of(model.pieces.begin(), model.pieces.end(), spans_words)) {}

}  // namespace offramp
