#include "checkpoint/huggingface_config.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <optional>
#include <set>
#include <string_view>
#include <vector>

#include "checkpoint/json_file.h"
#include "tensor/check.h"

namespace offramp {
namespace {

using Json = nlohmann::json;
using Names = std::initializer_list<std::string_view>;

constexpr std::int64_t kMaxSize = 2147483647, kMaxWidth = std::int64_t{1} << 28;  // so that no matrix overflows its count of elements

// Change nothing of what either architecture computes: of transformers' base class, of generation, of tools.
constexpr std::string_view kHarmless[] = {"architectures",
                                          "bad_words_ids",
                                          "begin_suppress_tokens",
                                          "bos_token_id",
                                          "decoder_start_token_id",
                                          "diversity_penalty",
                                          "do_sample",
                                          "dtype",
                                          "early_stopping",
                                          "encoder_no_repeat_ngram_size",
                                          "eos_token_id",
                                          "exponential_decay_length_penalty",
                                          "finetuning_task",
                                          "forced_bos_token_id",
                                          "forced_eos_token_id",
                                          "gradient_checkpointing",
                                          "id2label",
                                          "ignore_keys_at_rope_validation",
                                          "is_llama_config",
                                          "keys_to_ignore_at_inference",
                                          "label2id",
                                          "length_penalty",
                                          "max_length",
                                          "max_new_tokens",
                                          "min_length",
                                          "model_type",
                                          "n_ctx",
                                          "name_or_path",
                                          "no_repeat_ngram_size",
                                          "num_beam_groups",
                                          "num_beams",
                                          "num_labels",
                                          "num_return_sequences",
                                          "output_attentions",
                                          "output_hidden_states",
                                          "output_scores",
                                          "pad_token_id",
                                          "prefix",
                                          "pretraining_tp",
                                          "problem_type",
                                          "remove_invalid_values",
                                          "reorder_and_upcast_attn",
                                          "repetition_penalty",
                                          "return_dict",
                                          "return_dict_in_generate",
                                          "sep_token_id",
                                          "summary_activation",
                                          "summary_first_dropout",
                                          "summary_proj_to_labels",
                                          "summary_type",
                                          "summary_use_proj",
                                          "suppress_tokens",
                                          "task_specific_params",
                                          "temperature",
                                          "tf_legacy_loss",
                                          "tokenizer_class",
                                          "top_k",
                                          "top_p",
                                          "torch_dtype",
                                          "torchscript",
                                          "transformers.js_config",
                                          "transformers_version",
                                          "typical_p",
                                          "unk_token_id",
                                          "unsloth_fixed",
                                          "unsloth_version",
                                          "use_bfloat16",
                                          "use_cache"};

// The keys of one object. What is asked for is understood; refuse_rest() does what the header says of the others.
class Keys {
 public:
  Keys(const std::string& path, const Json& json, std::string prefix = "") : path_(path), json_(json), prefix_(std::move(prefix)) {}

  template <class... Args>
  [[noreturn]] void refuse(std::string_view key, fmt::format_string<Args...> text, Args&&... args) const {
    fail(Exit::checkpoint, "{}: {}{}: {}", path_, prefix_, key, fmt::format(text, std::forward<Args>(args)...));
  }

