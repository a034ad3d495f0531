#include "data/build.h"

#include <algorithm>
#include <numeric>
#include <set>

#include "data/documents.h"
#include "data/tokenizer.h"
#include "tests/data/files.h"

namespace offramp {
namespace {

class Build : public Files {
 protected:
  BuildSummary build(const std::vector<std::string>& inputs, double fraction = 0.01, const std::string& output = "out") {
    return build_data({.inputs = inputs, .tokenizer = "bytes", .output = path(output), .validation_fraction = fraction});
  }

  // The documents of a part, as text; each must end with the end token.
  std::vector<std::string> documents(const std::string& name) {
    const IndexedTokens stream(path(name));
    const auto bytes = load_tokenizer("bytes");
    std::vector<std::string> texts;
    for (std::int64_t d = 0; d < stream.documents(); ++d) {
      const auto begin = stream.document_begin(d);
      std::vector<std::int32_t> tokens(static_cast<std::size_t>(stream.document_begin(d + 1) - begin));
      stream.read(begin, tokens, 257);
      EXPECT_EQ(tokens.back(), 256);
      EXPECT_EQ(std::count(tokens.begin(), tokens.end(), 256), 1);
      texts.push_back(bytes->decode(tokens));
    }
    return texts;
  }

  void write_many(int count) {
    for (int i = 0; i < count; ++i) write(fmt::format("in/{:03}.txt", i), fmt::format("document {}\n", i));
  }
};

TEST_F(Build, TakesTextFilesSortedByPath) {
  write("in/b.txt", "second\n");
  write("in/a/z.txt", "first\n");
  write("in/c.md", "third");
  write("in/.hidden", "no");
  write("in/.git/config", "no");
  write("in/empty.txt", "");
  write("in/program", std::string("\x7F"
                                  "ELF\0\0",
                                  6));
  const auto summary = build({path("in")}, 0);
  EXPECT_EQ(documents("out_train"), (std::vector<std::string>{"first\n", "second\n", "third"}));
  EXPECT_EQ(summary.train_documents, 3);
  EXPECT_EQ(summary.train_tokens, 6 + 7 + 5 + 3);
  EXPECT_EQ(summary.hidden, 2);
  EXPECT_EQ(summary.binary, 1);
  EXPECT_EQ(summary.empty, 1);
  EXPECT_FALSE(std::filesystem::exists(path("out_valid.bin")));
  EXPECT_NE(describe(summary).find("3 training documents, 21 tokens"), std::string::npos);
}

TEST_F(Build, KeepsTheOrderOfItsInputsAndTakesANamedHiddenFile) {
  write(".b", "hidden but named");
  write("a", "later");
  EXPECT_EQ(build({path(".b"), path("a")}, 0).train_documents, 2);
  EXPECT_EQ(documents("out_train"), (std::vector<std::string>{"hidden but named", "later"}));
}

TEST_F(Build, HoldsOutWholeDocumentsEvenly) {
  write_many(200);
  const auto summary = build({path("in")}, 0.05);
  EXPECT_EQ(summary.train_documents, 190);
  EXPECT_EQ(summary.valid_documents, 10);
  const auto train = documents("out_train"), valid = documents("out_valid");
  std::set<std::string> all(train.begin(), train.end());
  all.insert(valid.begin(), valid.end());
  EXPECT_EQ(all.size(), 200u);
  for (std::size_t k = 0; k < valid.size(); ++k) {  // one in each twenty
    const int number = std::stoi(valid[k].substr(9));
    EXPECT_EQ(number / 20, static_cast<int>(k));
    EXPECT_NEAR(number % 20, 9.5, 1);  // from its middle
  }
}

TEST_F(Build, GivesEachPartADocument) {
  write_many(2);
  for (double fraction : {0.0001, 0.5, 0.999}) {
    const auto summary = build({path("in")}, fraction);
    EXPECT_EQ(summary.train_documents, 1);
    EXPECT_EQ(summary.valid_documents, 1);
  }
}

TEST_F(Build, CutsASingleDocumentAtALineEnd) {
  std::string text;
  for (int i = 0; i < 1000; ++i) text += fmt::format("line {}\n", i);
  write("one.txt", text);
  const auto summary = build({path("one.txt")}, 0.1);
  EXPECT_TRUE(summary.cut);
  const auto train = documents("out_train"), valid = documents("out_valid");
  ASSERT_EQ(train.size(), 1u);
  ASSERT_EQ(valid.size(), 1u);
  EXPECT_EQ(train[0] + valid[0], text);
  EXPECT_TRUE(train[0].ends_with('\n'));
  EXPECT_NEAR(static_cast<double>(valid[0].size()), static_cast<double>(text.size()) * 0.1, 10);
}

TEST_F(Build, CutsASingleLineBetweenCharacters) {
  std::string text;
  for (int i = 0; i < 100; ++i) text += "漢";
  build({write("one.txt", text)}, 0.5);
  const auto train = documents("out_train"), valid = documents("out_valid");
  EXPECT_EQ(train[0] + valid[0], text);
  EXPECT_EQ(train[0].size() % 3, 0u);
  expect_refused(Exit::data, {"tiny.txt", "one byte"}, [&] { build({write("tiny.txt", "x")}); });
}

TEST_F(Build, WritesTheSameBytesAgain) {
  write_many(30);
  build({path("in")}, 0.1, "x");
  build({path("in")}, 0.1, "y");
  for (const char* name : {"_train.bin", "_train.idx", "_valid.bin", "_valid.idx", "_tokenizer.json"}) {
    EXPECT_FALSE(content(std::string("x") + name).empty()) << name;
    EXPECT_EQ(content(std::string("x") + name), content(std::string("y") + name)) << name;
  }
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(directory_.path()), {}), 1 + 2 * 5) << "temporary files are left";
}

