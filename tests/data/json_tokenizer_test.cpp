#include "data/json_tokenizer.h"

#include <random>

#include "data/build.h"
#include "data/byte_pairs.h"
#include "data/document_encoder.h"
#include "data/hugging_face.h"
#include "data/tokenizer.h"
#include "tests/data/files.h"
#include "tests/data/json_files.h"

namespace offramp {
namespace {

using Ids = std::vector<std::int32_t>;

Ids encode(const Tokenizer& tokenizer, const std::string& text) {
  Ids ids;
  tokenizer.encode(text, ids);
  return ids;
}

std::unique_ptr<Tokenizer> made(const SmallJson& json) { return json_tokenizer("small.json", text_of(json)); }

TEST(JsonTokenizer, MergesBytesByRank) {
  const auto t = made({});
  EXPECT_EQ(t->vocab_size(), 267);
  EXPECT_EQ(t->end_token(), 266);
  EXPECT_EQ(t->begin_token(), std::nullopt);
  EXPECT_EQ(encode(*t, "the theme"), (Ids{'t', 256, 258, 'm', 'e'}));
  EXPECT_EQ(encode(*t, "aaaaaaa 111"), (Ids{265, 264, 'a', ' ', 263, '1'}));  // not " 1": that is no merge
  EXPECT_EQ(encode(*t, "x   x"), (Ids{'x', 262, ' ', 'x'}));
  EXPECT_EQ(encode(*t, "a<|endoftext|>\n<|endoftext"), (Ids{'a', 266, '\n', '<', '|', 'e', 'n', 'd', 'o', 'f', 't', 'e', 'x', 't'}));
}

TEST(JsonTokenizer, KeepsEveryByte) {
  const auto t = made({});
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all += static_cast<char>(byte);
  for (const std::string& text :
       {all, std::string("caf\xC3\xA9 \xF0\x9F\x8E\x89\xF0\x9F"), std::string("\xED\xA0\x80\xC0\x80"), std::string()})
    EXPECT_EQ(t->decode(encode(*t, text)), text);
  EXPECT_EQ(t->decode(Ids{266, 9999, -1}), "<|endoftext|>");
}

TEST(JsonTokenizer, WordsThatAreTokensAreNotMergedWhereTheModelSaysSo) {
  SmallJson json{.added = R"({"id":267,"content":"<|endoftext|>"})", .vocabulary = R"(,"Ġthem":266)"};
  EXPECT_EQ(encode(*made(json), " them"), (Ids{258, 'm'}));
  json.model += R"(,"ignore_merges":true)";
  EXPECT_EQ(encode(*made(json), " them then"), (Ids{266, 258, 'n'}));
}

TEST(JsonTokenizer, AddedTokensAreTheLongestAndTakeSpaces) {
  SmallJson json;
  json.added += R"(,{"id":267,"content":"==","special":false,"normalized":true},{"id":268,"content":"=====","special":false},)"
                R"({"id":269,"content":"<m>","lstrip":true,"rstrip":true,"special":true,"normalized":false})";
  const auto t = made(json);
  EXPECT_EQ(encode(*t, "======="), (Ids{268, 267}));
  EXPECT_EQ(encode(*t, "a \u3000<m> \n b"), (Ids{'a', 269, 'b'}));
}

// What GPT-2's rules, SmolLM2's, Llama 3's and others make of a document does not depend on where its parts are cut.
std::vector<SmallJson> rule_sets() {
  std::vector<SmallJson> sets(8);
  sets[1].pre_tokenizer =
      R"({"type":"Sequence","pretokenizers":[{"type":"Digits","individual_digits":true},)" + sets[0].pre_tokenizer + "]}";
  sets[2].pre_tokenizer = sequence(split(kEscapedLlama3));
  sets[3].pre_tokenizer = sequence(split(kEscapedLlama3, "Removed", "true"));
  sets[3].normalizer = R"({"type":"NFC"})";
  sets[4].pre_tokenizer = R"({"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true})";
  sets[5].pre_tokenizer = sequence(split("[,.]", "Removed") + "," + split("\\\\s+$|the") + R"(,{"type":"Digits"})");
  sets[6].pre_tokenizer = sets[4].pre_tokenizer;
  sets[6].normalizer = R"({"type":"Sequence","normalizers":[{"type":"NFC"}]})";
  sets[7].pre_tokenizer = sequence(split("(?:\\\\p{L}\\\\s)+\\\\d"));  // looks far
  for (SmallJson& json : sets)
    json.added +=
        R"(,{"id":267,"content":"<m>","lstrip":true,"rstrip":true,"special":true,"normalized":false},)"
        R"({"id":268,"content":"e\u0301!","special":false,"normalized":true},{"id":264,"content":"aa","special":false,"normalized":false})";
  return sets;
}

