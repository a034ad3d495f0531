// tokenizer.json against the real reader: tokenizers trained here with GPT-2's, SmolLM2's and Llama 3's rules, and some more, give
// the ids that transformers gives for 1,000 texts of many scripts, code, emoji, runs of spaces, numbers and control characters.
#include <filesystem>
#include <sstream>

#include "data/hugging_face.h"
#include "data/tokenizer.h"
#include "tests/data/files.h"

namespace offramp {
namespace {

using Ids = std::vector<std::int32_t>;

// Writes DIR/texts (each its size in bytes, a line end, the bytes) and a directory of a tokenizer for each kind; prints the kinds.
constexpr const char* kTrain = R"py(
import random, sys, unicodedata
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

def pick(low, high):  # characters that are old: later ones are letters to some libraries and nothing to others
    old = [chr(c) for c in range(low, high + 1) if unicodedata.ucd_3_2_0.category(chr(c)) not in ("Cn", "Cs")]
    return lambda r: r.choice(old)

SPACES = [" ", "  ", "    ", "\n", "\n\n", "\r\n", "\t", "\u00a0", "\u2003", "\u3000", "\u0085", "\u180e", "\u2028", "\u200b", " \n ",
          "\n  "]
ODD = ["'s", "'S", "'\u017f", "'ll", "'RE", "\u212a", "\u00df", "\ufb01", "\u01c5", "<|im_end|>", "<|im_", "<|endoftext|>", "<mask>",
       "  <mask>  ", "<e\u0301>", "<\u00e9>",
       "e\u0301", "\u1e69", "s\u0323\u0307", "s\u0307\u0323", "\u1112\u1161\u11ab", "\ud55c", "\uac00\u11a8", "\u0915\u093c", "\u2126",
       "\u037e", "\u0345\u0300", "a\u0315\u0300\u05ae\u0062",
       "\U0001f469\u200d\U0001f469\u200d\U0001f467", "\U0001f1ea\U0001f1fa", "\U0001f44d\U0001f3fd", "\ufeff", "\ufffd", "\U00010384",
       "\U000e0041"]
CODE = ["def f(x):\n    return x**2  # ", "if (a[i] != b->c) {\n\t\tgo();\n\t}", "x += 0xDEADBEEF;", "<div class=\"a\">&nbsp;</div>",
        "SELECT * FROM t WHERE a<>'b';", "==========", "//////", "{}[]()",
        "3.14159e-10", "1234567890", "12,345.67", "\u0661\u0662\u0663", "\u00bd\u00b2", "\u2167", "\u0966\u0967", "http://a.b/c?d=e&f=%20"]
WORDS = ("the of walking talk walkers talkers tokenizer language Model don't I'll we've it's CamelCase snake_case naïve Ångström Việt "
         "прогулка 人工智能 日本語です 한국어 العربية עברית हिन्दी ไทย Ελληνικά").split()
RANGES = [pick(low, high) for low, high in (
    (0, 0x1f), (0x20, 0x7e), (0x7f, 0x9f), (0xa0, 0x24f), (0x300, 0x36f), (0x370, 0x5ff), (0x900, 0xdff), (0x1100, 0x11ff),
    (0x1e00, 0x2fff), (0x3000, 0x30ff), (0x4e00, 0x9fff), (0xac00, 0xd7a3), (0xe000, 0xffff), (0x10000, 0x1ffff))]
RANGES.append(lambda r: chr(r.randint(0x1f300, 0x1faff)))

def text(r):
    parts = []
    for _ in range(r.randint(0, 24)):
        kind = r.random()
        if kind < 0.45: parts.append(r.choice(WORDS) + r.choice(["", " ", ", ", ".\n"]))
        elif kind < 0.6: parts.append(r.choice(SPACES))
        elif kind < 0.7: parts.append(r.choice(CODE))
        elif kind < 0.85: parts.append(r.choice(ODD))
        else: parts.append("".join(r.choice(RANGES)(r) for _ in range(r.randint(1, 3))))
    return "".join(parts)

LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
O200K = "|".join([
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])
level, split = pre_tokenizers.ByteLevel, pre_tokenizers.Split
KINDS = {
    "gpt2": ([level(add_prefix_space=False)], {}),
    "smollm2": ([pre_tokenizers.Digits(individual_digits=True), level(add_prefix_space=False)], {}),
    "llama3": ([split(Regex(LLAMA3), "isolated"), level(add_prefix_space=False, use_regex=False)], {"ignore_merges": True}),
    "qwen2": ([split(Regex(LLAMA3.replace("{1,3}", "")), "isolated"), level(add_prefix_space=False, use_regex=False)], {"nfc": True}),
    "o200k": ([split(Regex(O200K), "removed", invert=True), level(add_prefix_space=False, use_regex=False)], {}),
    "spaced": ([level(add_prefix_space=True)], {"nfc": True}),
    "digits": ([pre_tokenizers.Digits(), split(Regex(r"\p{Han}|[\s,]+$|\S\s"), "isolated"), split(" ", "removed"),
    level(add_prefix_space=False)], {}),
    "unknown": ([level(add_prefix_space=False)], {"unk_token": "?", "fuse_unk": True}),
    "missing": ([level(add_prefix_space=False)], {"bare": True}),
}

def trained(steps, options, corpus):
    model = models.BPE(ignore_merges=options.get("ignore_merges", False), unk_token=options.get("unk_token"),
    fuse_unk=options.get("fuse_unk", False))
    t = Tokenizer(model)
    if "nfc" in options: t.normalizer = normalizers.NFC()
    t.pre_tokenizer = steps[0] if len(steps) == 1 else pre_tokenizers.Sequence(steps)
    t.decoder = decoders.ByteLevel()
    bare = "bare" in options or "unk_token" in options
    special = ["<|endoftext|>"] + ([options["unk_token"]] if "unk_token" in options else [])
    t.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=700, show_progress=False, special_tokens=special,
    initial_alphabet=[] if bare else level.alphabet(),
                                                      **({"limit_alphabet": 60} if bare else {})))
    t.add_special_tokens([AddedToken("<|im_end|>", normalized=False), AddedToken("<mask>", lstrip=True, rstrip=True, normalized=False)])
    t.add_tokens([AddedToken("<e\u0301>", normalized=True), AddedToken("==", normalized=False), AddedToken("=====", normalized=False)])
    return t

