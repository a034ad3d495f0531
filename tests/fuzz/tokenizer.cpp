// tokenizer.json and what stands beside it, as `data build` and as exports read them.
#include "checkpoint/gguf_tokenizer.h"
#include "data/hugging_face.h"
#include "tests/fuzz/encoder.h"

using namespace offramp;
using namespace offramp::fuzz;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input(data, size);
  const std::string path = scratch().write("tokenizer.json", input.next());
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json", "generation_config.json"})
    scratch().write_some(name, input.next());
  refused_with({Exit::data}, [&] { encode_texts(*load_tokenizer(path)); });
  refused_with({Exit::data}, [&] { write_hugging_face_tokenizer(path, scratch().path() + "/export"); });
  refused_with({Exit::checkpoint}, [&] { read_gguf_vocabulary(scratch().path()); });
  return 0;
}
