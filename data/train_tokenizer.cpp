#include "data/train_tokenizer.h"

#include <sentencepiece_trainer.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <unordered_map>

#include "data/documents.h"
#include "data/progress.h"
#include "data/publish.h"
#include "tensor/check.h"
#include "tensor/random.h"

namespace offramp {
namespace {

constexpr std::size_t kLongestLine = 4096;  // bytes; longer ones are cut, since the trainer would pass them over
constexpr std::int64_t kPlaceBytes = 64 << 10;
constexpr std::int64_t kReadPerByteLearnt = 16;  // so lines come from many places, yet reading takes a second

// What is read: all documents, or places of at most kPlaceBytes, a pseudo-random one of each few neighbours. Characters cut at
// their ends are too few to be learnt: see character_coverage.
std::vector<Document> places_to_read(const Documents& found, std::int64_t bytes) {
  if (found.bytes <= bytes) return found.documents;
  std::int64_t all = 0;
  for (const Document& d : found.documents) all += (d.end + kPlaceBytes - 1) / kPlaceBytes;
  const double every = std::max(1.0, static_cast<double>(found.bytes) / static_cast<double>(bytes));  // one of so many
  std::vector<Document> places;
  const auto next = [&] {
    const auto drawn = static_cast<double>(uniform(Key{0, Use::shuffle, hash("places of a tokenizer")}, places.size()));
    return std::min(all - 1, static_cast<std::int64_t>((static_cast<double>(places.size()) + drawn) * every));
  };
  std::int64_t before = 0, wanted = next();
  for (const Document& d : found.documents) {
    const std::int64_t count = (d.end + kPlaceBytes - 1) / kPlaceBytes;
    for (; wanted < before + count; wanted = std::max(wanted + 1, next())) {
      const std::int64_t begin = (wanted - before) * kPlaceBytes;
      places.push_back({d.path, begin, std::min(d.end, begin + kPlaceBytes)});
    }
    before += count;
  }
  return places;
}

// The lines of all places, or a share of them, one at a time, each with the line ends after it: they are to be learnt too.
class LineSample : public sentencepiece::SentenceIterator {
 public:
  LineSample(const Documents& found, std::int64_t budget) : places_(places_to_read(found, kReadPerByteLearnt * budget)) {
    for (const Document& place : places_) total_ += place.end - place.begin;
    share_ = static_cast<float>(static_cast<double>(budget) / static_cast<double>(total_));
    progress_.emplace("tokenizer train: reading", total_);
    Next();
  }
  bool done() const override { return done_; }
  const std::string& value() const override { return line_; }
  sentencepiece::util::Status status() const override { return {}; }
  std::int64_t bytes() const { return bytes_; }
  std::int64_t read_bytes() const { return read_; }

  void Next() override {
    do done_ = !read_line();
    while (!done_ && (line_.front() == '\n' || !kept()));
    if (done_)
      progress_.reset();  // learning takes its time as well, of which nobody knows how much
    else
      bytes_ += std::ssize(line_);
  }

 private:
  bool kept() { return share_ >= 1 || uniform(Key{0, Use::shuffle, hash("tokenizer")}, number_++) < share_; }

  bool read_line() {
    while (piece_.empty())
      if (!read_piece()) return false;
    const auto line_end = piece_.find_first_not_of('\n', std::min(piece_.find('\n'), piece_.size()));
    std::size_t length = std::min({line_end, piece_.size(), kLongestLine});
    while (length < piece_.size() && length > kLongestLine - 4 && (piece_[length] & 0xC0) == 0x80) --length;  // between characters
    line_.assign(piece_.substr(0, length));
    piece_.remove_prefix(length);
    return true;
  }

  bool read_piece() {
    while (!reader_ || !reader_->next(piece_)) {
      if (next_place_ == places_.size()) return false;
      reader_.emplace(places_[next_place_++]);
    }
    read_ += std::ssize(piece_);
    progress_->advance(std::ssize(piece_));
    return true;
  }

  std::vector<Document> places_;
  std::int64_t total_ = 0, read_ = 0, bytes_ = 0;
  float share_ = 1;
  std::optional<Progress> progress_;
  std::size_t next_place_ = 0;
  std::optional<TextReader> reader_;
  std::string_view piece_;  // of the reader
  std::string line_;
  std::uint64_t number_ = 0;  // of the line, over all places
  bool done_ = false;
};

std::unordered_map<std::string, std::string> settings(std::int64_t vocab_size) {
  return {{"model_type", "bpe"},
          {"vocab_size", std::to_string(vocab_size)},
          {"byte_fallback", "true"},
          {"character_coverage", "0.9995"},
          {"normalization_rule_name", "identity"},
          {"remove_extra_whitespaces", "false"},
          {"add_dummy_prefix", "false"},
          {"allow_whitespace_only_pieces", "true"},
          {"split_by_unicode_script", "false"},  // pieces such as "foo_bar(" and ".\n\n": an eighth fewer tokens
          {"max_sentence_length", std::to_string(kLongestLine + 1)},
          {"unk_id", "0"},
          {"bos_id", "1"},
          {"eos_id", "2"},
          {"pad_id", "-1"},
          {"num_threads", "2"},
          {"self_test_sample_size", "0"},
          {"minloglevel", "2"}};
}

// The library's words without the place in its source.
std::string reason(const sentencepiece::util::Status& status) {
  const std::string text = status.message();
  const auto place = text.rfind("] ");
  return place == text.npos ? text : text.substr(place + 2);
}

}  // namespace

TrainTokenizerSummary train_tokenizer(const TrainTokenizerOptions& options) {
  const auto started = std::chrono::steady_clock::now();
  if (options.vocab_size < 260 || options.vocab_size > 1'000'000)
    fail(Exit::configuration, "--vocab-size {}: give 260 (the bytes and three marks, and one to learn) to 1000000", options.vocab_size);
  const Documents found = find_documents(options.inputs);
  LineSample lines(found, options.sample_bytes);
  if (lines.done()) fail(Exit::data, "{}: no line of text found; name files that hold text", options.inputs.front());
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(settings(options.vocab_size), &lines, &model);
  if (!status.ok())
    fail(Exit::configuration, "--vocab-size {}: sentencepiece cannot learn it from {} bytes of text: {}", options.vocab_size, lines.bytes(),
         reason(status));
  publish_bytes(options.output, model);
  return {options.output,
          options.vocab_size,
          std::ssize(found.documents),
          found.bytes,
          lines.read_bytes(),
          lines.bytes(),
          std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count()};
}

std::string describe(const TrainTokenizerSummary& s) {
  return fmt::format("{}: {} pieces learnt from {:.1f} MB of {:.1f} MB in {} documents; {:.1f} s", s.output, s.vocab_size,
                     static_cast<double>(s.sampled_bytes) / 1e6, static_cast<double>(s.input_bytes) / 1e6, s.documents, s.seconds);
}

}  // namespace offramp
