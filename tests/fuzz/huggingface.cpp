// A model's directory: config.json, the index of its shards (none: one file), exits.json, and the tensors.
#include "checkpoint/huggingface_source.h"
#include "tests/fuzz/source.h"
#include "tests/fuzz/target.h"

using namespace offramp;
using namespace offramp::fuzz;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input(data, size);
  scratch().write("config.json", input.next());
  const std::string index = input.next();
  scratch().write_some("model.safetensors.index.json", index);
  scratch().write_some("exits.json", input.next());
  scratch().write_some("exits.safetensors", input.next());
  const std::string tensors = input.rest();
  scratch().write_some("model-1.safetensors", index.empty() ? "" : tensors);
  scratch().write_some("model.safetensors", index.empty() ? tensors : "");
  refused_with({Exit::checkpoint}, [&] {
    HuggingFaceSource source(scratch().path());
    read_ends(source);
  });
  return 0;
}