  // The value under the first of these names that is there and not null.
  const Json* find(Names names) {
    const Json* found = nullptr;
    for (const std::string_view name : names) {
      understood_.emplace(name);
      const auto it = json_.find(name);
      if (it == json_.end() || it->is_null()) continue;
      if (found && *found != *it) refuse(name, "contradicts {}", *names.begin());
      found = &*it;
    }
    return found;
  }
  const Json& require(Names names) {
    const Json* value = find(names);
    if (!value) refuse(*names.begin(), "is missing; the model's size cannot be known without it");
    return *value;
  }
  std::int64_t integer(Names names, std::optional<std::int64_t> otherwise, std::int64_t most = kMaxSize) {
    const Json* value = otherwise ? find(names) : &require(names);
    if (!value) return *otherwise;
    const bool sound = value->is_number_integer() && (!value->is_number_unsigned() || value->get<std::uint64_t>() <= kMaxSize) &&
                       value->get<std::int64_t>() >= 1 && value->get<std::int64_t>() <= most;
    if (!sound) refuse(*names.begin(), "expected a whole number from 1 to {}, found {}", most, shown(*value));
    return value->get<std::int64_t>();
  }
  double real(std::string_view name, std::optional<double> otherwise, bool zero_allowed = false) {
    const Json* value = otherwise ? find({name}) : &require({name});
    if (!value) return *otherwise;
    const double number = value->is_number() ? value->get<double>() : -1;
    const bool sound = std::isfinite(number) && (number > 0 || (zero_allowed && number == 0));
    if (!sound) refuse(name, "expected a number {} 0, found {}", zero_allowed ? "from" : "above", shown(*value));
    return number;
  }
  double probability(std::string_view name, double otherwise) {
    const double value = real(name, otherwise, true);
    if (value >= 1) refuse(name, "expected a probability below 1, found {}", value);
    return value;
  }
  bool flag(std::string_view name, bool otherwise) {
    const Json* value = find({name});
    if (!value) return otherwise;
    if (!value->is_boolean()) refuse(name, "expected true or false, found {}", shown(*value));
    return value->get<bool>();
  }
  std::string text(Names names, std::string_view otherwise) {
    const Json* value = find(names);
    if (!value) return std::string(otherwise);
    if (!value->is_string()) refuse(*names.begin(), "expected a word, found {}", shown(*value));
    return value->get<std::string>();
  }
  // Any of these is what is implemented; the first is what transformers takes where nothing is said.
  void only(std::string_view name, std::initializer_list<Json> values) {
    const Json* value = find({name});
    if (!value || std::find(values.begin(), values.end(), *value) != values.end()) return;
    refuse(name, "{} changes what the model computes and is not implemented; only {} is", shown(*value), shown(*values.begin()));
  }
  void refuse_rest(std::span<const std::string_view> harmless) const {
    for (const auto& [key, value] : json_.items()) {
      const bool off = value.is_null() || (value.is_boolean() && !value.get<bool>()) || (value.is_structured() && value.empty());
      const bool passes =
          off || understood_.contains(key) || key.starts_with('_') || std::find(harmless.begin(), harmless.end(), key) != harmless.end();
      if (!passes) {
        refuse(key,
               "is not known here, so it may change what the model computes, and is not implemented; if it does not, remove it from the "
               "file (it is {})",
               shown(value));
      }
    }
  }
  static std::string shown(const Json& value) {
    const std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
    return text.size() <= 60 ? text : text.substr(0, 57) + "...";
  }

