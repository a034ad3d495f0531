#include "data/indexed.h"

#include "tests/data/files.h"

namespace offramp {
namespace {

using IndexedFiles = Files;

// Laid out by hand from the format's description: documents {1, 2, 258} and {7}, 16-bit tokens.
TEST_F(IndexedFiles, WritesMegatronsBytes) {
  write_tokens("golden", {{1, 2, 258}, {7}});
  using namespace std::string_literals;
  EXPECT_EQ(content("golden.bin"), "\x01\0\x02\0\x02\x01\x07\0"s);
  EXPECT_EQ(content("golden.idx"),
            "MMIDIDX\0\0"s                                             // magic
            "\x01\0\0\0\0\0\0\0"s                                      // version
            "\x08"s                                                    // u16
            "\x02\0\0\0\0\0\0\0"s                                      // sequences
            "\x03\0\0\0\0\0\0\0"s                                      // documents + 1
            "\x03\0\0\0\x01\0\0\0"s                                    // lengths
            "\0\0\0\0\0\0\0\0\x06\0\0\0\0\0\0\0"s                      // offsets in bytes
            "\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0"s);  // documents
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(directory_.path()), {}), 2) << "temporary files are left";
}

TEST_F(IndexedFiles, RoundTripsEveryType) {
  const std::vector<std::vector<std::int32_t>> documents = {counting(0, 100), {}, {5}, counting(20, 80)};
  for (auto type : {TokenType::u8, TokenType::i16, TokenType::i32, TokenType::i64, TokenType::u16}) {
    const IndexedTokens stream(write_tokens("t", documents, type));
    EXPECT_EQ(stream.type(), type);
    ASSERT_EQ(stream.tokens(), 181);
    ASSERT_EQ(stream.documents(), 4);
    std::vector<std::int32_t> tokens(181), expected;
    for (const auto& document : documents) expected.insert(expected.end(), document.begin(), document.end());
    stream.read(0, tokens, 100);
    EXPECT_EQ(tokens, expected);
    EXPECT_EQ(stream.document_begin(2), 100);
    EXPECT_EQ(stream.document_begin(4), 181);
    EXPECT_EQ(stream.document_of(99), 0);
    EXPECT_EQ(stream.document_of(100), 2);  // not the empty one before it
    EXPECT_EQ(stream.document_of(180), 3);
  }
}

TEST(TokenTypes, FollowMegatronsRule) {
  EXPECT_EQ(token_type_for(257), TokenType::u16);
  EXPECT_EQ(token_type_for(65500), TokenType::u16);
  EXPECT_EQ(token_type_for(65501), TokenType::i32);
}

TEST_F(IndexedFiles, KeepsTokensAboveTheSignBit) {
  const IndexedTokens stream(write_tokens("t", {{65499, 40000}}));
  std::vector<std::int32_t> tokens(2);
  stream.read(0, tokens, 65500);
  EXPECT_EQ(tokens, (std::vector<std::int32_t>{65499, 40000}));
}

TEST_F(IndexedFiles, NothingIsLeftWithoutPublish) {
  write_tokens("t", {{1, 2, 3}});
  const std::string before = content("t.bin");
  {
    IndexedWriter writer(path("t"), TokenType::u16);
    writer.append(std::vector<std::int32_t>{9, 9});
    writer.end_document();
    writer.finish();
  }
  EXPECT_EQ(content("t.bin"), before);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(directory_.path()), {}), 2);
}

TEST_F(IndexedFiles, RefusesATokenItsTypeCannotHold) {
  expect_refused(Exit::internal, {"70000"}, [&] { write_tokens("t", {{70000}}); });
}

TEST_F(IndexedFiles, NamesTheOffsetOfATokenOutsideTheVocabulary) {
  const IndexedTokens stream(write_tokens("t", {{1, 2, 300}}));
  std::vector<std::int32_t> tokens(3);
  expect_refused(Exit::data, {"t.bin: offset 4: token 300", "vocabulary of 300"}, [&] { stream.read(0, tokens, 300); });
  stream.read(0, tokens, 301);
  const IndexedTokens negative(write_tokens("n", {{-1}}, TokenType::i32));
  expect_refused(Exit::data, {"token -1"}, [&] { negative.read(0, std::span(tokens).first(1), 300); });
}

// One byte or length of a good pair is damaged; the message names the file, the offset and the matter.
struct Damage {
  const char* name;
  std::function<void(std::string& bin, std::string& idx)> apply;
  std::vector<std::string> message;
};

void set64(std::string& file, std::size_t at, std::uint64_t value) { std::memcpy(file.data() + at, &value, 8); }