d = sys.argv[1]
r = random.Random(1)
texts = [text(r) for _ in range(1000)]
with open(d + "/texts", "wb") as f:
    for t in texts:
        b = t.encode()
        f.write(b"%d\n" % len(b) + b)
r = random.Random(2)
corpus = [text(r) for _ in range(1000)]
for kind, (steps, options) in KINDS.items():
    t = trained(steps, options, corpus)
    PreTrainedTokenizerFast(tokenizer_object=t, eos_token="<|endoftext|>").save_pretrained(d + "/" + kind)
)py";

// Of each directory in DIR prints the name, and the ids of DIR/texts, a line each, as AutoTokenizer gives them.
constexpr const char* kEncode = R"py(
import os, sys
from transformers import AutoTokenizer
texts = []
with open(sys.argv[1] + "/texts", "rb") as f:
    while line := f.readline():
        texts.append(f.read(int(line)).decode())
for kind in sorted(e.name for e in os.scandir(sys.argv[1]) if e.is_dir()):
    t = AutoTokenizer.from_pretrained(sys.argv[1] + "/" + kind)
    print(kind)
    for text in texts:
        print(*t(text, add_special_tokens=False)["input_ids"])
)py";

std::vector<std::string> read_texts(const std::string& path) {
  std::istringstream file(read_bytes(path));
  std::vector<std::string> texts;
  for (std::string size; std::getline(file, size);) {
    texts.emplace_back(std::stoul(size), '\0');
    file.read(texts.back().data(), std::ssize(texts.back()));
  }
  return texts;
}

std::string encoded(const Tokenizer& tokenizer, const std::string& text) {
  Ids ids;
  tokenizer.encode(text, ids);
  return fmt::format("{}", fmt::join(ids, " "));
}

// What a tokenizer says of the texts, against the next lines.
void expect_ids(const Tokenizer& tokenizer, const std::vector<std::string>& texts, std::istream& lines, const std::string& what) {
  std::size_t wrong = 0;
  std::string line;
  for (const std::string& text : texts) {
    ASSERT_TRUE(std::getline(lines, line)) << what;
    const std::string ours = encoded(tokenizer, text);
    if (ours != line && wrong++ == 0) ADD_FAILURE() << what << ": " << testing::PrintToString(text) << "\n" << ours << "\n" << line;
  }
  EXPECT_EQ(wrong, 0u) << what;
}

class JsonTokenizerPython : public testing::Test {
 protected:
  void SetUp() override {
    OFFRAMP_NEEDS_PYTHON();
    run_python(directory_, kTrain, directory_.path());
    texts_ = read_texts(directory_ / "texts");
    ASSERT_EQ(texts_.size(), 1000u);
  }

  // Whether transformers and we give the same ids for every directory.
  void compare() {
    std::istringstream lines(run_python(directory_, kEncode, directory_.path()));
    std::size_t count = 0;
    for (std::string kind; std::getline(lines, kind); ++count) expect_ids(*load_tokenizer(directory_ / kind), texts_, lines, kind);
    EXPECT_EQ(count, 9u);
  }

  TemporaryDirectory directory_;
  std::vector<std::string> texts_;
};

TEST_F(JsonTokenizerPython, TransformersGivesTheSameIds) {
  compare();
  std::vector<std::filesystem::path> directories;
  for (const auto& entry : std::filesystem::directory_iterator(directory_.path()))
    if (entry.is_directory()) directories.push_back(entry.path());
  for (const auto& directory : directories) {
    write_hugging_face_tokenizer(directory, directory_ / "export");
    std::filesystem::remove_all(directory);
    std::filesystem::rename(directory_ / "export", directory);
  }
  compare();
}

}  // namespace
}  // namespace offramp
