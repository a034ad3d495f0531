// Models that somebody else made: maps of characters that the library would follow out of their memory.
#include "data/sentencepiece_model.h"

#include <sentencepiece_trainer.h>

#include <cstring>

#include "data/tokenizer.h"
#include "tests/data/files.h"

namespace offramp {
namespace {

std::string field(int number, const std::string& bytes) {  // of less than 16 KiB
  std::string all(1, static_cast<char>(number << 3 | 2));
  all += {static_cast<char>((bytes.size() & 0x7F) | 0x80), static_cast<char>(bytes.size() >> 7)};
  return all + bytes;
}

// A trie of one block, and a text.
struct CharacterMap {
  std::vector<std::uint32_t> units = std::vector<std::uint32_t>(256);
  std::uint32_t bytes = 1024;
  std::string texts = std::string("a\0", 2);

  std::string raw() const {
    std::string all(4 + units.size() * 4, '\0');
    std::memcpy(all.data(), &bytes, 4);
    std::memcpy(all.data() + 4, units.data(), units.size() * 4);
    return all + texts;
  }
};

void take(const CharacterMap& map) {
  for (const int spec : {3, 5}) parse_sentencepiece_model(field(spec, field(2, map.raw())), "m.model");
}

void refused(const std::function<void(CharacterMap&)>& change) {
  CharacterMap map;
  change(map);
  for (const int spec : {3, 5})
    expect_refused(Exit::data, {"m.model", "map of characters"},
                   [&] { parse_sentencepiece_model(field(spec, field(2, map.raw())), "m.model"); });
}

TEST(SentencePieceMap, StaysInItsMemory) {
  CharacterMap sound;
  sound.units[0] = 3u << 10 | 1u << 8;  // its leaf is unit 3
  sound.units[3] = 1u << 31 | 1u;       // the text at 1
  take(sound);
  refused([](CharacterMap& m) { m.units[0] = 256u << 10; });                                      // a unit of another block
  refused([](CharacterMap& m) { m.units[7] = 1u << 10 | 1u << 9; });                              // 256 as well
  refused([](CharacterMap& m) { m.units[0] = 3u << 10 | 1u << 8, m.units[3] = 1u << 31 | 2u; });  // a text behind the last
  refused([](CharacterMap& m) { m.texts = "a"; });
  refused([](CharacterMap& m) { m.texts = ""; });
  for (const std::uint32_t bytes : {0u, 1u, 1020u, 2048u, 0xFFFFFC00u}) refused([&](CharacterMap& m) { m.bytes = bytes; });
}

class SentencePieceFiles : public Files {};

TEST_F(SentencePieceFiles, TheLibrarysOwnMapsAreTaken) {
  std::string text;
  for (int i = 0; i < 300; ++i) text += fmt::format("{} lines of walking talkers and {} more\n", i, i * i);
  write("t.txt", text);
  const auto status = sentencepiece::SentencePieceTrainer::Train({{"input", path("t.txt")},
                                                                  {"model_prefix", path("t")},
                                                                  {"vocab_size", "60"},
                                                                  {"hard_vocab_limit", "false"},
                                                                  {"normalization_rule_name", "nmt_nfkc_cf"},
                                                                  {"minloglevel", "2"}});
  ASSERT_TRUE(status.ok()) << status.ToString();
  const auto tokenizer = load_tokenizer(path("t.model"));
  std::vector<std::int32_t> folded, plain;
  tokenizer->encode("\uFB01VE", folded);
  tokenizer->encode("five", plain);
  EXPECT_EQ(folded, plain) << "the map works";
}

}  // namespace
}  // namespace offramp
