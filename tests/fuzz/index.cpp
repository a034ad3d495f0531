// A token index and, behind it, its tokens.
#include <limits>
#include <vector>

#include "data/dataset.h"
#include "tests/fuzz/target.h"

using namespace offramp;
using namespace offramp::fuzz;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input(data, size);
  scratch().write("docs.idx", input.next());
  scratch().write("docs.bin", input.rest());
  const std::string prefix = scratch().path() + "/docs";
  constexpr std::int64_t kSequence = 4;
  refused_with({Exit::data}, [&] {
    const IndexedTokens stream(prefix);
    for (std::int64_t d = 0; d < std::min<std::int64_t>(100, stream.documents()); ++d)
      promise(stream.document_begin(d) >= 0, "documents begin");
    const Dataset dataset({.corpora = {{prefix, 1}}, .sequence_length = kSequence, .vocab_size = std::numeric_limits<std::int32_t>::max()});
    std::vector<std::int32_t> tokens(kSequence + 1), first_key(kSequence);
    for (std::int64_t g = 0; g < 8; ++g) {
      dataset.document_starts(g, first_key);
      dataset.read(g, tokens, {});
    }
  });
  return 0;
}