std::string random_text(std::mt19937& draw) {
  static const std::vector<std::string> kParts = {"the",      " the",     " ",
                                                  "  ",       "\n",       "\n\n",
                                                  " \n ",     "\r\n",     "\t",
                                                  "ing",      "'ll",      "'",
                                                  "1",        "11",       "1,234.",
                                                  "a",        "aa",       "aaa",
                                                  "<m>",      " <m> ",    "<|endoftext|>",
                                                  "<|endof",  "é",        "e\u0301",
                                                  "e\u0301!", "\u0301",   "s\u0323\u0307",
                                                  "漢字",     "か\u3099", "\u1112\u1161\u11ab",
                                                  "\u2126",   "\u3000",   "\u00a0",
                                                  "🎉",        "==",       "\xFF",
                                                  "\xF0\x9F", "\xE6"};
  std::string text;
  for (auto parts = 1 + draw() % 40; parts > 0; --parts) text += kParts[draw() % kParts.size()];
  return text;
}

TEST(JsonTokenizer, IdsDoNotDependOnWhereADocumentIsCut) {
  std::mt19937 draw(7);
  const auto sets = rule_sets();
  for (std::size_t set = 0; set < sets.size(); ++set) {
    const auto t = made(sets[set]);
    for (int round = 0; round < 3000; ++round) {
      const std::string text = random_text(draw);
      DocumentEncoder encoder(*t);
      Ids parts;
      const std::size_t longest = 1 + draw() % 20;
      for (std::size_t at = 0, size = 0; at < text.size(); at += size)
        encoder.add(std::string_view(text).substr(at, size = 1 + draw() % longest), parts);
      encoder.finish(parts);
      ASSERT_EQ(parts, encode(*t, text)) << "rules " << set << ": " << testing::PrintToString(text);
    }
  }
}

TEST(JsonTokenizer, KeepsLittleOfAPartWaiting) {
  std::string text;
  while (text.size() < 60000) text += "The walker said: 'In 1984, naïve cafe\u0301s had them'.\n\n  if (x)\n";
  for (std::size_t set : {0, 1, 2, 3, 4, 6}) {
    Ids ids;
    EXPECT_GT(made(rule_sets()[set])->encode_part(text, false, ids), text.size() - 64) << "rules " << set;
  }
}

TEST(JsonTokenizer, ReadsMergesAsTextAndAsPairs) {
  EXPECT_EQ(encode(*made({}), "he"), encode(*made({.merge = R"(["h","e"])"}), "he"));
  for (const char* merge : {"\"he\"", "\"h e e\"", "[\"h\"]", "7", "\"h ☃\"", "[\"h\",\"h\"]"})
    expect_refused(Exit::data, {"small.json", "merge"}, [&] { made({.merge = merge}); });
}

