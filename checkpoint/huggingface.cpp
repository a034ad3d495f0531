#include "checkpoint/huggingface.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "models/names.h"
#include "tensor/check.h"

namespace offramp {
namespace {

using Json = nlohmann::ordered_json;  // keys stay in the order in which they are written here

void write_json(const std::string& path, const Json& json) { write_file(path, json.dump(2) + "\n"); }

const char* ownership(bool shared) { return shared ? "shared" : "own"; }

class Entries {
 public:
  explicit Entries(const ModelConfig& model) : model_(model), names_(model) {}

  const Names& names() const { return names_; }
  void vocabulary(const std::string& module) { as_it_is(weight_of(module), {model_.vocab_size, model_.hidden_size}); }
  void positions() {
    if (names_.gpt2) as_it_is(weight_of(names_.positions), {model_.max_position_embeddings, model_.hidden_size});
  }
  void norm(const std::string& module) {
    as_it_is(weight_of(module), {model_.hidden_size});
    if (names_.biased()) as_it_is(bias_of(module), {model_.hidden_size});
  }
  void exit(const ExitSpec& exit) {
    if (exit.head == HeadKind::mlp) mlp(names_.below(Names::exit(exit.layer)));
    if (exit.head == HeadKind::block || exit.head == HeadKind::attention)
      layer(Names::exit_block(exit.layer), exit.head == HeadKind::attention);
    if (exit.head != HeadKind::bare && !exit.shared_norm) norm(Names::exit_norm(exit.layer));
    if (!exit.shared_output) vocabulary(Names::exit_output(exit.layer));
  }
  // A whole decoder layer; without_mlp: its attention half. GPT-2 lists its norms where they are used, Llama at the end.
  void layer(const std::string& prefix, bool without_mlp = false) {
    const LayerNames names = names_.below(prefix);
    if (names_.gpt2) norm(names.first_norm);
    attention(prefix, names);
    if (names_.gpt2 && !without_mlp) norm(names.second_norm);
    if (!without_mlp) mlp(names);
    if (!names_.gpt2) norm(names.first_norm);
    if (!names_.gpt2 && !without_mlp) norm(names.second_norm);
  }
  std::vector<ExportEntry> take() { return std::move(list_); }

 private:
  void attention(const std::string& prefix, const LayerNames& names) {
    const std::int64_t hidden = model_.hidden_size, queries = model_.num_attention_heads * model_.head_size(),
                       keys = model_.num_key_value_heads * model_.head_size();
    if (names_.gpt2) {
      linear(prefix + ".attn.c_attn", {names.query, names.key, names.value}, {queries, hidden});
    } else {
      linear(names.query, {names.query}, {queries, hidden});
      linear(names.key, {names.key}, {keys, hidden});
      linear(names.value, {names.value}, {keys, hidden});
    }
    linear(names.attention_output, {names.attention_output}, {hidden, queries});
  }
  void mlp(const LayerNames& names) {
    if (!names.gate.empty()) linear(names.gate, {names.gate}, {model_.intermediate_size, model_.hidden_size});
    linear(names.up, {names.up}, {model_.intermediate_size, model_.hidden_size});
    linear(names.down, {names.down}, {model_.hidden_size, model_.intermediate_size});
  }
  void as_it_is(const std::string& name, Shape shape) { list_.push_back({{name, shape}, {name}}); }
  // A linear map of the file, made of those of ours, each [out, in]. GPT-2's (transformers' Conv1D) have biases and stand the other
  // way round.
  void linear(const std::string& module, const std::vector<std::string>& parts, Shape each) {
    if (!names_.gpt2) return as_it_is(weight_of(module), each);
    ExportEntry weight{.transposed = true}, bias;
    const std::int64_t width = each[0] * static_cast<std::int64_t>(parts.size());
    weight.file = {weight_of(module), {each[1], width}};
    bias.file = {bias_of(module), {width}};
    for (const std::string& part : parts) {
      weight.parts.push_back(weight_of(part));
      bias.parts.push_back(bias_of(part));
    }
    list_.push_back(std::move(weight));
    list_.push_back(std::move(bias));
  }

