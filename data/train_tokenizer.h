// `offramp tokenizer train`: a SentencePiece BPE model from text files. No text is lost: what no piece covers is written in
// byte pieces, nothing is normalised, and no space is put in front of a text. Ids: 0 unknown, 1 begin, 2 end, 3 to 258 the
// bytes. A piece may end with line ends but has nothing after them, so a text may be encoded in parts cut between a line end
// and anything else. Equal inputs give equal files.
//
//   train_tokenizer({.inputs = {"docs"}, .vocab_size = 8192, .output = "runs/data/docs.model"});
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace offramp {

struct TrainTokenizerOptions {
  std::vector<std::string> inputs;  // files and directories, see documents.h
  std::int64_t vocab_size = 0;
  std::string output;
  // Text to learn from at most, about. More input is sampled by lines, each kept or not by its number alone, so memory stays
  // flat. Of input above 16 times that, only places of 64 KiB are read, chosen by their number alone.
  std::int64_t sample_bytes = 3 << 20;
};

struct TrainTokenizerSummary {
  std::string output;
  std::int64_t vocab_size = 0, documents = 0, input_bytes = 0, read_bytes = 0, sampled_bytes = 0;
  double seconds = 0;
};

TrainTokenizerSummary train_tokenizer(const TrainTokenizerOptions& options);  // fail(Exit::data | configuration | checkpoint)
std::string describe(const TrainTokenizerSummary& summary);                   // one line

}  // namespace offramp