 private:
  const std::string& path_;
  const Json& json_;
  std::string prefix_;
  std::set<std::string, std::less<>> understood_;
};

// An object with a rope_type: rope_scaling of transformers 4, rope_parameters of 5, which has rope_theta inside.
RopeScaling rope_scaling(const std::string& path, const Json& json, const std::string& name, double& theta) {
  if (!json.is_object()) fail(Exit::checkpoint, "{}: {}: expected an object, found {}", path, name, Keys::shown(json));
  Keys keys(path, json, name + ".");
  RopeScaling scaling{.rope_type = keys.text({"rope_type", "type"}, "default")};
  theta = keys.real("rope_theta", theta);
  keys.only("partial_rotary_factor", {1.0});
  if (scaling.llama3()) {
    scaling.factor = keys.real("factor", std::nullopt);
    scaling.low_freq_factor = keys.real("low_freq_factor", std::nullopt);
    scaling.high_freq_factor = keys.real("high_freq_factor", std::nullopt);
    scaling.original_max_position_embeddings = keys.integer({"original_max_position_embeddings"}, std::nullopt);
    if (scaling.factor < 1) keys.refuse("factor", "{} is below 1", scaling.factor);
    if (scaling.high_freq_factor <= scaling.low_freq_factor) keys.refuse("high_freq_factor", "is not more than low_freq_factor");
  } else if (scaling.rope_type != "default") {
    keys.refuse("rope_type", "'{}' changes what the model computes and is not implemented; only default and llama3 are", scaling.rope_type);
  }
  keys.refuse_rest({});
  return scaling;
}

void read_rope(const std::string& path, Keys& keys, ModelConfig& model) {
  const Json *scaling = keys.find({"rope_scaling"}), *parameters = keys.find({"rope_parameters"});
  const bool given = keys.find({"rope_theta"}) != nullptr;
  const double theta = keys.real("rope_theta", model.rope_theta);
  double of_scaling = theta, of_parameters = theta;
  if (scaling) model.rope_scaling = rope_scaling(path, *scaling, "rope_scaling", of_scaling);
  if (parameters) {
    const RopeScaling other = rope_scaling(path, *parameters, "rope_parameters", of_parameters);
    if (scaling && other != model.rope_scaling) keys.refuse("rope_parameters", "contradicts rope_scaling");
    model.rope_scaling = other;
  }
  if (given && parameters && of_parameters != theta) keys.refuse("rope_parameters", "its rope_theta contradicts rope_theta {}", theta);
  if (scaling && of_scaling != theta && of_scaling != of_parameters) keys.refuse("rope_scaling", "its rope_theta contradicts the other");
  model.rope_theta = parameters ? of_parameters : of_scaling;
}

void read_head_size(Keys& keys, ModelConfig& model) {
  const std::int64_t heads = model.num_attention_heads;
  if (heads > kMaxWidth) keys.refuse("num_attention_heads", "{} is more than {}", heads, kMaxWidth);
  if (!keys.find({"head_dim"}) && model.hidden_size % heads != 0) keys.refuse("num_attention_heads", "does not divide the hidden size");
  model.set_head_size(keys.integer({"head_dim"}, std::max<std::int64_t>(1, model.hidden_size / heads), kMaxWidth / heads));
  if (model.head_size() % 2 != 0) keys.refuse("head_dim", "{} is odd; rotary embeddings need pairs", model.head_size());
}

ModelConfig read_llama(const std::string& path, Keys& keys) {
  ModelConfig model;
  model.num_hidden_layers = keys.integer({"num_hidden_layers"}, std::nullopt);
  model.hidden_size = keys.integer({"hidden_size"}, std::nullopt, kMaxWidth);
  model.intermediate_size = keys.integer({"intermediate_size"}, std::nullopt, kMaxWidth);
  model.num_attention_heads = keys.integer({"num_attention_heads"}, std::nullopt);
  model.num_key_value_heads = keys.integer({"num_key_value_heads"}, model.num_attention_heads);
  model.vocab_size = keys.integer({"vocab_size"}, std::nullopt);
  model.max_position_embeddings = keys.integer({"max_position_embeddings"}, 2048);
  model.rms_norm_eps = keys.real("rms_norm_eps", 1e-6);
  model.attention_dropout = keys.probability("attention_dropout", 0);
  model.tie_word_embeddings = keys.flag("tie_word_embeddings", false);
  read_rope(path, keys, model);
  read_head_size(keys, model);
  keys.only("hidden_act", {"silu", "swish"});
  keys.only("partial_rotary_factor", {1.0});
  for (const std::string_view key : {"attention_bias", "mlp_bias", "rope_interleaved", "use_sliding_window"}) keys.only(key, {false});
  keys.only("sliding_window", {nullptr});
  if (const Json* layers = keys.find({"layer_types"})) {
    const auto full = [](const Json& type) { return type == "full_attention"; };
    if (!layers->is_array() || !std::all_of(layers->begin(), layers->end(), full))
      keys.refuse("layer_types", "only full_attention is implemented");
  }
  return model;
}

ModelConfig read_gpt2(Keys& keys) {
  ModelConfig model{.architecture = "gpt2"};
  model.num_hidden_layers = keys.integer({"n_layer", "num_hidden_layers"}, std::nullopt);
  model.hidden_size = keys.integer({"n_embd", "hidden_size"}, std::nullopt, kMaxWidth);
  model.intermediate_size = keys.integer({"n_inner", "intermediate_size"}, 4 * model.hidden_size, kMaxWidth * 4);
  model.num_attention_heads = model.num_key_value_heads = keys.integer({"n_head", "num_attention_heads"}, std::nullopt);
  model.vocab_size = keys.integer({"vocab_size"}, std::nullopt);
  model.max_position_embeddings = keys.integer({"n_positions", "max_position_embeddings"}, 1024);
  model.layer_norm_epsilon = keys.real("layer_norm_epsilon", 1e-5);
  model.attention_dropout = keys.probability("attn_pdrop", 0.1);
  model.hidden_dropout = keys.probability("resid_pdrop", 0.1);
  if (const double other = keys.probability("embd_pdrop", 0.1); other != model.hidden_dropout) {
    keys.refuse("embd_pdrop", "{} is not resid_pdrop {}; two rates are not implemented, write one into the file", other,
                model.hidden_dropout);
  }
  model.tie_word_embeddings = keys.flag("tie_word_embeddings", true);
  keys.only("activation_function", {"gelu_new", "gelu_pytorch_tanh"});  // two names of one function
  keys.only("scale_attn_weights", {true});
  keys.only("scale_attn_by_inverse_layer_idx", {false});
  return model;
}

void check_architecture(Keys& keys, const ModelConfig& model) {
  const std::vector<std::string> heads =
      model.gpt2() ? std::vector<std::string>{"GPT2LMHeadModel", "GPT2Model"} : std::vector<std::string>{"LlamaForCausalLM", "LlamaModel"};
  const Json* list = keys.find({"architectures"});
  if (!list || (list->is_array() && list->empty())) return;
  const auto known = [&](const Json& name) { return name.is_string() && std::find(heads.begin(), heads.end(), name) != heads.end(); };
  if (!list->is_array() || !std::all_of(list->begin(), list->end(), known))
    keys.refuse("architectures", "{} is not read, only {}", Keys::shown(*list), heads[0]);
}

void check_heads(Keys& keys, const ModelConfig& model) {
  if (model.gpt2() && model.hidden_size % model.num_attention_heads != 0)
    keys.refuse("num_attention_heads", "does not divide the hidden size");
  if (model.num_attention_heads % model.num_key_value_heads != 0) keys.refuse("num_key_value_heads", "does not divide num_attention_heads");
}

std::int64_t end_token(Keys& keys, const ModelConfig& model) {
  const Json* value = keys.find({"eos_token_id"});
  if (value && value->is_array() && !value->empty()) value = &value->front();
  const bool sound = value && value->is_number_unsigned() && value->get<std::uint64_t>() < static_cast<std::uint64_t>(model.vocab_size);
  return sound ? value->get<std::int64_t>() : -1;
}

}  // namespace

HuggingFaceConfig read_config_json(const std::string& directory) {
  const std::string path = directory + "/config.json";
  const Json json = read_json(path);
  Keys keys(path, json);
  const std::string type = keys.text({"model_type"}, "");
  if (type != "llama" && type != "gpt2") keys.refuse("model_type", "'{}' is not read, only llama and gpt2 are", type);
  HuggingFaceConfig config;
  config.model = type == "gpt2" ? read_gpt2(keys) : read_llama(path, keys);
  config.model.initializer_range = keys.real("initializer_range", 0.02);
  check_heads(keys, config.model);
  check_architecture(keys, config.model);
  keys.only("chunk_size_feed_forward", {0});
  keys.only("quantization_config", {nullptr});
  keys.only("auto_map", {Json::object()});  // code of the model's own
  config.end_token = end_token(keys, config.model);
  keys.refuse_rest(kHarmless);
  return config;
}

}  // namespace offramp
