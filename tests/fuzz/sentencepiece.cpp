// A SentencePiece model. The library that reads it is not built under the sanitizers: they see what our own reader does, and of the
// library what it allocates and what ends the process.
#include "checkpoint/gguf_tokenizer.h"
#include "data/hugging_face.h"
#include "tests/fuzz/encoder.h"

using namespace offramp;
using namespace offramp::fuzz;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input(data, size);
  const std::string path = scratch().write("tokenizer.model", input.rest());
  refused_with({Exit::data}, [&] { encode_texts(*load_tokenizer(path)); });
  refused_with({Exit::data}, [&] { write_hugging_face_tokenizer(path, scratch().path() + "/export"); });
  refused_with({Exit::checkpoint, Exit::data}, [&] { read_gguf_vocabulary(scratch().path()); });
  return 0;
}
