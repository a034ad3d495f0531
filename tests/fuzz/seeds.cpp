// The first inputs of every target, made by the project's own writers: small files that are sound.
//   fuzz_seeds DIRECTORY      fills DIRECTORY/<target>
#include "checkpoint/checksum.h"
#include "checkpoint/gguf_writer.h"
#include "checkpoint/huggingface.h"
#include "checkpoint/manifest.h"
#include "data/gguf_tokenizer.h"
#include "data/hugging_face.h"
#include "data/indexed.h"
#include "data/unicode.h"
#include "tests/checkpoint/small_export.h"
#include "tests/fuzz/manifest.h"
#include "tests/fuzz/target.h"
#include "trainer/resume.h"
#include "trainer/yaml.h"

using namespace offramp;
using namespace offramp::fuzz;
namespace fs = std::filesystem;

namespace {

class Seeds {
 public:
  explicit Seeds(fs::path directory) : directory_(std::move(directory)) {}
  void add(const std::string& target, const std::string& bytes) {
    fs::create_directories(directory_ / target);
    std::ofstream(directory_ / target / fmt::format("seed-{}", count_++), std::ios::binary) << bytes;
  }

 private:
  fs::path directory_;
  int count_ = 0;
};

std::string bytes_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// One of several files in an input, as Input::next() takes it.
std::string part(const std::string& bytes) {
  const auto length = static_cast<std::uint32_t>(bytes.size());
  return std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + bytes;
}

ModelConfig tiny(const std::string& architecture) {
  ModelConfig model = architecture == "gpt2" ? testing::small_gpt2() : testing::small_model(true);
  model.num_hidden_layers = 1, model.hidden_size = 4, model.intermediate_size = 4, model.vocab_size = 6;
  model.num_attention_heads = 2, model.num_key_value_heads = architecture == "gpt2" ? 2 : 1;
  model.max_position_embeddings = 8;
  return model;
}

std::vector<ExitSpec> exits_of(const ModelConfig& model) {
  return {{.layer = static_cast<int>(model.num_hidden_layers), .head = HeadKind::mlp, .loss_weight = 1}};
}

// A model that is the same number everywhere.
class Ones : public TensorSource {
 public:
  explicit Ones(std::vector<TensorEntry> entries) : entries_(std::move(entries)) {}
  std::vector<TensorEntry> entries() const override { return entries_; }
  void read(const std::string&, std::int64_t, std::int64_t count, float* out) override { std::fill_n(out, count, 1.0f); }

