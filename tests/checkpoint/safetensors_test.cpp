#include "checkpoint/safetensors.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <array>
#include <csignal>
#include <cstring>
#include <functional>
#include <numeric>

#include "tensor/check.h"
#include "tests/files.h"

namespace offramp {
namespace {

namespace fs = std::filesystem;

std::vector<float> counted(std::int64_t elements, float first) {
  std::vector<float> values(static_cast<std::size_t>(elements));
  std::iota(values.begin(), values.end(), first);
  return values;
}

// A file with this header and so many bytes of data.
std::string file_of(const std::string& header, std::size_t data_bytes) {
  const std::uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), 8) + header + std::string(data_bytes, '\0');
}

TEST(SafetensorsWriter, EveryByteIsAsTheFormatSays) {
  TemporaryDirectory directory;
  SafetensorsWriter writer(directory / "a.safetensors", {{"b", {2, 1}}, {"a", {1}}});
  writer.write(std::vector<float>{1.0f, -2.0f});
  writer.write(std::vector<float>{0.5f});
  writer.finish();
  const std::string header = R"({"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},)"
                             R"("a":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}})";
  const std::string padding(7 - (header.size() + 7) % 8, ' ');
  const std::string data("\0\0\x80\x3f\0\0\0\xc0\0\0\0\x3f", 12);
  std::string expected = file_of(header + padding, 0) + data;
  EXPECT_EQ((header.size() + padding.size()) % 8, 0u);
  EXPECT_EQ(read_bytes(directory / "a.safetensors"), expected);
}

TEST(SafetensorsWriter, HeaderIsPaddedToEightBytesWhateverItsLength) {
  TemporaryDirectory directory;
  for (std::size_t n = 1; n <= 9; ++n) {
    const std::string path = directory / std::to_string(n);
    SafetensorsWriter writer(path, {{std::string(n, 'x'), {1}}}, SafetensorsWriter::Metadata::none);
    writer.write(std::vector<float>{1});
    writer.finish();
    const std::string bytes = read_bytes(path);
    EXPECT_EQ(bytes.size() % 8, 4u) << n;  // one float after a multiple of 8
    EXPECT_EQ(bytes[8], '{');
    EXPECT_EQ(SafetensorsReader(path).tensors().front().name, std::string(n, 'x'));
  }
}

TEST(SafetensorsWriter, WhatIsWrittenReadsBack) {
  TemporaryDirectory directory;
  const std::vector<TensorEntry> entries = {{"z", {3, 4}}, {"empty", {0, 7}}, {"one \"quoted\"", {1}}, {"a", {2, 3, 4, 5}}};
  SafetensorsWriter writer(directory / "t", entries);
  for (const auto& entry : entries) writer.write(counted(entry.shape.elements(), 0.25f));
  writer.finish();
  SafetensorsReader reader(directory / "t");
  ASSERT_EQ(reader.tensors().size(), entries.size());
  for (const auto& entry : entries) EXPECT_EQ(reader.read(entry.name), counted(entry.shape.elements(), 0.25f)) << entry.name;
  EXPECT_EQ(reader.tensors().front().name, "z");
  EXPECT_FALSE(reader.contains("b"));
  EXPECT_NE(checkpoint_error([&] { reader.read("b"); }).find("no tensor called 'b'"), std::string::npos);
}

TEST(SafetensorsWriter, WrongCallsAreOurMistakes) {
  TemporaryDirectory directory;
  const std::string path = directory / "t";
  EXPECT_THROW(SafetensorsWriter(path, {{"a", {1}}, {"a", {1}}}), Error);
  SafetensorsWriter writer(path, {{"a", {2}}, {"b", {1}}});
  EXPECT_THROW(writer.finish(), Error);
  EXPECT_THROW(writer.write(counted(3, 0)), Error);
}

