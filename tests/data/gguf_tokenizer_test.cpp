#include "data/gguf_tokenizer.h"

#include "data/sentencepiece_model.h"
#include "data/tokenizer.h"
#include "data/train_tokenizer.h"
#include "data/unicode.h"
#include "tests/data/files.h"

namespace offramp {
namespace {

using Ids = std::vector<std::int32_t>;

Ids encode(const Tokenizer& tokenizer, const std::string& text) {
  Ids ids;
  tokenizer.encode(text, ids);
  return ids;
}

// 0 the end, 1 a user's token, 2 to 257 the bytes, 258 " t", 259 "11", 260 "ll".
GgufVocabulary small(const std::string& pre) {
  GgufVocabulary v{.model = "gpt2", .pre = pre, .tokens = {"<|endoftext|>", "é\"\\"}, .types = {3, 4}, .bos = 0, .eos = 0};
  for (int byte = 0; byte < 256; ++byte) v.tokens.push_back(letters_of_bytes(std::string(1, static_cast<char>(byte))));
  for (const char* whole : {"Ġt", "11", "ll"}) v.tokens.emplace_back(whole);
  v.types.resize(v.tokens.size(), 1);
  v.merges = {"Ġ t", "1 1", "l l"};
  return v;
}

class GgufTokenizer : public Files {
 protected:
  std::unique_ptr<Tokenizer> loaded(const GgufVocabulary& v) {
    const std::string directory = path(fmt::format("t{}", count_++));
    write_tokenizer_files(tokenizer_files(v, "m.gguf"), directory);
    return load_tokenizer(directory);
  }
  int count_ = 0;
};

TEST_F(GgufTokenizer, CutsTextAsItsNameSays) {
  const auto ids = [&](const std::string& pre, const std::string& text) { return encode(*loaded(small(pre)), text); };
  const std::int32_t one = '1' + 2, t = 't' + 2, space = ' ' + 2;
  EXPECT_EQ(ids("gpt-2", "111 t"), (Ids{259, one, 258}));
  EXPECT_EQ(ids("smollm", "111 t"), (Ids{one, one, one, 258}));
  EXPECT_EQ(ids("llama-bpe", "1111 t"), (Ids{259, one, one, 258}));  // three digits at most
  EXPECT_EQ(ids("qwen2", "11 t"), (Ids{one, one, 258}));
  EXPECT_EQ(ids("gpt-4o", "1111 t"), (Ids{259, one, one, 258}));
  EXPECT_EQ(ids("default", "11 t"), ids("", "11 t"));
  EXPECT_EQ(ids("dbrx", "1 \nt"), (Ids{one, space, '\n' + 2, t}));
  EXPECT_EQ(ids("gpt-2", "é\"\\<|endoftext|>"), (Ids{1, 0}));
  EXPECT_EQ(ids("qwen2", "e\u0301"), (Ids{0xC3 + 2, 0xA9 + 2})) << "composed";
  expect_refused(Exit::checkpoint, {"m.gguf", "'bert-bge'", "smollm"}, [&] { tokenizer_files(small("bert-bge"), "m.gguf"); });
}

TEST_F(GgufTokenizer, CarriesItsMarksAndTemplate) {
  GgufVocabulary v = small("smollm");
  v.chat_template = "{{ \"ü\" }}\n";
  v.unknown = 1;
  const auto t = loaded(v);
  EXPECT_EQ(t->end_token(), 0);
  EXPECT_EQ(t->begin_token(), 0);
  EXPECT_EQ(t->vocab_size(), 261);
  EXPECT_NE(t->config_bytes().find(R"("chat_template": "{{ \"ü\" }}\n")"), std::string::npos) << t->config_bytes();
  EXPECT_NE(t->config_bytes().find(R"("unk_token": "é\"\\")"), std::string::npos);
}

// The marks that AutoTokenizer adds are in the file; our own ids stay without.
TEST_F(GgufTokenizer, TransformersReadsIt) {
  OFFRAMP_NEEDS_PYTHON();
  GgufVocabulary v = small("llama-bpe");
  v.add_bos = true;
  const auto t = loaded(v);
  const std::string program =
      "import sys\nfrom transformers import AutoTokenizer\nt = AutoTokenizer.from_pretrained(sys.argv[1])\n"
      "print(*t('1111 tall')['input_ids'])\nprint(*t('1111 tall', add_special_tokens=False)['input_ids'])\n";
  const std::string ours = fmt::format("{}\n", fmt::join(encode(*t, "1111 tall"), " "));
  EXPECT_EQ(run_python(directory_, program, path("t0")), "0 " + ours + ours);
}

TEST_F(GgufTokenizer, SentencePieceModelsComeBackWhole) {
  std::string text;
  for (int i = 0; i < 300; ++i) text += fmt::format("The {}th line tells of walking and    talking.\n  if (walk[{}]) return;\n", i, i * i);
  write("text.txt", text);
  train_tokenizer({.inputs = {path("text.txt")}, .vocab_size = 360, .output = path("s.model")});
  const auto model = parse_sentencepiece_model(content("s.model"), "s.model");
  GgufVocabulary v{.model = "llama", .bos = 1, .eos = 2, .unknown = 0, .add_space_prefix = false};
  for (const auto& piece : model.pieces) {
    v.tokens.push_back(piece.text);
    v.scores.push_back(piece.score);
    v.types.push_back(static_cast<std::int32_t>(piece.kind));
  }
  const auto original = load_tokenizer(path("s.model")), again = loaded(v);
  EXPECT_EQ(again->vocab_size(), 360);
  EXPECT_EQ(again->end_token(), 2);
  EXPECT_EQ(again->begin_token(), 1);
  for (const std::string& sample : {text, std::string("  ünseen 漢字\n\n x"), std::string("walking")}) {
    EXPECT_EQ(encode(*again, sample), encode(*original, sample));
    EXPECT_EQ(again->decode(encode(*again, sample)), sample);
  }
  v.add_space_prefix = true;
  EXPECT_EQ(encode(*loaded(v), "walking"), encode(*original, " walking"));
  v.scores.pop_back();
  expect_refused(Exit::checkpoint, {"m.gguf", "scores"}, [&] { tokenizer_files(v, "m.gguf"); });
}

TEST_F(GgufTokenizer, RefusesWhatIsNone) {
  const auto refused = [](const std::string& what, const std::function<void(GgufVocabulary&)>& change) {
    GgufVocabulary v = small("gpt-2");
    change(v);
    expect_refused(Exit::checkpoint, {"m.gguf", what}, [&] { tokenizer_files(v, "m.gguf"); });
  };
  refused("'bert'", [](auto& v) { v.model = "bert"; });
  refused("tokens", [](auto& v) { v.tokens.clear(), v.types.clear(); });
  refused("types", [](auto& v) { v.types.pop_back(); });
  refused("type 7", [](auto& v) { v.types[9] = 7; });
  refused("twice", [](auto& v) { v.tokens[9] = v.tokens[8]; });
  refused("UTF-8", [](auto& v) { v.tokens[9] = "\xFF"; });
  refused("UTF-8", [](auto& v) { v.merges[1] = "\xC3 a"; });
  refused("UTF-8", [](auto& v) { v.chat_template = "\xC3"; });
  refused("261", [](auto& v) { v.eos = 261; });
  refused("-2", [](auto& v) { v.bos = -2; });
  GgufVocabulary v = small("gpt-2");
  v.merges.emplace_back("Ġt x");
  expect_refused(Exit::data, {"tokenizer.json", "merge"}, [&] { loaded(v); });
}

}  // namespace
}  // namespace offramp