TEST_F(Build, RemovesWhatAnEarlierBuildLeftAndItDoesNotWrite) {
  write_many(4);
  write("out_tokenizer.model", "of an earlier build");
  build({path("in")}, 0.25);
  EXPECT_EQ(documents("out_valid").size(), 1u);
  EXPECT_FALSE(std::filesystem::exists(path("out_tokenizer.model")));
  build({path("in")}, 0);
  EXPECT_EQ(documents("out_train").size(), 4u);
  EXPECT_FALSE(std::filesystem::exists(path("out_valid.bin")));
  EXPECT_FALSE(std::filesystem::exists(path("out_valid.idx")));
}

TEST_F(Build, CountsLinkedFoldersAndReadsLinkedFiles) {
  write("in/a/text", "one");
  std::filesystem::create_directory_symlink("..", path("in/a/up"));
  std::filesystem::create_symlink(path("in/a/text"), path("in/copy"));
  const auto summary = build({path("in")}, 0);
  EXPECT_EQ(documents("out_train"), (std::vector<std::string>{"one", "one"}));
  EXPECT_EQ(summary.linked, 1);
  EXPECT_NE(describe(summary).find("1 linked folders"), std::string::npos);
}

TEST_F(Build, NamesWhatCannotBeLookedAt) {
  write("in/text", "one");
  std::filesystem::create_symlink("circle", path("in/circle"));
  expect_refused(Exit::data, {"in/circle", "symbolic links"}, [&] { build({path("in")}); });
  expect_refused(Exit::data, {"in/circle", "symbolic links"}, [&] { build({path("in/circle")}); });
  expect_refused(Exit::data, {"in/circle"}, [&] { load_tokenizer(path("in/circle")); });
  EXPECT_EQ(tokenizer_beside(path(std::string(300, 'x')) + "_train"), std::nullopt);
}

TEST_F(Build, LeavesTheTokenizerBesideTheData) {
  write_many(3);
  build({path("in")}, 0.4, "new/folder/x");
  ASSERT_EQ(tokenizer_beside(path("new/folder/x_train")), path("new/folder/x_tokenizer.json"));
  EXPECT_EQ(tokenizer_beside(path("new/folder/x_valid")), path("new/folder/x_tokenizer.json"));
  EXPECT_EQ(load_tokenizer(*tokenizer_beside(path("new/folder/x_train")))->vocab_size(), 257);
  EXPECT_EQ(tokenizer_beside(path("other_train")), std::nullopt);
}

TEST_F(Build, StreamsAFileLargerThanItsBuffer) {
  std::string text;
  for (int i = 0; text.size() < 300'000; ++i) text += fmt::format("{} {}", i, i % 1000 == 0 ? "\n" : "ä ");
  text += std::string(200'000, 'x');  // no place to cut
  build({write("large.txt", text)}, 0);
  EXPECT_EQ(documents("out_train"), std::vector<std::string>{text});
}

TEST_F(Build, PiecesEndAtLinesSpacesOrCharacters) {
  std::string lines, blank, words, characters;
  while (blank.size() < 200'000) blank += "title" + std::string(100, '\n');
  while (lines.size() < 200'000) lines += "some line of text\n";
  while (words.size() < 200'000) words += "word  ";
  while (characters.size() < 200'000) characters += "漢字";
  const auto pieces = [&](const std::string& text) {
    write("t", text);
    std::vector<std::string> all;
    std::string_view piece;
    for (TextReader reader({path("t"), 0, std::ssize(text)}); reader.next(piece);) all.emplace_back(piece);
    EXPECT_EQ(std::accumulate(all.begin(), all.end(), std::string()), text);
    EXPECT_GT(all.size(), 3u);
    for (const auto& p : all) EXPECT_LE(p.size(), 65536u);
    return all;
  };
  for (const auto& p : pieces(lines)) EXPECT_TRUE(p.ends_with('\n'));
  for (const auto& p : pieces(blank)) EXPECT_FALSE(p.starts_with('\n'));
  const auto of_words = pieces(words);
  for (std::size_t i = 1; i < of_words.size(); ++i) EXPECT_TRUE(of_words[i].starts_with("  word"));
  for (const auto& p : pieces(characters)) EXPECT_EQ(p.size() % 3, 0u);
}

TEST_F(Build, RefusesInputWithoutText) {
  expect_refused(Exit::data, {"missing", "no such file"}, [&] { build({path("missing")}); });
  write("in/empty", "");
  expect_refused(Exit::data, {"in", "no text", "1 empty"}, [&] { build({path("in")}); });
  expect_refused(Exit::configuration, {"--validation-fraction 1"}, [&] { build({path("in")}, 1); });
  expect_refused(Exit::configuration, {"--validation-fraction -0.1"}, [&] { build({path("in")}, -0.1); });
  expect_refused(Exit::configuration, {"--validation-fraction nan"}, [&] { build({path("in")}, std::nan("")); });
  expect_refused(Exit::checkpoint, {"cannot be opened"}, [&] { build({write("text", "ab")}, 0.5, "text/below"); });
  EXPECT_FALSE(std::filesystem::exists(path("out_train.bin")));
}

}  // namespace
}  // namespace offramp
