#include "data/train_tokenizer.h"

#include <sentencepiece_trainer.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <memory>
#include <unordered_map>

#include "data/documents.h"
#include "tensor/check.h"
#include "tensor/random.h"

namespace offramp {
namespace fs = std::filesystem;
namespace {

constexpr std::size_t kLongestLine = 4096;  // bytes; longer ones are cut, since the trainer would pass them over

// The lines of all documents, or a share of them, one at a time.
class LineSample : public sentencepiece::SentenceIterator {
 public:
  LineSample(const Documents& found, std::int64_t budget)
      : documents_(found.documents), share_(static_cast<float>(static_cast<double>(budget) / static_cast<double>(found.bytes))) {
    Next();
  }
  bool done() const override { return done_; }
  const std::string& value() const override { return line_; }
  sentencepiece::util::Status status() const override { return {}; }
  std::int64_t bytes() const { return bytes_; }

  void Next() override {
    do done_ = !read_line();
    while (!done_ && (line_.empty() || !kept()));
    if (!done_) bytes_ += std::ssize(line_);
  }

 private:
  bool kept() { return share_ >= 1 || uniform(Key{0, Use::shuffle, hash("tokenizer")}, number_++) < share_; }

  bool read_line() {
    while (piece_.empty())
      if (!read_piece()) return false;
    const auto line_end = piece_.find('\n');
    std::size_t length = std::min(line_end == piece_.npos ? piece_.size() : line_end, kLongestLine);
    while (length < piece_.size() && length > kLongestLine - 4 && (piece_[length] & 0xC0) == 0x80) --length;  // between characters
    line_.assign(piece_.substr(0, length));
    piece_.remove_prefix(length == line_end ? length + 1 : length);
    return true;
  }

  bool read_piece() {
    while (!reader_ || !reader_->next(piece_)) {
      if (next_document_ == documents_.size()) return false;
      reader_ = std::make_unique<TextReader>(documents_[next_document_++]);
    }
    return true;
  }

  const std::vector<Document>& documents_;
  float share_;
  std::size_t next_document_ = 0;
  std::unique_ptr<TextReader> reader_;
  std::string_view piece_;  // of the reader
  std::string line_;
  std::uint64_t number_ = 0;  // of the line, over all documents
  std::int64_t bytes_ = 0;
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
          {"split_digits", "true"},
          {"max_sentence_length", std::to_string(kLongestLine + 1)},
          {"unk_id", "0"},
          {"bos_id", "1"},
          {"eos_id", "2"},
          {"pad_id", "-1"},
          {"num_threads", "2"},
          {"self_test_sample_size", "0"},
          {"minloglevel", "2"}};
}

void write_file(const std::string& path, const std::string& bytes) {
  const fs::path parent = fs::path(path).parent_path();
  std::error_code error;
  if (!parent.empty()) fs::create_directories(parent, error);
  const std::string temporary = path + ".tmp";
  std::ofstream(temporary, std::ios::binary).write(bytes.data(), std::ssize(bytes));
  if (fs::file_size(temporary, error) != bytes.size() || error)
    fail(Exit::checkpoint, "{}: cannot be written; choose an --output that can", path);
  fs::rename(temporary, path, error);
  if (error) fail(Exit::checkpoint, "{}: cannot be written: {}", path, error.message());
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
  write_file(options.output, model);
  return {options.output, options.vocab_size, std::ssize(found.documents),
          found.bytes,    lines.bytes(),      std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count()};
}

std::string describe(const TrainTokenizerSummary& s) {
  return fmt::format("{}: {} pieces learnt from {:.1f} MB of {:.1f} MB in {} documents; {:.1f} s", s.output, s.vocab_size,
                     static_cast<double>(s.sampled_bytes) / 1e6, static_cast<double>(s.input_bytes) / 1e6, s.documents, s.seconds);
}

}  // namespace offramp