  const ModelConfig& model_;
  Names names_;
  std::vector<ExportEntry> list_;
};

// Options that both architectures write, with the keys and values of transformers.
Json common_config(const ModelConfig& model, std::int64_t end_token, FloatType type) {
  Json json;
  json["initializer_range"] = model.initializer_range;
  json["tie_word_embeddings"] = model.tie_word_embeddings;
  json["bos_token_id"] = nullptr;  // left out, it would be a token of the original's vocabulary
  json["eos_token_id"] = end_token < 0 ? Json(nullptr) : Json(end_token);
  json["pad_token_id"] = nullptr;
  json["use_cache"] = true;
  json["torch_dtype"] = torch_name_of(type);  // version 4 reads this, version 5 the next
  json["dtype"] = torch_name_of(type);
  return json;
}

Json rope_type(const RopeScaling& scaling) {
  Json json = {{"rope_type", scaling.rope_type}};
  if (!scaling.llama3()) return json;
  json["factor"] = scaling.factor;
  json["low_freq_factor"] = scaling.low_freq_factor;
  json["high_freq_factor"] = scaling.high_freq_factor;
  json["original_max_position_embeddings"] = scaling.original_max_position_embeddings;
  return json;
}

Json llama_config(const ModelConfig& model) {
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
  json["rope_theta"] = model.rope_theta;  // version 4 reads this and rope_scaling, version 5 rope_parameters
  json["rope_parameters"] = rope_type(model.rope_scaling);
  json["rope_parameters"]["rope_theta"] = model.rope_theta;
  if (model.rope_scaling.llama3()) json["rope_scaling"] = rope_type(model.rope_scaling);
  json["rms_norm_eps"] = model.rms_norm_eps;
  json["attention_bias"] = false;
  json["mlp_bias"] = false;
  json["attention_dropout"] = model.attention_dropout;  // it has no word for hidden_dropout
  return json;
}

Json gpt2_config(const ModelConfig& model) {
  if (model.head_dim > 0) {
    fail(Exit::checkpoint, "{} heads of {} make {}, not the hidden size {}, which GPT-2's config.json has no words for",
         model.num_attention_heads, model.head_size(), model.num_attention_heads * model.head_size(), model.hidden_size);
  }
  Json json;
  json["architectures"] = {"GPT2LMHeadModel"};
  json["model_type"] = "gpt2";
  json["vocab_size"] = model.vocab_size;
  json["n_embd"] = model.hidden_size;
  json["n_inner"] = model.intermediate_size;
  json["n_layer"] = model.num_hidden_layers;
  json["n_head"] = model.num_attention_heads;
  json["n_positions"] = model.max_position_embeddings;
  json["activation_function"] = "gelu_new";  // the tanh form
  json["layer_norm_epsilon"] = model.layer_norm_epsilon;
  json["attn_pdrop"] = model.attention_dropout;
  json["resid_pdrop"] = model.hidden_dropout;
  json["embd_pdrop"] = model.hidden_dropout;
  json["scale_attn_weights"] = true;
  json["scale_attn_by_inverse_layer_idx"] = false;
  json["reorder_and_upcast_attn"] = false;
  json["add_cross_attention"] = false;
  return json;
}

std::vector<ExitSpec> in_layer_order(std::span<const ExitSpec> exits) {
  std::vector<ExitSpec> sorted(exits.begin(), exits.end());
  std::stable_sort(sorted.begin(), sorted.end(), [](const ExitSpec& a, const ExitSpec& b) { return a.layer < b.layer; });
  return sorted;
}

}  // namespace

void write_config_json(const std::string& directory, const ModelConfig& model, std::int64_t end_token, FloatType type) {
  Json json = model.gpt2() ? gpt2_config(model) : llama_config(model);
  json.update(common_config(model, end_token, type));
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

std::vector<ExportEntry> backbone_entries(const ModelConfig& model) {
  Entries entries(model);
  const Names& names = entries.names();
  entries.vocabulary(names.embedding);
  entries.positions();
  for (std::int64_t i = 0; i < model.num_hidden_layers; ++i) entries.layer(names.layer(i));
  entries.norm(names.final_norm);
  if (!model.tie_word_embeddings) entries.vocabulary(names.output);
  return entries.take();
}

std::vector<ExportEntry> exit_entries(const ModelConfig& model, std::span<const ExitSpec> exits) {
  Entries entries(model);
  for (const auto& exit : in_layer_order(exits)) entries.exit(exit);
  return entries.take();
}

}  // namespace offramp