TEST(JsonTokenizer, RefusesByNameWhatWouldChangeIds) {
  const auto refused = [](const SmallJson& json, const std::string& what) {
    expect_refused(Exit::data, {"small.json", what}, [&] { made(json); });
  };
  refused({.pre_tokenizer = "null"}, "ByteLevel");
  refused({.pre_tokenizer = R"({"type":"Metaspace"})"}, "'Metaspace'");
  refused({.pre_tokenizer = R"({"type":"ByteLevel","add_prefix_space":false,"rot13":true})"}, "'rot13'");
  refused({.pre_tokenizer = sequence(split("a", "MergedWithNext"))}, "'MergedWithNext'");
  refused({.pre_tokenizer = R"({"type":"Sequence","pretokenizers":[{"type":"ByteLevel","add_prefix_space":false},{"type":"Digits"}]})"},
          "behind ByteLevel");
  refused({.pre_tokenizer = R"({"type":"Sequence","pretokenizers":[{"type":"Digits"},{"type":"ByteLevel","add_prefix_space":true}]})"},
          "add_prefix_space");
  refused({.normalizer = R"({"type":"Lowercase"})"}, "'Lowercase'");
  refused({.decoder = R"({"type":"WordPiece"})"}, "'WordPiece'");
  refused({.model = R"("type":"Unigram")"}, "'Unigram'");
  refused({.model = R"("type":"BPE","byte_fallback":true)"}, "tokenizer.model");
  refused({.model = R"("type":"BPE","dropout":0.1)"}, "dropout");
  refused({.model = R"("type":"BPE","end_of_word_suffix":"</w>")"}, "end_of_word_suffix");
  refused({.model = R"("type":"BPE","unk_token":"<none>")"}, "'<none>'");
  refused({.model = R"("type":"BPE","magic":1)"}, "'magic'");
  for (const char* id : {"5", "-1", "1.5", "\"x\"", "null", "4294967296", "1e300"})
    refused({.vocabulary = fmt::format(",\"zz\":{}", id)}, "id");
  refused({.added = R"({"id":266,"content":"<|endoftext|>","single_word":true})"}, "single_word");
  refused({.added = R"({"id":300,"content":"<|endoftext|>"})"}, "300");
  refused({.added = R"({"id":0,"content":"a"})"}, "id 0");
  refused({.added = R"({"id":266,"content":"</s>"},{"id":266,"content":"</s>"})"}, "</s>");
  refused({.added = R"({"id":266,"content":"<end>"})"}, "nothing names the token that ends a document");
  refused({.added = "7"}, "added_tokens");
}

TEST(JsonTokenizer, RefusesWhatIsDamagedOrHostile) {
  const auto refused = [](const std::string& bytes, const std::string& what) {
    expect_refused(Exit::data, {"x.json", what}, [&] { json_tokenizer("x.json", bytes); });
  };
  const std::string good = text_of({});
  std::mt19937 draw(3);
  for (int round = 0; round < 300; ++round) {  // cut anywhere: refused, whatever it says
    EXPECT_THROW(json_tokenizer("x.json", good.substr(0, draw() % (good.size() - 1))), Error);
    std::string changed = good;
    changed[draw() % changed.size()] = static_cast<char>(draw());
    try {
      json_tokenizer("x.json", changed);  // may be another tokenizer
    } catch (const Error& error) {
      EXPECT_EQ(error.code, Exit::data) << error.what();
    }
  }
  refused(std::string(1'000'000, '['), "nested deeper");
  refused("{\"a\":" + std::string(1'000'000, '{'), "nested deeper");
  refused(std::string(65 << 20, ' '), "bytes of JSON");
  refused("{}", "model");
  refused("{\"model\":[]}", "model");
  for (const char* pattern :
       {"(?<=a)b", "^a", "a|b|", "[a[b]]", "(a", "\\\\bx", "(a)\\\\1", "\\\\w", "x{,3}", "x{2}+", "(?R)", "(*VERB)a", "\\\\p{Klingon}"})
    refused(text_of({.pre_tokenizer = sequence(split(pattern))}), "regular expression");
  std::string many;
  for (int i = 0; i < 20; ++i) many += (i ? "," : "") + split("a");
  refused(text_of({.pre_tokenizer = sequence(many)}), "pre-tokenizers");
}

TEST(JsonTokenizer, AnExpressionThatTakesForEverIsStopped) {
  const auto t = made({.pre_tokenizer = sequence(split("(?:a|a)+b\\\\d"))});
  expect_refused(Exit::data, {"small.json", "takes too long"}, [&] { encode(*t, "x" + std::string(5000, 'a') + "bx"); });
  EXPECT_EQ(encode(*t, "xb").size(), 2u);  // and goes on
}