TEST(SafetensorsWriter, NothingIsLeftWithoutFinish) {
  TemporaryDirectory directory;
  write_bytes(directory / "t", "earlier");
  {
    SafetensorsWriter writer(directory / "t", {{"a", {2}}});
    writer.write(counted(2, 0));
  }
  EXPECT_EQ(read_bytes(directory / "t"), "earlier");
  EXPECT_EQ(std::distance(fs::directory_iterator(directory.path()), fs::directory_iterator()), 1);
}

TEST(SafetensorsWriter, ErrorsNameTheFileTheReasonAndTheWayOut) {
  TemporaryDirectory directory;
  const std::string missing = directory / "no/such/t";
  const std::string text = checkpoint_error([&] { SafetensorsWriter(missing, {{"a", {1}}}); });
  EXPECT_NE(text.find(missing), std::string::npos) << text;
  EXPECT_NE(text.find("No such file or directory; name a directory that exists"), std::string::npos) << text;
}

// A limit on file sizes stands for the full disk: write(2) fails after a part of the data.
TEST(SafetensorsWriter, AWriteThatFailsHalfwayLeavesTheEarlierFile) {
  TemporaryDirectory directory;
  write_bytes(directory / "t", "earlier");
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{4096, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const std::string text = checkpoint_error([&] {
    SafetensorsWriter writer(directory / "t", {{"a", {4096}}});
    writer.write(counted(4096, 0));
    writer.finish();
  });
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_NE(text.find("cannot write: File too large"), std::string::npos) << text;
  EXPECT_EQ(read_bytes(directory / "t"), "earlier");
  EXPECT_EQ(std::distance(fs::directory_iterator(directory.path()), fs::directory_iterator()), 1);
}

struct Damage {
  const char* what;
  std::string bytes;
  const char* says;
};

TEST(SafetensorsReader, RefusesDamagedFiles) {
  const std::string a = R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]})";
  const std::uint64_t huge = 100'000'001;
  const std::string huge_length(reinterpret_cast<const char*>(&huge), 8);
  const Damage damages[] = {
      {"empty", "", "only 0 bytes"},
      {"header over 100 MB", huge_length + std::string(64, ' '), "100000000 are allowed"},
      {"header beyond the file", std::string("\x40\0\0\0\0\0\0\0{}", 10), "the file has 10"},
      {"no JSON", file_of("{\"a\":", 0), "is no JSON"},
      {"a list", file_of("[]", 0), "no JSON object"},
      {"leading space", file_of(" {" + a + "}", 8), "no JSON object"},
      {"duplicate", file_of("{" + a + "," + a + "}", 8), "'a' stands twice"},
      {"duplicate inside", file_of(R"({"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8), "'dtype' stands twice"},
      {"overlap", file_of("{" + a + R"(,"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})", 12), "'b' starts at byte 4"},
      {"hole", file_of("{" + a + R"(,"b":{"dtype":"F32","shape":[1],"data_offsets":[12,16]}})", 16), "'b' starts at byte 12"},
      {"hole at the start", file_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8), "'a' starts at byte 4"},
      {"cut off", file_of("{" + a + "}", 7), "end at byte 8"},
      {"too long", file_of("{" + a + "}", 9), "end at byte 8"},
      {"size and shape", file_of(R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8), "12 bytes by its shape"},
      {"end before begin", file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", 8), "data_offsets are [8, 0]"},
      {"overflow", file_of(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0), "overflows"},
      {"negative", file_of(R"({"a":{"dtype":"F32","shape":[-2,-1],"data_offsets":[0,8]}})", 8), "lacks"},
      {"fraction", file_of(R"({"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}})", 8), "lacks"},
      {"unknown type", file_of(R"({"a":{"dtype":"F99","shape":[2],"data_offsets":[0,8]}})", 8), "unknown type 'F99'"},
      {"metadata", file_of(R"({"__metadata__":{"format":1},)" + a + "}", 8), "__metadata__"},
      {"not an object", file_of(R"({"a":3})", 0), "lacks"},
  };
  TemporaryDirectory directory;
  const std::string path = directory / "t";
  for (const auto& damage : damages) {
    write_bytes(path, damage.bytes);
    const std::string text = checkpoint_error([&] { SafetensorsReader reader(path); });
    EXPECT_NE(text.find(damage.says), std::string::npos) << damage.what << ": " << text;
    EXPECT_NE(text.find(path), std::string::npos) << damage.what;
  }
  write_bytes(path, file_of("{" + a + "}   ", 8));  // what the cases above were made of is sound
  EXPECT_EQ(SafetensorsReader(path).read("a"), (std::vector<float>{0, 0}));
}

