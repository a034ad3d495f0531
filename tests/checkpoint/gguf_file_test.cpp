#include "checkpoint/gguf_file.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include "checkpoint/float_type.h"
#include "tests/checkpoint/gguf_bytes.h"
#include "tests/files.h"

namespace offramp::testing {
namespace {

std::string file_error(const TemporaryDirectory& directory, const std::string& bytes) {
  write_bytes(directory / "t.gguf", bytes);
  return checkpoint_error([&] { GgufFile file(directory / "t.gguf"); });
}

TEST(GgufFile, EveryTypeOfKey) {
  TemporaryDirectory directory;
  GgufBytes made;
  made.keys = {gguf_key("u8", 0, raw<std::uint8_t>(200)),
               gguf_key("i8", 1, raw<std::int8_t>(-3)),
               gguf_key("u16", 2, raw<std::uint16_t>(60000)),
               gguf_key("i16", 3, raw<std::int16_t>(-300)),
               gguf_key("u32", 4, raw<std::uint32_t>(4000000000)),
               gguf_key("i32", 5, raw<std::int32_t>(-70000)),
               gguf_key("f32", 6, raw(1e-5f)),
               gguf_key("bool", 7, raw<std::uint8_t>(1)),
               gguf_word("text", "a \xE2\x96\x81"),
               gguf_key("u64", 10, raw<std::uint64_t>(1)),
               gguf_key("i64", 11, raw<std::int64_t>(-5)),
               gguf_key("f64", 12, raw(0.1)),
               gguf_key("words", 9, raw<std::uint32_t>(8) + raw<std::uint64_t>(2) + gguf_text("x") + gguf_text("")),
               gguf_key("numbers", 9, raw<std::uint32_t>(5) + raw<std::uint64_t>(2) + raw<std::int32_t>(7) + raw<std::int32_t>(-8)),
               gguf_key("scores", 9, raw<std::uint32_t>(6) + raw<std::uint64_t>(1) + raw(2.5f)),
               gguf_key("none", 9, raw<std::uint32_t>(8) + raw<std::uint64_t>(0))};
  for (const std::uint32_t version : {2u, 3u}) {
    made.version = version;
    write_bytes(directory / "t.gguf", made.bytes());
    const GgufFile file(directory / "t.gguf");
    const auto& keys = file.metadata();
    const std::pair<const char*, std::int64_t> integers[] = {{"u8", 200},         {"i8", -3},      {"u16", 60000}, {"i16", -300},
                                                             {"u32", 4000000000}, {"i32", -70000}, {"u64", 1},     {"i64", -5}};
    for (const auto& [key, value] : integers) EXPECT_EQ(std::get<std::int64_t>(keys.at(key)), value) << key;
    EXPECT_EQ(std::get<double>(keys.at("f32")), 1e-5);  // what was meant, not the f32 beside it
    EXPECT_EQ(std::get<double>(keys.at("f64")), 0.1);
    EXPECT_TRUE(std::get<bool>(keys.at("bool")));
    EXPECT_EQ(std::get<std::string>(keys.at("text")), "a \xE2\x96\x81");
    EXPECT_EQ(std::get<std::vector<std::string>>(keys.at("words")), (std::vector<std::string>{"x", ""}));
    EXPECT_TRUE(std::get<std::vector<std::string>>(keys.at("none")).empty());
    EXPECT_EQ(numbers_of<std::int32_t>(keys.at("numbers")), (std::vector<std::int32_t>{7, -8}));
    EXPECT_EQ(numbers_of<float>(keys.at("scores")), std::vector<float>{2.5f});
    EXPECT_FALSE(numbers_of<float>(keys.at("numbers")));
    EXPECT_FALSE(numbers_of<float>(keys.at("u8")));
  }
}

// One block of each type, by its formula.
TEST(GgufFile, DequantisesEveryType) {
  TemporaryDirectory directory;
  GgufBytes made;
  const auto add = [&](const char* name, std::uint32_t type, std::uint64_t elements, const std::string& bytes) {
    made.tensors.push_back(gguf_tensor(name, {elements}, type, made.data.size()));
    made.data += bytes;
    made.data.resize((made.data.size() + 31) / 32 * 32, '\0');
  };
  const std::string d = raw(to_f16(0.25f)), m = raw(to_f16(-3.0f));
  std::string eight, four;
  for (int i = 0; i < 32; ++i) eight += static_cast<char>(i * 8 - 128);
  for (int i = 0; i < 16; ++i) four += static_cast<char>(i | (15 - i) << 4);
  add("f32", 0, 2, raw(1.5f) + raw(-2.0f));
  add("f16", 1, 2, raw(to_f16(1.5f)) + raw(to_f16(-2.0f)));
  add("bf16", 30, 2, raw(std::uint16_t{0x3FC0}) + raw(std::uint16_t{0xC000}));
  add("q8_0", 8, 64, d + eight + m + eight);
  add("q4_0", 2, 32, d + four);
  add("q4_1", 3, 32, d + m + four);
  write_bytes(directory / "t.gguf", made.bytes());
  const GgufFile file(directory / "t.gguf");
  const auto read = [&](const char* name, std::int64_t first, std::size_t count) {
    std::vector<float> values(count);
    file.read(*file.find(name), first, values);
    return values;
  };
  for (const char* name : {"f32", "f16", "bf16"}) EXPECT_EQ(read(name, 0, 2), (std::vector<float>{1.5f, -2.0f})) << name;
  for (int i = 0; i < 64; ++i) {
    const float scale = i < 32 ? 0.25f : -3.0f;
    EXPECT_EQ(read("q8_0", i, 1)[0], scale * static_cast<float>(i % 32 * 8 - 128)) << i;
  }
  const auto q8 = read("q8_0", 0, 64);
  EXPECT_EQ(read("q8_0", 30, 5), std::vector<float>(q8.begin() + 30, q8.begin() + 35));  // over a block's end
  for (int i = 0; i < 32; ++i) {
    const float q = static_cast<float>(i < 16 ? i : 31 - i);
    EXPECT_EQ(read("q4_0", i, 1)[0], 0.25f * (q - 8)) << i;
    EXPECT_EQ(read("q4_1", i, 1)[0], 0.25f * q - 3) << i;
  }
  EXPECT_ANY_THROW(read("f32", 1, 2));
}

TEST(GgufFile, LargeTensorsAreReadInParts) {
  TemporaryDirectory directory;
  GgufBytes made;
  constexpr std::uint64_t kElements = 32 * 1000;
  made.tensors = {gguf_tensor("a", {32, 1000}, 8, 0)};
  for (std::uint64_t block = 0; block < 1000; ++block) made.data += raw(to_f16(1.0f)) + std::string(32, static_cast<char>(block % 100));
  write_bytes(directory / "t.gguf", made.bytes());
  const GgufFile file(directory / "t.gguf");
  EXPECT_EQ(file.find("a")->shape, (Shape{1000, 32}));
  std::vector<float> values(kElements - 50);
  file.read(*file.find("a"), 17, values);
  for (std::size_t i = 0; i < values.size(); ++i) ASSERT_EQ(values[i], static_cast<float>((i + 17) / 32 % 100)) << i;
}

struct Damage {
  const char* what;
  std::string bytes;
  const char* says;
};

// Under a limit on memory that any allocation by a made-up count would break.
TEST(GgufFile, RefusesDamagedFilesWithoutTakingMemory) {
  constexpr std::uint64_t kHuge = std::uint64_t{1} << 60;
  const std::string one = gguf_tensor("a", {2}, 0, 0), data(32, '\0');
  const auto with_key = [](const std::string& key) { return GgufBytes{.keys = {key}}.bytes(); };
  const auto with_tensor = [&](const std::string& tensor) { return GgufBytes{.tensors = {tensor}, .data = data}.bytes(); };
  const Damage damages[] = {
      {"empty", "", "ends beyond the file's 0 bytes"},
      {"another format", "GGML" + std::string(100, '\0'), "does not begin with GGUF"},
      {"version 1", GgufBytes{.version = 1}.bytes(), "version is 1"},
      {"the other byte order", GgufBytes{.version = 0x03000000}.bytes(), "version is 50331648"},
      {"tensors", GgufBytes{.more_tensors = kHuge}.bytes(), "200000 and 65536 are allowed"},
      {"keys", GgufBytes{.more_keys = kHuge}.bytes(), "are allowed"},
      {"tensors that are not there", GgufBytes{.data = std::string(8, '\1'), .more_tensors = 100}.bytes(), "has 16843009 dimensions"},
      {"keys that are not there", GgufBytes{.more_keys = 1}.bytes(), "ends beyond the file"},
      {"long key", with_key(raw(kHuge) + std::string(100, 'x')), "1024 are allowed"},
      {"long text", with_key(gguf_text("k") + raw(std::uint32_t{8}) + raw(kHuge)), "are allowed"},
      {"text beyond the file", with_key(gguf_text("k") + raw(std::uint32_t{8}) + raw(std::uint64_t{1000000}) + "abc"),
       "ends beyond the file"},
      {"unknown type", with_key(gguf_key("k", 13, raw(kHuge))), "unknown type 13"},
      {"twice", GgufBytes{.keys = {gguf_u32("k", 1), gguf_u32("k", 1)}}.bytes(), "'k' stands twice"},
      {"long array", with_key(gguf_key("k", 9, raw(std::uint32_t{5}) + raw(kHuge))), "more than the header has room for"},
      {"array whose size overflows", with_key(gguf_key("k", 9, raw(std::uint32_t{10}) + raw(std::uint64_t{1} << 61))), "has room for"},
      {"long array of texts", with_key(gguf_key("k", 9, raw(std::uint32_t{8}) + raw(kHuge))), "has room for"},
      {"array of arrays", with_key(gguf_key("k", 9, raw(std::uint32_t{9}) + raw(std::uint64_t{1}))), "holds the type 9"},
      {"array of nothing known", with_key(gguf_key("k", 9, raw(std::uint32_t{99}) + raw(std::uint64_t{1}))), "holds the type 99"},
      {"number beyond 2^63", with_key(gguf_key("k", 10, raw(~std::uint64_t{0}))), "beyond 2^63"},
      {"alignment 0", with_key(gguf_u32("general.alignment", 0)), "no power of two"},
      {"alignment 24", with_key(gguf_u32("general.alignment", 24)), "no power of two"},
      {"alignment of 4 GB", with_key(gguf_u32("general.alignment", 1u << 31)), "no power of two"},
      {"alignment in words", with_key(gguf_word("general.alignment", "32")), "no power of two"},
      {"no dimensions", with_tensor(gguf_tensor("a", {}, 0, 0)), "has 0 dimensions"},
      {"five dimensions", with_tensor(gguf_tensor("a", {1, 1, 1, 1, 1}, 0, 0)), "has 5 dimensions"},
      {"overflow", with_tensor(gguf_tensor("a", {kHuge, kHuge}, 0, 0)), "overflow"},
      {"negative", with_tensor(gguf_tensor("a", {~std::uint64_t{0}, 2}, 0, 0)), "overflow"},
      {"empty tensor", with_tensor(gguf_tensor("a", {0}, 0, 0)), "are 0 or overflow"},
      {"large tensor", with_tensor(gguf_tensor("a", {kHuge / 8}, 0, 0)), "which has 32"},
      {"beyond the file", with_tensor(gguf_tensor("a", {2}, 0, 64)), "which has 32"},
      {"offset that overflows", with_tensor(gguf_tensor("a", {2}, 0, ~std::uint64_t{31})), "which has 32"},
      {"unaligned", with_tensor(gguf_tensor("a", {2}, 0, 8)), "does not start at a multiple of 32"},
      {"overlap", GgufBytes{.tensors = {one, gguf_tensor("b", {2}, 0, 0)}, .data = data}.bytes(), "'b' overlaps"},
      {"same name", GgufBytes{.tensors = {one, gguf_tensor("a", {2}, 0, 32)}, .data = data + data}.bytes(), "two tensors are called 'a'"},
      {"part of a block", with_tensor(gguf_tensor("a", {16, 2}, 2, 0)), "no multiple of Q4_0's 32"},
      {"k-quant", with_tensor(gguf_tensor("a", {256}, 12, 0)), "has the type Q4_K"},
      {"unknown quant", with_tensor(gguf_tensor("a", {256}, 77, 0)), "has the type number 77"},
      {"cut off", with_tensor(one).substr(0, 66), "which has 2"},
  };
  TemporaryDirectory directory;
  for (const Damage& damage : damages) {
    const std::string text = file_error(directory, damage.bytes);
    EXPECT_NE(text.find(damage.says), std::string::npos) << damage.what << ": " << text;
    EXPECT_NE(text.find("t.gguf"), std::string::npos) << damage.what;
  }
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  EXPECT_LT(usage.ru_maxrss, 400 * 1024) << "KiB at most";
  EXPECT_EQ(file_error(directory, with_tensor(one)), "nothing was thrown");  // what the cases above were made of is sound
}

// Every file that is cut off somewhere, or has one byte changed, is read or refused.
TEST(GgufFile, NoByteBreaksTheReader) {
  TemporaryDirectory directory;
  GgufBytes made;
  made.keys = {gguf_word("general.architecture", "llama"), gguf_u32("general.alignment", 32),
               gguf_key("words", 9, raw<std::uint32_t>(8) + raw<std::uint64_t>(2) + gguf_text("x") + gguf_text("yz"))};
  made.tensors = {gguf_tensor("a", {32, 2}, 8, 0), gguf_tensor("b", {4}, 0, 96)};
  made.data = std::string(128, '\1');
  const std::string sound = made.bytes();
  EXPECT_EQ(file_error(directory, sound), "nothing was thrown");
  for (std::size_t i = 0; i < sound.size(); ++i) {
    file_error(directory, sound.substr(0, i));
    for (const int change : {1, 128, 255}) {
      std::string changed = sound;
      changed[i] = static_cast<char>(changed[i] ^ change);
      file_error(directory, changed);
    }
  }
}

}  // namespace
}  // namespace offramp::testing
