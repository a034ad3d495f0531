// A checkpoint's manifest, and a file of numbers that it may name. The input has no checksum at its end: it gets the one that fits,
// since whoever makes a hostile manifest would make that too.
#include <vector>

#include "checkpoint/check_tensors.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/checksum.h"
#include "tests/fuzz/manifest.h"
#include "tests/fuzz/source.h"
#include "tests/fuzz/target.h"
#include "trainer/resume.h"

using namespace offramp;
using namespace offramp::fuzz;

namespace {

void read_all(Checkpoint& checkpoint) {
  for (const std::string& kind : checkpoint.kinds()) {
    for (const TensorEntry& entry : checkpoint.entries(kind)) {
      const Matrix m = matrix_of(entry.shape);
      const Box box{m.rows - 1, 1, 0, std::min<std::int64_t>(m.columns, 1000)};
      std::vector<float> values(static_cast<std::size_t>(box.elements()));
      checkpoint.read(kind, entry.name, box, values.data());
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input(data, size);
  const std::string text = input.rest();
  scratch().write(kStoredName, stored_bytes());
  scratch().write("manifest.json", fmt::format("{}{}{}\"}}\n", text, kSumKey, hex(checksum(text))));
  refused_with({Exit::checkpoint}, [&] {
    Checkpoint checkpoint(scratch().path());
    refused_with({Exit::checkpoint}, [&] { checkpoint.verify(); });
    refused_with({Exit::checkpoint}, [&] { read_all(checkpoint); });
    const Config config = model_of(checkpoint.manifest());
    CheckpointTensors weights(checkpoint);
    check_tensors(weights, config.model, config.exits, checkpoint.directory());
    read_ends(weights);
  });
  refused_with({Exit::checkpoint}, [&] {
    Manifest manifest;
    add_part(manifest, "part.json", text + "\"\": 0}");
  });
  return 0;
}
