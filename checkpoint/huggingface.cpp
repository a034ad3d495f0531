#include "checkpoint/huggingface.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "tensor/check.h"

namespace offramp {
namespace {

using Json = nlohmann::ordered_json;  // keys stay in the order in which they are written here

void write_json(const std::string& path, const Json& json) { write_file(path, json.dump(2) + "\n"); }

const char* ownership(bool shared) { return shared ? "shared" : "own"; }

class Entries {
 public:
  explicit Entries(const ModelConfig& model) : model_(model) {}

  void add(std::string name, Shape shape) { list_.push_back({std::move(name), shape}); }
  void attention(const std::string& prefix) {
    const std::int64_t hidden = model_.hidden_size, keys = model_.num_key_value_heads * model_.head_size();
    add(prefix + ".self_attn.q_proj.weight", {hidden, hidden});
    add(prefix + ".self_attn.k_proj.weight", {keys, hidden});
    add(prefix + ".self_attn.v_proj.weight", {keys, hidden});
    add(prefix + ".self_attn.o_proj.weight", {hidden, hidden});
  }
  void mlp(const std::string& prefix) {
    add(prefix + ".mlp.gate_proj.weight", {model_.intermediate_size, model_.hidden_size});
    add(prefix + ".mlp.up_proj.weight", {model_.intermediate_size, model_.hidden_size});
    add(prefix + ".mlp.down_proj.weight", {model_.hidden_size, model_.intermediate_size});
  }
  void norm(const std::string& name) { add(name + ".weight", {model_.hidden_size}); }
  void output(const std::string& name) { add(name + ".weight", {model_.vocab_size, model_.hidden_size}); }
  // A whole decoder layer; without_mlp: its attention half.
  void layer(const std::string& prefix, bool without_mlp = false) {
    attention(prefix);
    if (!without_mlp) mlp(prefix);
    norm(prefix + ".input_layernorm");
    if (!without_mlp) norm(prefix + ".post_attention_layernorm");
  }
  void exit(const ExitSpec& exit) {
    const std::string prefix = fmt::format("exits.{}", exit.layer);
    if (exit.head == HeadKind::mlp) mlp(prefix);
    if (exit.head == HeadKind::block || exit.head == HeadKind::attention) layer(prefix + ".block", exit.head == HeadKind::attention);
    if (exit.head != HeadKind::bare && !exit.shared_norm) norm(prefix + ".norm");
    if (!exit.shared_output) output(prefix + ".head");
  }
  std::vector<TensorEntry> take() { return std::move(list_); }

 private:
  const ModelConfig& model_;
  std::vector<TensorEntry> list_;
};

std::vector<ExitSpec> in_layer_order(std::span<const ExitSpec> exits) {
  std::vector<ExitSpec> sorted(exits.begin(), exits.end());
  std::stable_sort(sorted.begin(), sorted.end(), [](const ExitSpec& a, const ExitSpec& b) { return a.layer < b.layer; });
  return sorted;
}

}  // namespace

void write_config_json(const std::string& directory, const ModelConfig& model, std::int64_t end_token) {
  OFFRAMP_CHECK(model.architecture == "llama", "[write_config_json] there is no Hugging Face form of {}", model.architecture);
  Json json;
  json["architectures"] = {"LlamaForCausalLM"};
  json["model_type"] = "llama";
  json["vocab_size"] = model.vocab_size;
  json["hidden_size"] = model.hidden_size;
  json["intermediate_size"] = model.intermediate_size;
  json["num_hidden_layers"] = model.num_hidden_layers;
  json["num_attention_heads"] = model.num_attention_heads;
  json["num_key_value_heads"] = model.num_key_value_heads;
  json["head_dim"] = model.head_size();
  json["hidden_act"] = "silu";
  json["max_position_embeddings"] = model.max_position_embeddings;
  json["rope_theta"] = model.rope_theta;  // version 4 reads this, version 5 the next
  json["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", model.rope_theta}};
  json["rms_norm_eps"] = model.rms_norm_eps;
  json["initializer_range"] = model.initializer_range;
  json["tie_word_embeddings"] = model.tie_word_embeddings;
  json["attention_bias"] = false;
  json["mlp_bias"] = false;
  json["attention_dropout"] = 0.0;
  json["bos_token_id"] = nullptr;  // left out, it would be 1
  json["eos_token_id"] = end_token < 0 ? Json(nullptr) : Json(end_token);
  json["pad_token_id"] = nullptr;
  json["use_cache"] = true;
  json["torch_dtype"] = "float32";  // version 4 reads this, version 5 the next
  json["dtype"] = "float32";
  write_json(directory + "/config.json", json);
}

void write_exits_json(const std::string& directory, std::span<const ExitSpec> exits) {
  Json list = Json::array();
  for (const auto& exit : in_layer_order(exits)) {
    list.push_back({{"layer", exit.layer},
                    {"head", name_of(exit.head)},
                    {"output", ownership(exit.shared_output)},
                    {"norm", ownership(exit.shared_norm)}});
  }
  write_json(directory + "/exits.json", Json{{"exits", list}});
}

std::vector<TensorEntry> backbone_entries(const ModelConfig& model) {
  Entries entries(model);
  entries.output("model.embed_tokens");
  for (std::int64_t i = 0; i < model.num_hidden_layers; ++i) entries.layer(fmt::format("model.layers.{}", i));
  entries.norm("model.norm");
  if (!model.tie_word_embeddings) entries.output("lm_head");
  return entries.take();
}

std::vector<TensorEntry> exit_entries(const ModelConfig& model, std::span<const ExitSpec> exits) {
  Entries entries(model);
  for (const auto& exit : in_layer_order(exits)) entries.exit(exit);
  return entries.take();
}

}  // namespace offramp