TEST(JsonTokenizer, LongRunsAreNoTrouble) {
  for (const SmallJson& json : rule_sets()) {
    const auto t = made(json);
    for (const char* part : {" ", "\n", "a", "1", "é", "=", "<m>", "\xFF", "e\u0301"}) {
      std::string text;
      while (text.size() < 150'000) text += part;
      DocumentEncoder encoder(*t);
      Ids parts;
      for (std::size_t at = 0; at < text.size(); at += 65536) encoder.add(std::string_view(text).substr(at, 65536), parts);
      encoder.finish(parts);
      EXPECT_EQ(parts, encode(*t, text)) << json.pre_tokenizer << part;
    }
  }
}

TEST(BytePairs, LongWordsTakeNoLongerThanTheyMust) {
  const auto t = made({});
  EXPECT_EQ(encode(*t, std::string(2'000'000, 'a')), Ids(500'000, 265));
}

// Byte pair encoding in the plainest way.
TEST(BytePairs, AreTheLowestRankFirst) {
  std::mt19937 draw(5);
  for (int round = 0; round < 200; ++round) {
    std::vector<MergeRule> rules;
    for (std::int32_t whole = 4; whole < 24; ++whole)
      rules.push_back({static_cast<std::int32_t>(draw() % static_cast<unsigned>(whole)),
                       static_cast<std::int32_t>(draw() % static_cast<unsigned>(whole)), whole});
    Ids ids, expected;
    for (auto size = draw() % 60; size > 0; --size) ids.push_back(static_cast<std::int32_t>(draw() % 4));
    expected = ids;
    while (true) {
      std::size_t best = rules.size(), at = 0;
      for (std::size_t i = 0; i + 1 < expected.size(); ++i)
        for (std::size_t r = rules.size(); r-- > 0;)
          if (rules[r].left == expected[i] && rules[r].right == expected[i + 1]) {  // the last rule of a pair is its rule
            if (r < best) best = r, at = i;
            break;
          }
      if (best == rules.size()) break;
      expected[at] = rules[best].whole;
      expected.erase(expected.begin() + static_cast<std::ptrdiff_t>(at) + 1);
    }
    BytePairs(rules).merge(ids);
    ASSERT_EQ(ids, expected);
  }
}

// ---- directories and what stands beside a tokenizer.json ----

TEST_F(Files, TheFilesBesideATokenizerNameItsEnd) {
  const SmallJson json{.added = R"({"id":266,"content":"<a>"},{"id":267,"content":"<b>"},{"id":268,"content":"</s>"})"};
  write("d/tokenizer.json", text_of(json));
  EXPECT_EQ(load_tokenizer(path("d"))->end_token(), 268) << "by its well-known name";
  write("d/config.json", R"({"eos_token_id":267,"bos_token_id":266})");
  EXPECT_EQ(load_tokenizer(path("d"))->end_token(), 267);
  EXPECT_EQ(load_tokenizer(path("d"))->begin_token(), 266);
  write("d/generation_config.json", R"({"eos_token_id":[266,267]})");
  EXPECT_EQ(load_tokenizer(path("d"))->end_token(), 266) << "the first of several";
  write("d/special_tokens_map.json", R"({"eos_token":{"content":"<b>","lstrip":false}})");
  EXPECT_EQ(load_tokenizer(path("d"))->end_token(), 267);
  write("d/tokenizer_config.json", R"({"eos_token":"he","auto_map":{"AutoTokenizer":"evil.py"}})");
  const auto t = load_tokenizer(path("d/tokenizer.json"));
  EXPECT_EQ(t->end_token(), 256);
  EXPECT_EQ(encode(*t, "the"), (Ids{'t', 256}));
  EXPECT_EQ(encode(*t, " the"), (Ids{257, 256})) << "found before words are cut, as transformers does";
  EXPECT_EQ(t->config_bytes().find("evil"), std::string::npos);
}

TEST_F(Files, TheFilesBesideATokenizerAreChecked) {
  write("d/tokenizer.json", text_of({}));
  const auto refused = [&](const std::string& file, const std::string& content, const std::string& what) {
    write("d/" + file, content);
    expect_refused(Exit::data, {file, what}, [&] { load_tokenizer(path("d")); });
    std::filesystem::remove(path("d/" + file));
  };
  refused("tokenizer_config.json", R"({"eos_token":"<none>"})", "'<none>'");
  refused("tokenizer_config.json", R"({"eos_token":7})", "eos_token");
  refused("tokenizer_config.json", R"({"added_tokens_decoder":{"400":{"content":"<new>"}}})", "'<new>'");
  refused("tokenizer_config.json", R"({"added_tokens_decoder":{"400":{"content":"he"}}})", "400");
  refused("tokenizer_config.json", R"({"additional_special_tokens":["<new>"]})", "'<new>'");
  refused("tokenizer_config.json", R"({"add_prefix_space":true})", "add_prefix_space");
  refused("tokenizer_config.json", R"({"split_special_tokens":true})", "split_special_tokens");
  refused("tokenizer_config.json", "{", "JSON");
  refused("chat_template.jinja", "\xFF", "UTF-8");
  refused("config.json", R"({"eos_token_id":1000})", "1000");
  refused("generation_config.json", R"({"eos_token_id":"x"})", "eos_token_id");
}

TEST_F(Files, TokenizerConfigSaysMoreOfAddedTokens) {
  write("d/tokenizer.json", text_of({}));
  write("d/tokenizer_config.json", R"({"added_tokens_decoder":{"266":{"content":"<|endoftext|>","rstrip":true,"special":true}}})");
  EXPECT_EQ(encode(*load_tokenizer(path("d")), "<|endoftext|>  a"), (Ids{266, 'a'}));
}

TEST_F(Files, DirectoriesOfSentencePieceModelsGiveTheirModel) {
  write("d/tokenizer.json", text_of({.model = R"("type":"BPE","byte_fallback":true)"}));
  expect_refused(Exit::data, {"tokenizer.json", "tokenizer.model"}, [&] { load_tokenizer(path("d")); });
  write("d/tokenizer.model", "damaged");
  expect_refused(Exit::data, {"tokenizer.model", "SentencePiece"}, [&] { load_tokenizer(path("d")); });
  expect_refused(Exit::data, {"tokenizer.json"}, [&] { load_tokenizer(directory_.path()); });
  write_hugging_face_tokenizer("bytes", directory_ / "b");
  EXPECT_EQ(load_tokenizer(path("b"))->vocab_size(), 257);
}

TEST_F(Files, DataIsBuiltWithATokenizerJsonAndKeepsIt) {
  write("d/tokenizer.json", text_of({.added = R"({"id":266,"content":"<end>"})"}));
  write("d/tokenizer_config.json", R"({"eos_token":"<end>","chat_template":"{{ x }}"})");
  std::string text;
  while (text.size() < 200'000) text += "the aaaa  thing\n\n\n";  // several of a reader's pieces, cut between line ends
  write("t/a.txt", text);
  build_data({.inputs = {path("t")}, .tokenizer = path("d"), .output = path("o/x"), .validation_fraction = 0});
  const auto kept = tokenizer_beside(path("o/x_train"));
  ASSERT_EQ(kept, path("o/x_tokenizer.json"));
  const auto again = load_tokenizer(*kept);
  EXPECT_EQ(again->end_token(), 266);
  Ids expected = encode(*again, text);
  expected.push_back(266);
  const IndexedTokens data(path("o/x_train"));
  Ids ids(static_cast<std::size_t>(data.tokens()));
  data.read(0, ids, again->vocab_size());
  EXPECT_EQ(ids, expected);
  write_hugging_face_tokenizer(*kept, directory_ / "hf");
  EXPECT_EQ(content("hf/tokenizer.json"), content("d/tokenizer.json"));
  EXPECT_NE(content("hf/tokenizer_config.json").find("{{ x }}"), std::string::npos);
  build_data({.inputs = {path("t")}, .tokenizer = "bytes", .output = path("o/x"), .validation_fraction = 0});
  EXPECT_FALSE(std::filesystem::exists(path("o/x_tokenizer_config.json")));
}

}  // namespace
}  // namespace offramp
