// `offramp data build`: text files to token files for training and validation, and the tokenizer beside them.
//
// Each file is a document (documents.h says which files), encoded and followed by the tokenizer's end token. Validation
// documents are whole and spread evenly over the input order: round(fraction · documents) of them, at least one and not all.
// A single document is cut in two at a line end, the last `fraction` of its bytes being a document for validation. Equal
// inputs give equal files. Everything is written under temporary names and renamed at the end; memory stays flat.
//
//   BuildSummary summary = build_data({.inputs = {"docs"}, .tokenizer = "bytes", .output = "runs/data/docs"});
//   fmt::print("{}\n", describe(summary));
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace offramp {

struct BuildOptions {
  std::vector<std::string> inputs;    // files and directories
  std::string tokenizer;              // "bytes", FILE.model, tokenizer.json, or a directory: see load_tokenizer()
  std::string output;                 // PREFIX of PREFIX_train.{bin,idx}, PREFIX_valid.{bin,idx}, PREFIX_tokenizer.{model,json}
  double validation_fraction = 0.01;  // in [0, 1); 0: none, those of an earlier build are removed
};

struct BuildSummary {
  std::string output, tokenizer_file;
  std::int64_t train_documents = 0, train_tokens = 0, valid_documents = 0, valid_tokens = 0;
  std::int64_t hidden = 0, binary = 0, empty = 0, linked = 0, bytes = 0;
  bool cut = false;  // the only document was cut in two
  double seconds = 0;
};

BuildSummary build_data(const BuildOptions& options);  // fail(Exit::data | configuration | checkpoint)
std::string describe(const BuildSummary& summary);     // one line

}  // namespace offramp
