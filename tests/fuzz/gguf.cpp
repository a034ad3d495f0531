// The container, then each of the things that are made of it by itself: the model, the tokenizer, the tensors.
#include <array>

#include "checkpoint/gguf_metadata.h"
#include "checkpoint/gguf_source.h"
#include "data/gguf_tokenizer.h"
#include "tests/fuzz/encoder.h"
#include "tests/fuzz/source.h"
#include "tests/fuzz/target.h"

using namespace offramp;
using namespace offramp::fuzz;

namespace {

void read_tokenizer(const GgufFile& file) {
  const GgufVocabulary vocabulary = gguf_vocabulary(file);
  if (vocabulary.tokens.empty()) return;
  const std::string directory = scratch().path() + "/tokenizer";
  std::filesystem::remove_all(directory);
  write_tokenizer_files(tokenizer_files(vocabulary, file.path()), directory);
  refused_with({Exit::data}, [&] { encode_texts(*load_tokenizer(directory)); });
}

void read_ends(const GgufFile& file) {
  std::array<float, 100> values;
  for (const GgufFile::Stored& tensor : file.tensors()) {
    const std::int64_t elements = tensor.shape.elements(), count = std::min<std::int64_t>(std::ssize(values), elements);
    file.read(tensor, elements - count, std::span(values).first(static_cast<std::size_t>(count)));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input(data, size);
  const std::string path = scratch().write("model.gguf", input.rest());
  refused_with({Exit::checkpoint}, [&] {
    const GgufFile file(path);
    read_ends(file);
    refused_with({Exit::checkpoint}, [&] { read_tokenizer(file); });
    GgufSource source(path);
    fuzz::read_ends(source);
  });
  return 0;
}
