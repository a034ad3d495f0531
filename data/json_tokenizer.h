// A tokenizer.json of byte-level BPE as a Tokenizer; made by load_tokenizer(). Ids are those of transformers without begin and end
// tokens; tokenizer_json.h says what is read of the file, tokenizer_settings.h what of the files beside it.
#pragma once
#include <memory>
#include <string>

#include "data/tokenizer.h"

namespace offramp {

// bytes: the file's at `path`. fail(Exit::data) when it is none that is supported.
std::unique_ptr<Tokenizer> json_tokenizer(const std::string& path, std::string bytes);

}  // namespace offramp
