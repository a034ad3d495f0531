#include "data/build.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <optional>

#include "data/document_encoder.h"
#include "data/documents.h"
#include "data/indexed.h"
#include "data/progress.h"
#include "data/publish.h"
#include "data/tokenizer.h"
#include "tensor/check.h"

namespace offramp {
namespace fs = std::filesystem;
namespace {

// How many documents validation gets, and which: the k-th of V stands in the middle of the k-th V-th of the input.
class HeldOut {
 public:
  HeldOut(std::int64_t documents, double fraction) : documents_(documents) {
    if (fraction > 0) count_ = std::clamp<std::int64_t>(std::llround(fraction * static_cast<double>(documents)), 1, documents - 1);
  }
  bool operator()(std::int64_t document) const { return before(document + 1) > before(document); }
  std::int64_t count() const { return count_; }

 private:
  std::int64_t before(std::int64_t document) const { return (document * count_ + documents_ / 2) / documents_; }
  std::int64_t documents_, count_ = 0;
};

// Gives a single document a second part, so that there is something to validate on.
bool cut_single(std::vector<Document>& documents, double fraction) {
  if (documents.size() != 1 || fraction <= 0) return false;
  const auto& [path, begin, size] = documents.front();
  if (size < 2)
    fail(Exit::data, "{}: one document of one byte cannot be held out and trained on; add text or set --validation-fraction 0", path);
  const auto at = std::clamp<std::int64_t>(std::llround(static_cast<double>(size) * (1 - fraction)), 1, size - 1);
  const Document rest{path, cut_near(path, size, at), size};
  documents.front().end = rest.begin;
  documents.push_back(rest);
  return true;
}

void write_document(const Document& document, const Tokenizer& tokenizer, IndexedWriter& writer, Progress& progress) {
  TextReader reader(document);
  DocumentEncoder encoder(tokenizer);
  std::vector<std::int32_t> ids;
  for (std::string_view piece; reader.next(piece);) {
    ids.clear();
    encoder.add(piece, ids);
    writer.append(ids);
    progress.advance(std::ssize(piece));
  }
  ids.clear();
  encoder.finish(ids);
  ids.push_back(tokenizer.end_token());
  writer.append(ids);
  writer.end_document();
}

// What an earlier build left under this prefix and this one does not write would be taken for its own.
void remove_earlier(const std::string& path) {
  std::error_code error;
  fs::remove(path, error);
  if (error) fail(Exit::checkpoint, "{}: of an earlier build, cannot be removed: {}", path, error.message());
}

std::string write_tokenizer(const Tokenizer& tokenizer, const std::string& prefix) {
  const std::string path = prefix + "_tokenizer" + tokenizer.file_suffix();
  publish_bytes(path, tokenizer.file_bytes());
  for (const char* suffix : {".model", ".json"})
    if (suffix != tokenizer.file_suffix()) remove_earlier(prefix + "_tokenizer" + suffix);
  const std::string config = tokenizer.config_bytes(), config_path = prefix + "_tokenizer_config.json";
  config.empty() ? remove_earlier(config_path) : publish_bytes(config_path, config);
  return path;
}

void check(const BuildOptions& options) {
  if (!(options.validation_fraction >= 0 && options.validation_fraction < 1))
    fail(Exit::configuration, "--validation-fraction {}: give a number from 0 to below 1", options.validation_fraction);
  if (options.output.empty()) fail(Exit::configuration, "--output is empty; give the prefix of the files to write");
}

}  // namespace

BuildSummary build_data(const BuildOptions& options) {
  const auto started = std::chrono::steady_clock::now();
  check(options);
  const auto tokenizer = load_tokenizer(options.tokenizer);
  Documents found = find_documents(options.inputs);
  BuildSummary summary{.output = options.output,
                       .hidden = found.hidden,
                       .binary = found.binary,
                       .empty = found.empty,
                       .linked = found.linked,
                       .bytes = found.bytes};
  summary.cut = cut_single(found.documents, options.validation_fraction);

  const HeldOut held_out(std::ssize(found.documents), options.validation_fraction);
  const TokenType type = token_type_for(tokenizer->vocab_size());
  IndexedWriter train(options.output + "_train", type);
  std::optional<IndexedWriter> valid;
  if (held_out.count() > 0) valid.emplace(options.output + "_valid", type);
  Progress progress("data build", found.bytes);
  for (std::int64_t d = 0; d < std::ssize(found.documents); ++d) {
    const bool last_of_cut = summary.cut && d == 1;
    const bool validate = valid && (summary.cut ? last_of_cut : held_out(d));
    write_document(found.documents[static_cast<std::size_t>(d)], *tokenizer, validate ? *valid : train, progress);
  }
  train.finish();
  if (valid) valid->finish();
  summary.tokenizer_file = write_tokenizer(*tokenizer, options.output);
  train.publish();
  if (valid)
    valid->publish();
  else  // the index first: without it there is no pair
    for (const char* suffix : {"_valid.idx", "_valid.bin"}) remove_earlier(options.output + suffix);

  summary.train_documents = train.documents(), summary.train_tokens = train.tokens();
  if (valid) summary.valid_documents = valid->documents(), summary.valid_tokens = valid->tokens();
  summary.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  return summary;
}

std::string describe(const BuildSummary& s) {
  return fmt::format(
      "{}: {} training documents, {} tokens; {} validation documents, {} tokens; tokenizer {}; passed over {} hidden, {} binary, {} empty "
      "files and {} linked folders{}; {:.1f} MB in {:.1f} s",
      s.output, s.train_documents, s.train_tokens, s.valid_documents, s.valid_tokens, s.tokenizer_file, s.hidden, s.binary, s.empty,
      s.linked, s.cut ? "; the only document was cut in two, its end is for validation" : "", static_cast<double>(s.bytes) / 1e6,
      s.seconds);
}

}  // namespace offramp