 private:
  std::vector<TensorEntry> entries_;
};

GgufVocabulary bytes_and_pairs() {
  GgufVocabulary v{.model = "gpt2", .pre = "smollm", .tokens = {"<|endoftext|>"}, .types = {3}, .bos = 0, .eos = 0};
  for (const char c : std::string("abcdefghijklmnop 1")) v.tokens.push_back(letters_of_bytes(std::string(1, c)));
  for (const char* whole : {"ab", "11", "ll"}) v.tokens.emplace_back(whole);
  v.types.resize(v.tokens.size(), 1);
  v.merges = {"a b", "1 1", "l l"};
  return v;
}

GgufVocabulary pieces() {
  GgufVocabulary v{.model = "llama", .tokens = {"<unk>", "<s>", "</s>", "\u2581", "a", "b", "ab", "\u2581ab"}};
  v.types = {2, 3, 3, 1, 1, 1, 1, 1};
  v.scores = {0, 0, 0, -3, -4, -5, -1, -2};
  v.unknown = 0, v.bos = 1, v.eos = 2;
  return v;
}

void huggingface(Seeds& seeds) {
  for (const char* architecture : {"llama", "gpt2"}) {
    const ModelConfig model = tiny(architecture);
    const std::string directory = scratch().path() + "/hf-" + architecture;
    testing::write_export(directory, model, exits_of(model), 1);
    const auto file = [&](const std::string& name) { return bytes_of(directory + "/" + name); };
    const std::string around = part(file("exits.json")) + part(file("exits.safetensors"));
    std::string index = "{\"weight_map\":{";
    for (const TensorEntry& entry : file_entries(backbone_entries(model)))
      index += fmt::format("{}\"{}\":\"model-1.safetensors\"", index.back() == '{' ? "" : ",", entry.name);
    seeds.add("huggingface", part(file("config.json")) + part("") + around + file("model.safetensors"));
    seeds.add("huggingface", part(file("config.json")) + part(index + "}}") + around + file("model.safetensors"));
    seeds.add("safetensors", file("exits.safetensors"));
  }
}

void gguf(Seeds& seeds) {
  for (GgufVocabulary v : {bytes_and_pairs(), pieces()}) {
    ModelConfig model = tiny("llama");
    model.vocab_size = std::ssize(v.tokens);
    model.rope_scaling = {"llama3", 16, 1.5, 5, 64};
    Ones source(logical_entries(backbone_entries(model)));
    const std::string path = scratch().path() + "/model.gguf";
    for (const FloatType type : {FloatType::f32, FloatType::bf16}) {
      write_gguf(path, model, source, v, type);
      seeds.add("gguf", bytes_of(path));
    }
  }
}

void tokenizers(Seeds& seeds) {
  for (const char* pre : {"smollm", "llama-bpe", "qwen2", "default"}) {
    GgufVocabulary v = bytes_and_pairs();
    v.pre = pre;
    const TokenizerFiles files = tokenizer_files(v, pre);
    seeds.add("tokenizer", part(files.bytes) + part(files.config) + part(R"({"eos_token":{"content":"<|endoftext|>","lstrip":true}})") +
                               part(R"({"eos_token_id":[0]})"));
  }
  seeds.add("tokenizer", part(byte_tokenizer_json()) + part("") + part("") + part(""));
  seeds.add("sentencepiece", tokenizer_files(pieces(), "pieces").bytes);
}

void index(Seeds& seeds) {
  for (const TokenType type : {TokenType::u8, TokenType::u16, TokenType::i32, TokenType::i64}) {
    const std::string prefix = scratch().path() + "/docs";
    IndexedWriter writer(prefix, type);
    for (const auto& document : {std::vector{1, 2, 3, 4, 5, 6}, std::vector{7}, std::vector{8, 9, 10, 11, 12}}) {
      writer.append(document);
      writer.end_document();
    }
    writer.finish();
    writer.publish();
    seeds.add("index", part(bytes_of(prefix + ".idx")) + bytes_of(prefix + ".bin"));
  }
}

// The model and the optimizer state of one tensor, in two boxes.
void manifest(Seeds& seeds) {
  for (const char* architecture : {"llama", "gpt2"}) {
    Config config;
    config.model = tiny(architecture), config.exits = exits_of(config.model);
    Manifest m{.run_id = "0123", .step = 2, .samples = 8, .updates = 2, .configuration = remembered(config)};
    m.layout = {{"tensor", 1}}, m.made_by = {{"offramp", "0"}}, m.data = {{"train.0.bin", "10 0"}};
    std::uint64_t at = 0;
    const auto add = [&](const std::string& kind, const TensorEntry& entry, const Box& box) {
      m.boxes.push_back({kind, entry.name, entry.shape, box, 0, fmt::format("{}.{}", kind, entry.name), at});
      at += m.boxes.back().bytes();
    };
    std::vector<TensorEntry> entries = logical_entries(backbone_entries(config.model));
    for (const TensorEntry& entry : logical_entries(exit_entries(config.model, config.exits))) entries.push_back(entry);
    for (const TensorEntry& entry : entries) {
      const Matrix whole = matrix_of(entry.shape);
      add(kWeights, entry, {0, whole.rows, 0, whole.columns});
    }
    add("exp_avg", entries[0], {0, 2, 0, 4});
    add("exp_avg", entries[0], {2, 4, 0, 4});
    m.files = {{kStoredName, stored_bytes().size(), {checksum(stored_bytes())}}};
    const std::string text = to_json(m);
    seeds.add("manifest", text.substr(0, text.rfind(kSumKey)));
  }
}

void config(Seeds& seeds) {
  const std::string text = R"(model: {num_hidden_layers: 4, hidden_size: 32, intermediate_size: 64, num_attention_heads: 4, vocab_size: 257}
exits:
  - {layer: 2, loss_weight: 0.25}
  - &e {layer: 3, head: mlp, loss_weight: 0.5}
training: {sequence_length: 16, micro_batch_size: 2, global_batch_size: 8, steps: 10}
optimizer: {lr: 1.0e-3}
data: {train: [{path: a, weight: 2}, {path: b}]}
)";
  seeds.add("config", text);
  seeds.add("config", print_config(read_config(scratch().write("job.yaml", text), {})));
  seeds.add("config", "extends: printed.yaml\n" + text);
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 2) return 2;
  Seeds seeds(arguments[1]);
  for (const auto make : {huggingface, gguf, tokenizers, index, manifest, config}) make(seeds);
  return 0;
}
