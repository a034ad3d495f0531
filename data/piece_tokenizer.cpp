#include "data/piece_tokenizer.h"

#include <sentencepiece_processor.h>

#include <algorithm>

#include "data/word_cache.h"
#include "tensor/check.h"

namespace offramp {
namespace {

class PieceTokenizer : public Tokenizer {
 public:
  PieceTokenizer(const std::string& path, std::string bytes)
      : path_(path), bytes_(std::move(bytes)), cache_(parse_sentencepiece_model(bytes_, path)) {
    const auto refuse = [&](const std::string& why) {
      fail(Exit::data, "{}: not a SentencePiece model ({}); train one with `offramp tokenizer train`", path, why);
    };
    try {
      if (auto status = processor_.LoadFromSerializedProto(bytes_); !status.ok()) refuse(status.ToString());
    } catch (const Error&) {
      throw;
    } catch (const std::exception& error) {  // of the tries that the library makes of the pieces
      refuse(error.what());
    }
    if (processor_.eos_id() < 0) fail(Exit::data, "{}: has no end token (eos); data needs one to end documents with", path);
    line_end_ = encoded("\n");
  }

  void encode(std::string_view text, std::vector<std::int32_t>& ids) const override {
    if (cache_.usable()) return cache_.encode(text, ids, [this](std::string_view word) { return encoded(word); });
    add(encoded(text), 0, ids);
  }

  // A model with a dummy prefix would put a space before the text. It puts one before a line end too, so that is encoded in
  // front and cut off again. A model that swallows line ends gives nothing to cut, and its space is the line end's own.
  void encode_next(std::string_view text, std::vector<std::int32_t>& ids) const override {
    if (cache_.usable()) return encode(text, ids);
    std::string line(1, '\n');
    const std::vector<int> all = encoded(line.append(text));
    const bool as_expected = all.size() >= line_end_.size() && std::equal(line_end_.begin(), line_end_.end(), all.begin());
    if (as_expected) return add(all, line_end_.size(), ids);
    encode(text, ids);
  }

  std::string decode(std::span<const std::int32_t> ids) const override {
    std::string text;
    const auto status = processor_.Decode(std::vector<int>(ids.begin(), ids.end()), &text);
    if (!status.ok()) fail(Exit::data, "{}: decodes no {} tokens: {}; the model is damaged", path_, ids.size(), status.ToString());
    return text;
  }

  std::int64_t vocab_size() const override { return processor_.GetPieceSize(); }
  std::int32_t end_token() const override { return processor_.eos_id(); }
  std::optional<std::int32_t> begin_token() const override {
    return processor_.bos_id() < 0 ? std::nullopt : std::optional<std::int32_t>(processor_.bos_id());
  }
  std::string file_bytes() const override { return bytes_; }
  std::string file_suffix() const override { return ".model"; }

 private:
  std::vector<int> encoded(std::string_view text) const {
    std::vector<int> ids;
    const auto status = processor_.Encode(text, &ids);
    if (!status.ok()) fail(Exit::data, "{}: encodes no text of {} bytes: {}; the model is damaged", path_, text.size(), status.ToString());
    return ids;
  }
  static void add(const std::vector<int>& more, std::size_t from, std::vector<std::int32_t>& ids) {
    ids.insert(ids.end(), more.begin() + static_cast<std::ptrdiff_t>(from), more.end());
  }

  std::string path_, bytes_;
  sentencepiece::SentencePieceProcessor processor_;
  std::vector<int> line_end_;  // "\n" alone, with whatever the model puts before a text
  mutable WordCache cache_;
};

}  // namespace

std::unique_ptr<Tokenizer> piece_tokenizer(const std::string& path, std::string bytes) {
  return std::make_unique<PieceTokenizer>(path, std::move(bytes));
}

}  // namespace offramp
