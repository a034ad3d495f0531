#include "data/tokenizer.h"

#include <algorithm>
#include <sstream>

#include "data/documents.h"
#include "data/hugging_face.h"
#include "data/sentencepiece_model.h"
#include "data/train_tokenizer.h"
#include "data/word_cache.h"
#include "tests/data/files.h"
#include "tests/files.h"

namespace offramp {
namespace {

using Ids = std::vector<std::int32_t>;
using Kind = SentencePieceModel::Kind;

const std::vector<std::string> kTexts = {
    "",
    " ",
    "\n",
    "plain words",
    "  leading and trailing  ",
    "a\n\n\n  b\tc\r\n",
    "int main(int argc, char** argv) {\n\treturn argc  > 1;\n}\n",
    "Ελληνικά, русский, 漢字かな交じり文, 한국어, العربية",
    "🎉👩‍👩‍👧 flags 🇪🇺 and e\u0301",
    "x = 3.14159e-10; y = 0xDEADBEEF",
    "==================================================================================================================================",
    std::string("nul\0inside", 10)};

Ids encode(const Tokenizer& tokenizer, const std::string& text) {
  Ids ids;
  tokenizer.encode(text, ids);
  return ids;
}

std::string learnable_text() {
  std::string text;
  for (int i = 0; i < 400; ++i)
    text += fmt::format(
        "The {}th line tells of walking, talking, of {} walkers and    {} talkers.\n  if (walk[{}]) return talk;\n\nпрогулка {} 漢字.\n\n",
        i, i * 7, i * i, i, i);
  return text;
}

class Trained : public Files {
 protected:
  Trained() {
    write("text.txt", learnable_text());
    train_tokenizer({.inputs = {path("text.txt")}, .vocab_size = 380, .output = path("t.model")});
    tokenizer_ = load_tokenizer(path("t.model"));
  }
  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST(ByteTokenizer, IsTheBytes) {
  const auto bytes = load_tokenizer("bytes");
  EXPECT_EQ(bytes->vocab_size(), 257);
  EXPECT_EQ(bytes->end_token(), 256);
  EXPECT_EQ(encode(*bytes, "aß"), (Ids{97, 0xC3, 0x9F}));
  for (const auto& text : kTexts) EXPECT_EQ(bytes->decode(encode(*bytes, text)), text);
  const std::string malformed = "\xFF\xC3";
  EXPECT_EQ(bytes->decode(encode(*bytes, malformed)), malformed);
}

TEST_F(Files, ByteTokenizerIsReadBackFromItsFile) {
  const auto bytes = load_tokenizer("bytes");
  const auto again = load_tokenizer(write("x_tokenizer.json", bytes->file_bytes()));
  EXPECT_EQ(again->vocab_size(), 257);
  EXPECT_EQ(again->file_suffix(), ".json");
}

TEST_F(Trained, RoundTripsAnyText) {
  for (const auto& text : kTexts) EXPECT_EQ(tokenizer_->decode(encode(*tokenizer_, text)), text);
}

TEST_F(Trained, HasTheMarksAndThePromisedSize) {
  EXPECT_EQ(tokenizer_->vocab_size(), 380);
  EXPECT_EQ(tokenizer_->begin_token(), 1);
  EXPECT_EQ(tokenizer_->end_token(), 2);
  const auto model = parse_sentencepiece_model(tokenizer_->file_bytes(), "t.model");
  ASSERT_EQ(std::ssize(model.pieces), 380);
  EXPECT_TRUE(model.is_bpe);
  EXPECT_FALSE(model.adds_prefix);
  EXPECT_FALSE(model.normalises);
  EXPECT_EQ(model.pieces[0].kind, Kind::unknown);
  EXPECT_EQ(model.pieces[2].text, "</s>");
  EXPECT_EQ(model.pieces[3].text, "<0x00>");
  EXPECT_EQ(model.pieces[258].kind, Kind::byte);
  EXPECT_LT(encode(*tokenizer_, "walking, talking").size(), 8u) << "nothing was learnt";
}

TEST_F(Trained, GivesNeitherMarksNorUnknowns) {
  for (const auto& text : kTexts)
    for (auto id : encode(*tokenizer_, text + " <unk><s></s>")) EXPECT_GE(id, 3);
}

// Byte pair encoding in the plainest way: join the best neighbours, leftmost of equals, until none make a piece.
Ids reference_ids(const SentencePieceModel& model, const std::string& text) {
  const auto id_of = [&](const std::string& piece) {
    const auto at =
        std::find_if(model.pieces.begin(), model.pieces.end(), [&](const auto& p) { return p.kind == Kind::normal && p.text == piece; });
    return at == model.pieces.end() ? -1 : static_cast<std::int32_t>(at - model.pieces.begin());
  };
  std::vector<std::string> parts;
  for (char c : text) {
    if ((c & 0xC0) == 0x80)
      parts.back() += c;
    else
      parts.push_back(c == ' ' ? "\xE2\x96\x81" : std::string(1, c));
  }
  while (true) {
    std::size_t best = 0;
    std::int32_t best_id = -1;
    for (std::size_t i = 0; i + 1 < parts.size(); ++i)
      if (const auto id = id_of(parts[i] + parts[i + 1]);
          id >= 0 &&
          (best_id < 0 || model.pieces[static_cast<std::size_t>(id)].score > model.pieces[static_cast<std::size_t>(best_id)].score))
        best = i, best_id = id;
    if (best_id < 0) break;
    parts[best] += parts[best + 1];
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
  Ids ids;
  for (const auto& part : parts) {
    if (const auto id = id_of(part); id >= 0)
      ids.push_back(id);
    else
      for (char c : part) ids.push_back(3 + static_cast<unsigned char>(c));
  }
  return ids;
}

TEST_F(Trained, GivesTheIdsOfPlainBytePairEncoding) {
  const auto model = parse_sentencepiece_model(tokenizer_->file_bytes(), "t.model");
  for (const auto& text : kTexts) EXPECT_EQ(encode(*tokenizer_, text), reference_ids(model, text)) << text;
  const std::string text = learnable_text().substr(0, 600);
  EXPECT_EQ(encode(*tokenizer_, text), reference_ids(model, text));
}

TEST_F(Trained, GivesTheSameIdsInPartsCutAtLineEnds) {
  const std::string text = learnable_text();
  std::size_t cuts = 0;
  for (std::size_t cut = 5000; cut < 5200; ++cut) {
    if (text[cut - 1] != '\n' || text[cut] == '\n') continue;
    Ids parts = encode(*tokenizer_, text.substr(0, cut));
    tokenizer_->encode_next(text.substr(cut), parts);
    EXPECT_EQ(parts, encode(*tokenizer_, text));
    ++cuts;
  }
  EXPECT_GE(cuts, 3u);
}

// Data is built from pieces of a file: the ids are those of the whole text, blank lines at the seams or not.
TEST_F(Trained, GivesTheSameIdsInThePiecesOfAReader) {
  const std::string part = learnable_text();
  for (std::size_t shift = 0; shift < 4; ++shift) {
    const std::string text = std::string(shift, 'x') + "\n\n\n" + part + part + part;
    ASSERT_GT(text.size(), 100'000u);
    write("parts.txt", text);
    TextReader reader({path("parts.txt"), 0, std::ssize(text)});
    Ids ids;
    for (std::string_view piece; reader.next(piece);) tokenizer_->encode_next(piece, ids);
    EXPECT_EQ(ids, encode(*tokenizer_, text));
  }
}

TEST_F(Trained, LearnsPiecesOfLettersAndMarks) {
  const auto model = parse_sentencepiece_model(tokenizer_->file_bytes(), "t.model");
  EXPECT_TRUE(std::any_of(model.pieces.begin(), model.pieces.end(), [](const auto& p) { return p.text.ends_with("walk["); }));
}

TEST_F(Trained, LearnsLineEndsWithWhatComesBeforeThem) {
  const Ids ids = encode(*tokenizer_, "return talk;\n\n");
  const std::string last = tokenizer_->decode(std::span(ids).last(1));
  EXPECT_TRUE(last.ends_with("\n\n") && last.size() > 2) << last;
  EXPECT_EQ(encode(*tokenizer_, "\n").size(), 1u);
  EXPECT_GT(encode(*tokenizer_, "\n")[0], 258) << "a byte";
}

// The same model told to put a space before each text: parts of one document still get a single one.
TEST_F(Trained, APrefixModelPutsOneSpaceBeforeADocument) {
  std::string bytes = content("t.model");
  const auto prefix = bytes.find(std::string("\x18\0", 2), bytes.find("identity"));
  ASSERT_NE(prefix, bytes.npos);
  bytes[prefix + 1] = 1;
  const auto model = parse_sentencepiece_model(bytes, "p.model");
  EXPECT_TRUE(model.adds_prefix);
  const auto tokenizer = load_tokenizer(write("p.model", bytes));
  EXPECT_EQ(encode(*tokenizer, "walking\ntalk"), reference_ids(model, " walking\ntalk"));
  Ids parts = encode(*tokenizer, "walking\n");
  tokenizer->encode_next("talk", parts);
  EXPECT_EQ(parts, encode(*tokenizer, "walking\ntalk"));
}

TEST_F(Trained, TrainsTheSameModelAgain) {
  train_tokenizer({.inputs = {path("text.txt")}, .vocab_size = 380, .output = path("again.model")});
  EXPECT_EQ(content("again.model"), content("t.model"));
}

TEST_F(Trained, LearnsFromASampleOfBoundedSize) {
  const auto summary = train_tokenizer({.inputs = {path("text.txt")}, .vocab_size = 340, .output = path("s.model"), .sample_bytes = 20000});
  EXPECT_NEAR(static_cast<double>(summary.sampled_bytes), 20000, 3000);  // 1,200 lines, a third of them kept
  EXPECT_NE(content("s.model"), content("t.model"));
}

// 40 places of 64 KiB, of which 5 hold the 16 x 20,000 bytes to read. The characters broken at their ends are not learnt.
TEST_F(Trained, ReadsOnlyPlacesOfALargeInput) {
  std::string text;
  while (text.size() < 40 * 65536) text += "漢字 прогулка " + learnable_text();
  write("large.txt", text);
  const auto train = [&](const char* output) {
    return train_tokenizer({.inputs = {path("large.txt")}, .vocab_size = 340, .output = path(output), .sample_bytes = 20000});
  };
  const auto summary = train("s.model");
  EXPECT_LE(summary.read_bytes, 7 * 65536);
  EXPECT_GE(summary.read_bytes, 3 * 65536);
  EXPECT_NEAR(static_cast<double>(summary.sampled_bytes), 20000, 5000);
  EXPECT_EQ(content("s.model").find("\xEF\xBF\xBD"), std::string::npos);
  train("again.model");
  EXPECT_EQ(content("again.model"), content("s.model"));
}

TEST_F(Trained, ReadsAtLeastOnePlace) {
  write("large.txt", learnable_text() + learnable_text());
  const auto summary = train_tokenizer({.inputs = {path("large.txt")}, .vocab_size = 320, .output = path("s.model"), .sample_bytes = 1000});
  EXPECT_GT(summary.sampled_bytes, 0);
}

TEST_F(Trained, RefusesWhatCannotBeLearntOrRead) {
  const auto train = [&](std::int64_t vocab_size, const std::string& input) {
    return [=, this] { train_tokenizer({.inputs = {input}, .vocab_size = vocab_size, .output = path("x.model")}); };
  };
  expect_refused(Exit::configuration, {"--vocab-size 100"}, train(100, path("text.txt")));
  expect_refused(Exit::configuration, {"--vocab-size 260"}, train(260, path("text.txt")));        // its characters do not fit
  expect_refused(Exit::configuration, {"--vocab-size 100000"}, train(100000, path("text.txt")));  // there are not as many pieces
  expect_refused(Exit::data, {"lines.txt", "no line"}, train(300, write("lines.txt", "\n\n\n")));
  expect_refused(Exit::data, {"missing"}, train(300, path("missing")));
  EXPECT_FALSE(std::filesystem::exists(path("x.model")));
  expect_refused(Exit::data, {"text.txt", "SentencePiece"}, [&] { load_tokenizer(path("text.txt")); });
  expect_refused(Exit::data, {"nothing.model"}, [&] { load_tokenizer(path("nothing.model")); });
  expect_refused(Exit::data, {"bytes"}, [&] { load_tokenizer(directory_.path()); });
  const std::string cut = content("t.model").substr(0, 1000);
  expect_refused(Exit::data, {"cut.model"}, [&] { load_tokenizer(write("cut.model", cut)); });
}

TEST(Words, EndBeforeSpacesAndAfterLineEnds) {
  std::string_view text = "one  two\n\n   \nthree ";
  std::vector<std::string> words;
  for (; !text.empty(); text.remove_prefix(words.back().size())) words.emplace_back(next_word(text));
  EXPECT_EQ(words, (std::vector<std::string>{"one", "  two\n\n", "   \n", "three", " "}));
}

TEST(Words, AreNotCachedWhereAPieceSpansThem) {
  SentencePieceModel model{.pieces = {{"\xE2\x96\x81", 0, Kind::normal}, {"\xE2\x96\x81\xE2\x96\x81in.\n\n", 0, Kind::normal}},
                           .is_bpe = true,
                           .adds_prefix = false};
  EXPECT_TRUE(WordCache(model).usable());
  for (const char* text : {"in\xE2\x96\x81the", "a\nb", "\n\xE2\x96\x81", "\xE2\x96\x81\n\xE2\x96\x81"}) {
    auto spanning = model;
    spanning.pieces.push_back({text, 0, Kind::normal});
    EXPECT_FALSE(WordCache(spanning).usable()) << text;
  }
  auto prefixed = model;
  prefixed.adds_prefix = true;
  EXPECT_FALSE(WordCache(prefixed).usable());
}

// tokenizer.json holds the vocabulary by id and a merge for each way to cut a piece in two; transformers reads it in the
// tests of the export.
TEST_F(Trained, WritesAHuggingFaceDirectory) {
  write_hugging_face_tokenizer(path("t.model"), directory_ / "hf");
  EXPECT_EQ(content("hf/tokenizer.model"), content("t.model"));
  const std::string json = content("hf/tokenizer.json");
  EXPECT_NE(json.find("\"</s>\":2,"), std::string::npos);
  EXPECT_NE(json.find("\"<0xFF>\":258,"), std::string::npos);
  EXPECT_NE(json.find("[\"\xE2\x96\x81\",\"\xE2\x96\x81\"]"), std::string::npos);
  EXPECT_NE(content("hf/tokenizer_config.json").find("\"eos_token\":\"</s>\""), std::string::npos);
  EXPECT_NE(content("hf/special_tokens_map.json").find("\"bos_token\":\"<s>\""), std::string::npos);
  write_hugging_face_tokenizer("bytes", directory_ / "hfb");
  EXPECT_EQ(content("hfb/tokenizer.json"), byte_tokenizer_json());
}

// The real reader: AutoTokenizer gives our ids for the same lines, and the lines back.
TEST_F(Trained, TransformersGivesTheSameIds) {
  OFFRAMP_NEEDS_PYTHON();
  const TemporaryDirectory directory;
  const std::string lines = learnable_text() + "漢字 🎉 \"quoted\\\" ==========\n\t tab  and   spaces\n";
  const std::string program =
      "import sys\nfrom transformers import AutoTokenizer\nd = sys.argv[1]\nt = AutoTokenizer.from_pretrained(d)\n"
      "text = open(d + '/lines', encoding='utf8', newline='\\n').read()\n"
      "for line in text.splitlines(keepends=True) + [text]:\n"
      "  ids = t(line)['input_ids']\n  assert t.decode(ids) == line, line\n  print(*ids)\n";
  for (const std::string& name : {path("t.model"), std::string("bytes")}) {
    write_hugging_face_tokenizer(name, directory.path());
    write_bytes(directory / "lines", lines);
    const auto tokenizer = load_tokenizer(name);
    std::string expected;
    std::istringstream stream(lines);
    for (std::string line; std::getline(stream, line);) expected += fmt::format("{}\n", fmt::join(encode(*tokenizer, line + "\n"), " "));
    expected += fmt::format("{}\n", fmt::join(encode(*tokenizer, lines), " "));  // blank lines among them
    EXPECT_EQ(run_python(directory, program, directory.path()), expected) << name;
  }
}

TEST(SentencePieceModels, AreRefusedWhenDamaged) {
  for (const std::string bytes : {"\x0A\xFF", "\x0A", "\x0F", "\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF"})
    expect_refused(Exit::data, {"m.model"}, [&] { parse_sentencepiece_model(bytes, "m.model"); });
}

}  // namespace
}  // namespace offramp
