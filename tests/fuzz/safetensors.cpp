#include "checkpoint/safetensors.h"

#include "tests/fuzz/target.h"

using namespace offramp;
using namespace offramp::fuzz;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input(data, size);
  refused_with({Exit::checkpoint}, [&] {
    const SafetensorsReader file(scratch().write("model.safetensors", input.rest()));
    for (const SafetensorsReader::Stored& tensor : file.tensors()) refused_with({Exit::checkpoint}, [&] { file.read(tensor.name); });
  });
  return 0;
}
