// A job's YAML: parsed, checked, for other numbers of ranks too, and printed, which must read back equal.
#include "tests/fuzz/target.h"
#include "trainer/yaml.h"

using namespace offramp;
using namespace offramp::fuzz;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input(data, size);
  const std::string path = scratch().write("job.yaml", input.rest());
  refused_with({Exit::configuration, Exit::checkpoint}, [&] {  // checkpoint: model.from names none
    const LocatedConfig located = read_located_config(path, {});
    for (const int ranks : {1, 8, 24}) refused_with({Exit::configuration}, [&] { check_world(located, ranks); });
    const std::string printed = print_config(located.config);
    promise(print_config(read_config(scratch().write("printed.yaml", printed), {})) == printed, "what is printed reads back equal");
  });
  return 0;
}
