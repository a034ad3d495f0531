// What data/ tells the system: that a file be on disk before it gets its name, and which pages will be read. The two calls
// are replaced by ones that write down what they were asked.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "data/build.h"
#include "data/dataset.h"
#include "data/publish.h"
#include "tests/data/files.h"

namespace {

struct Advice {
  std::uintptr_t from, to;
  int advice;
};
std::vector<Advice> advices;
std::vector<std::string> flushed;  // the files' names at that time
bool flush_fails = false;

}  // namespace

extern "C" int madvise(void* address, size_t bytes, int advice) noexcept {
  const auto from = reinterpret_cast<std::uintptr_t>(address);
  advices.push_back({from, from + bytes, advice});
  return 0;
}

extern "C" int fsync(int file) {
  flushed.push_back(std::filesystem::read_symlink("/proc/self/fd/" + std::to_string(file)).filename().string());
  errno = EIO;
  return flush_fails ? -1 : 0;
}

namespace offramp {
namespace {

class Advised : public Files {
 protected:
  Advised() { advices.clear(), flushed.clear(), flush_fails = false; }
};

TEST_F(Advised, FilesAreOnDiskBeforeTheyGetTheirNames) {
  write("in/a", "one\n");
  write("in/b", "two\n");
  build_data({.inputs = {path("in")}, .tokenizer = "bytes", .output = path("out"), .validation_fraction = 0.5});
  std::sort(flushed.begin(), flushed.end());
  EXPECT_EQ(flushed, (std::vector<std::string>{"out_tokenizer.json.tmp", "out_train.bin.tmp", "out_train.idx.tmp", "out_valid.bin.tmp",
                                               "out_valid.idx.tmp"}));
}

TEST_F(Advised, AFileThatCannotBeFlushedKeepsItsOldContent) {
  publish_bytes(path("x"), "old");
  flush_fails = true;
  expect_refused(Exit::checkpoint, {"x.tmp", "Input/output error"}, [&] { publish_bytes(path("x"), "new"); });
  EXPECT_EQ(content("x"), "old");
  expect_refused(Exit::checkpoint, {"t.bin.tmp"}, [&] { write_tokens("t", {{1}}); });
  EXPECT_FALSE(std::filesystem::exists(path("t.bin")));
}

TEST_F(Advised, TheIndexIsScannedInOrderAndTheRestReadAtRandom) {
  const IndexedTokens stream(write_tokens("t", {{1, 2, 3}}));
  std::vector<int> asked;
  for (const Advice& a : advices) asked.push_back(a.advice);
  EXPECT_EQ(asked, (std::vector<int>{MADV_SEQUENTIAL, MADV_RANDOM, MADV_RANDOM}));
  EXPECT_EQ(advices[1].from, advices[0].from);
  EXPECT_NE(advices[2].from, advices[0].from);
}

// 64 KiB samples of a file of 10 of them: each is asked for where read() then looks, and the mask beside it.
TEST_F(Advised, PrefetchNamesThePagesOfItsSamples) {
  const std::vector<std::int32_t> ones(327'681, 1);
  write_tokens("t", {ones});
  write_tokens("m", {ones}, TokenType::u8);
  const Dataset data({.corpora = {{path("t")}}, .loss_mask = path("m"), .sequence_length = 32'768, .vocab_size = 2, .seed = 3});
  ASSERT_EQ(data.samples_per_epoch(), 10);
  const std::uintptr_t bin = advices[2].from, mask = advices[5].from;
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  advices.clear();
  data.prefetch(4, 3);
  ASSERT_EQ(advices.size(), 6u);
  std::vector<std::uintptr_t> places;
  for (std::size_t i = 0; i < 6; i += 2) {
    const Advice tokens = advices[i], values = advices[i + 1];
    EXPECT_EQ(tokens.advice, MADV_WILLNEED);
    EXPECT_EQ(tokens.from % page, 0u);
    const std::uintptr_t sample = (tokens.from - bin) / 65'536;
    EXPECT_LE(tokens.from, bin + sample * 65'536);
    EXPECT_EQ(tokens.to, bin + (sample + 1) * 65'536 + 2);  // and its last target
    EXPECT_EQ(values.advice, MADV_WILLNEED);
    EXPECT_EQ(values.to, mask + (sample + 1) * 32'768 + 1);
    places.push_back(sample);
  }
  std::sort(places.begin(), places.end());
  EXPECT_EQ(std::adjacent_find(places.begin(), places.end()), places.end());
}

TEST_F(Advised, PrefetchEndsWithTheFile) {
  const MappedFile file(write("x", "0123456789"));
  file.prefetch(8, 100);
  ASSERT_EQ(advices.size(), 1u);
  EXPECT_EQ(advices[0].to - advices[0].from, 10u);
  file.prefetch(10, 1);
  EXPECT_EQ(advices.size(), 1u);
}

}  // namespace
}  // namespace offramp