TEST(SafetensorsReader, OtherTypesAreListedButNotRead) {
  TemporaryDirectory directory;
  write_bytes(directory / "t", file_of(R"({"a":{"dtype":"I16","shape":[3],"data_offsets":[0,6]}})", 6));
  SafetensorsReader reader(directory / "t");
  EXPECT_EQ(reader.tensors().front().dtype, "I16");
  EXPECT_NE(checkpoint_error([&] { reader.read("a"); }).find("type I16, not F32"), std::string::npos);
}

TEST(SafetensorsReader, ReadsRangesOfEveryFloatType) {
  TemporaryDirectory directory;
  constexpr std::int64_t kElements = 40000;  // more than one buffer's worth
  const auto values = counted(kElements, -2000.5f);
  for (const FloatType type : {FloatType::f32, FloatType::f16, FloatType::bf16}) {
    SafetensorsWriter writer(directory / "t", {{"before", {3}}, {"a", {kElements}}}, SafetensorsWriter::Metadata::pt, type);
    writer.write(counted(3, 0));
    writer.write(values);
    writer.finish();
    const SafetensorsReader reader(directory / "t");
    ASSERT_EQ(reader.find("a")->end - reader.find("a")->begin, kElements * size_of(type));
    std::vector<float> part(35000);
    reader.read(*reader.find("a"), 1234, part);
    for (std::size_t i = 0; i < part.size(); ++i) {
      std::array<std::byte, 4> stored{};
      float expected = 0;
      narrow(type, {&values[i + 1234], 1}, stored.data());
      widen(type, stored.data(), {&expected, 1});
      ASSERT_EQ(part[i], expected) << name_of(type) << " " << i;
    }
    EXPECT_ANY_THROW(reader.read(*reader.find("a"), kElements, part));
  }
}

TEST(SafetensorsWriter, RefusesWhatHalvesCannotHold) {
  TemporaryDirectory directory;
  SafetensorsWriter writer(directory / "t", {{"large", {2}}}, SafetensorsWriter::Metadata::pt, FloatType::f16);
  const std::string text = checkpoint_error([&] { writer.write(std::vector<float>{1, 70000}); });
  EXPECT_NE(text.find("'large' holds 70000, more than fp16 can"), std::string::npos) << text;
}

TEST(SafetensorsReader, RefusesDeepNesting) {
  TemporaryDirectory directory;
  write_bytes(directory / "t", file_of(R"({"a":)" + std::string(1'000'000, '['), 0));
  EXPECT_NE(checkpoint_error([&] { SafetensorsReader reader(directory / "t"); }).find("nested too deeply"), std::string::npos);
}

TEST(Safetensors, ReferenceImplementationMakesTheSameBytes) {
  OFFRAMP_NEEDS_PYTHON();
  TemporaryDirectory directory;
  SafetensorsWriter writer(directory / "t", {{"a.weight", {2, 3}}, {"b", {5}}, {"c", {1, 1, 4}}});  // its order is by name
  for (const auto& entry : std::vector(writer.entries())) writer.write(counted(entry.shape.elements(), 1.5f));
  writer.finish();
  const std::string program = R"(
import sys
from safetensors.numpy import load_file, save_file
save_file(load_file(sys.argv[1]), sys.argv[1] + ".theirs", metadata={"format": "pt"})
)";
  run_python(directory, program, directory / "t");
  EXPECT_EQ(read_bytes(directory / "t"), read_bytes(directory / "t.theirs"));
}

}  // namespace
}  // namespace offramp
