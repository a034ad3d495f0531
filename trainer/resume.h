// What a checkpoint remembers of its job, and whether another job may go on from it.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "checkpoint/manifest.h"
#include "comm/mesh.h"
#include "trainer/config.h"

namespace offramp {

// Every key that means something, as --print-config prints its value; of the exit at layer 2 "exits.2.head".
std::map<std::string, std::string> remembered(const Config& config);
// A corpus's two files: their sizes, and a checksum of parts all over them. By position in data.train.
std::map<std::string, std::string> fingerprints(const Config& config);
// Versions of what computes, and the processor's instruction sets.
std::map<std::string, std::string> made_by();
std::map<std::string, std::int64_t> layout_of(const Config& config, const Degrees& degrees);

// The model and the exits of a checkpoint, and how its job computed: sequences, microbatches, precision, threads, documents. The rest are
// defaults. Throws Error(Exit::checkpoint) where it does not say.
Config model_of(const Manifest& manifest);

// Among what is remembered: the tokenizer's end of text, where there is one.
inline const std::string kEndToken = "tokenizer.end_token";

// Throws Error(Exit::configuration) for a key that a resume may not change, Error(Exit::data) for other data.
void check_resume(const Manifest& manifest, const Config& config, const std::map<std::string, std::string>& data);
// Why the resumed run's bits may be others than those of one that never stopped; empty: they are the same.
std::string no_longer_bitwise(const Manifest& manifest, const Config& config, const Degrees& degrees);

}  // namespace offramp