TEST_F(IndexedFiles, RefusesDamagedFiles) {
  // lengths at 34, offsets at 42, documents at 58, end 82
  const std::vector<Damage> damages = {
      {"bin one byte short", [](auto& bin, auto&) { bin.pop_back(); }, {"t.bin: offset 7", "ends inside sequence 1"}},
      {"bin empty", [](auto& bin, auto&) { bin.clear(); }, {"t.bin: offset 0", "ends inside sequence 0"}},
      {"bin too long", [](auto& bin, auto&) { bin += "ab"; }, {"t.bin: offset 8", "2 bytes more"}},
      {"idx empty", [](auto&, auto& idx) { idx.clear(); }, {"t.idx: offset 0", "header"}},
      {"idx cut in the header", [](auto&, auto& idx) { idx.resize(20); }, {"t.idx: offset 20", "header"}},
      {"idx one byte short", [](auto&, auto& idx) { idx.pop_back(); }, {"t.idx: offset 26", "boundaries"}},
      {"idx too long", [](auto&, auto& idx) { idx += std::string(8, 0); }, {"t.idx: offset 26", "boundaries"}},
      {"magic", [](auto&, auto& idx) { idx[3] = 'x'; }, {"t.idx: offset 0", "not a token index"}},
      {"version", [](auto&, auto& idx) { set64(idx, 9, 2); }, {"t.idx: offset 9", "version 2"}},
      {"type 0", [](auto&, auto& idx) { idx[17] = 0; }, {"t.idx: offset 17", "type 0"}},
      {"type i8", [](auto&, auto& idx) { idx[17] = 2; }, {"t.idx: offset 17", "type 2"}},
      {"type f32", [](auto&, auto& idx) { idx[17] = 7; }, {"t.idx: offset 17", "type 7"}},
      {"another width", [](auto&, auto& idx) { idx[17] = 4; }, {"t.bin: offset 8", "ends inside sequence 0"}},
      {"many sequences", [](auto&, auto& idx) { set64(idx, 18, 1u << 20); }, {"t.idx: offset 18", "1048576 sequences"}},
      {"sequences overflow", [](auto&, auto& idx) { set64(idx, 18, 0x5555555555555556); }, {"t.idx: offset 18", "do not fit"}},
      {"documents overflow", [](auto&, auto& idx) { set64(idx, 26, 0x2000000000000003); }, {"t.idx: offset 26", "boundaries"}},
      {"no boundary", [](auto&, auto& idx) { set64(idx, 26, 0); }, {"t.idx: offset 26", "0 document boundaries"}},
      {"negative length", [](auto&, auto& idx) { idx[41] = '\x80'; }, {"t.idx: offset 38", "length -"}},
      {"length too large", [](auto&, auto& idx) { idx[38] = 9; }, {"t.bin: offset 8", "ends inside sequence 1"}},
      {"length too small", [](auto&, auto& idx) { idx[34] = 2; }, {"t.idx: offset 50", "starts at byte 6"}},
      {"offsets out of order", [](auto&, auto& idx) { set64(idx, 42, 6), set64(idx, 50, 0); }, {"t.idx: offset 42", "starts at byte 6"}},
      {"first document", [](auto&, auto& idx) { set64(idx, 58, 1); }, {"t.idx: offset 58", "sequence 1"}},
      {"document beyond", [](auto&, auto& idx) { set64(idx, 66, 3); }, {"t.idx: offset 66", "sequence 3"}},
      {"document negative", [](auto&, auto& idx) { set64(idx, 66, ~0ull); }, {"t.idx: offset 66", "sequence -1"}},
      {"last boundary", [](auto&, auto& idx) { set64(idx, 74, 1); }, {"t.idx: offset 74", "sequence 1"}},
  };
  write_tokens("good", {{1, 2, 258}, {7}});
  for (const auto& [name, apply, message] : damages) {
    SCOPED_TRACE(name);
    std::string bin = content("good.bin"), idx = content("good.idx");
    apply(bin, idx);
    write("t.bin", bin);
    write("t.idx", idx);
    expect_refused(Exit::data, message, [&] { IndexedTokens stream(path("t")); });
  }
}

// Whoever watches for progress hears of a long check: here of 150,000 lengths and 150,001 boundaries, each 65,536 of them.
TEST_F(IndexedFiles, ChecksWithSignsOfLife) {
  {
    IndexedWriter writer(path("t"), TokenType::u8);
    for (int d = 0; d < 150'000; ++d) {
      writer.append(std::vector<std::int32_t>{1});
      writer.end_document();
    }
    writer.finish();
    writer.publish();
  }
  int signs = 0;
  const IndexedTokens stream(path("t"), [&] { ++signs; });
  EXPECT_EQ(stream.documents(), 150'000);
  EXPECT_EQ(signs, 4);
}

TEST_F(IndexedFiles, RefusesMissingAndEmptyData) {
  expect_refused(Exit::data, {"none.idx", "No such file"}, [&] { IndexedTokens stream(path("none")); });
  write_tokens("half", {{1}});
  std::filesystem::remove(path("half.bin"));
  expect_refused(Exit::data, {"half.bin"}, [&] { IndexedTokens stream(path("half")); });
  write_tokens("empty", {});
  expect_refused(Exit::data, {"empty.bin", "no token"}, [&] { IndexedTokens stream(path("empty")); });
}

}  // namespace
}  // namespace offramp
