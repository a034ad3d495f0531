#include "trainer/convert_commands.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <filesystem>
#include <random>

#include "checkpoint/check_tensors.h"
#include "checkpoint/export_source.h"
#include "checkpoint/gguf_source.h"
#include "checkpoint/gguf_tokenizer.h"
#include "checkpoint/gguf_writer.h"
#include "checkpoint/huggingface_source.h"
#include "checkpoint/publish.h"
#include "checkpoint/subnet_json.h"
#include "checkpoint/subnet_source.h"
#include "data/gguf_tokenizer.h"
#include "tensor/check.h"
#include "trainer/checkpoint_commands.h"
#include "trainer/frozen_base.h"
#include "trainer/resume.h"
#include "trainer/subnets.h"

namespace offramp {
namespace {

namespace fs = std::filesystem;

// "5GB", "500MB", a number of bytes.
std::uint64_t bytes_in(const std::string& text) {
  if (text.empty()) return 0;
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const std::string unit(end, text.data() + text.size());
  const double factor = unit == "GB" ? 1e9 : unit == "MB" ? 1e6 : unit == "KB" ? 1e3 : unit.empty() ? 1 : 0;
  if (error != std::errc() || factor == 0 || !(number * factor >= 1 && number * factor < 1e18))
    fail(Exit::configuration, "--max-shard-size {}: write a size such as 5GB or 500MB", text);
  return static_cast<std::uint64_t>(number * factor);
}

FloatType type_of(const std::string& dtype) {
  const auto type = float_type(dtype);
  if (!type) fail(Exit::configuration, "--dtype {}: there are fp32, bf16 and fp16", dtype);
  return *type;
}

// A checkpoint of weights alone, at step 0.
std::string import_from(TensorSource& source, const Config& config, std::int64_t end_token, const std::string& directory,
                        const std::function<void(const std::string&)>& add_tokenizer) {
  Manifest head{.run_id = fmt::format("{:08x}", std::random_device()())};
  for (auto& [key, value] : remembered(config))
    if (key.starts_with("model.") || key.starts_with("exits.")) head.configuration[key] = value;
  if (end_token >= 0) head.configuration[kEndToken] = std::to_string(end_token);
  head.made_by = made_by();
  std::vector<TensorOfKind> tensors;
  for (const TensorEntry& entry : source.entries()) tensors.push_back({kWeights, entry.name, entry.shape});
  const auto read = [&](const TensorOfKind& t, const Box& box, float* out) {
    source.read(t.tensor, box.row * box.columns, box.elements(), out);
  };
  write_checkpoint(directory, head, tensors, read, 1, add_tokenizer);
  return fmt::format("{}: {} tensors\n", step_directory(directory, 0), tensors.size());
}

std::string import_hf(const ConvertArguments& arguments) {
  HuggingFaceSource source(arguments.from);
  Config config;
  config.model = source.config(), config.exits = source.exits();
  return import_from(source, config, source.end_token(), arguments.to,
                     [&](const std::string& directory) { copy_tokenizer_files(arguments.from, directory); });
}

std::string import_gguf(const ConvertArguments& arguments) {
  GgufSource source(arguments.from);
  Config config;
  config.model = source.config();
  const GgufVocabulary& vocabulary = source.vocabulary();
  return import_from(source, config, vocabulary.eos, arguments.to, [&](const std::string& directory) {
    if (!vocabulary.tokens.empty()) write_tokenizer_files(tokenizer_files(vocabulary, arguments.from), directory);
  });
}

// A checkpoint as a model: the whole one, or what one of its exits makes of it.
struct Opened {
  explicit Opened(const std::string& path)
      : checkpoint(newest_sound(path)), config(model_of(checkpoint.manifest())), whole(weights_of(checkpoint, config.model)) {
    check_tensors(*whole, config.model, config.exits, checkpoint.directory());
    const auto it = checkpoint.manifest().configuration.find(kEndToken);
    if (it != checkpoint.manifest().configuration.end()) end_token = std::atoll(it->second.c_str());
  }
  bool has_tokenizer() const {
    return fs::exists(checkpoint.directory() + "/tokenizer.json") || fs::exists(checkpoint.directory() + "/tokenizer.model");
  }

  Checkpoint checkpoint;
  Config config;
  std::unique_ptr<TensorSource> whole;
  std::int64_t end_token = -1;
};

// What of it is exported: all, an exit's draft, or a subnet.
struct Outgoing {
  TensorSource* source = nullptr;
  ModelConfig model;
  std::vector<ExitSpec> exits;
  std::unique_ptr<TensorSource> part{};
};

Outgoing outgoing(Opened& from, const ConvertArguments& arguments, const Subnet& subnet) {
  const Config& config = from.config;
  if (arguments.exit > 0) {
    auto draft = std::make_unique<DraftSource>(*from.whole, config.model, config.exits, arguments.exit);
    return {draft.get(), draft->config(), draft->exits(), std::move(draft)};
  }
  if (subnet == Subnet{}) return {from.whole.get(), config.model, config.exits};
  check_subnet(subnet, subnets_of(from.checkpoint.manifest().supernet, config), config.model);
  auto part = std::make_unique<SubnetSource>(*from.whole, config.model, config.exits, subnet);
  return {part.get(), part->config(), part->exits(), std::move(part)};
}

void export_directory(const Opened& from, const Outgoing& out, const ConvertArguments& to) {
  HuggingFaceExport options{.directory = to.to, .exits = out.exits, .end_token = from.end_token};
  options.write_tokenizer = [&](const std::string& directory) { copy_tokenizer_files(from.checkpoint.directory(), directory); };
  options.type = type_of(to.dtype);
  options.max_shard_bytes = bytes_in(to.max_shard);
  export_source(*out.source, out.model, options);
}

std::string export_to(const ConvertArguments& arguments) {
  const Subnet subnet = arguments.subnet.empty() ? Subnet{} : parse_subnet(arguments.subnet);
  Opened from(arguments.from);
  const Outgoing out = outgoing(from, arguments, subnet);
  if (arguments.verb == ConvertArguments::Verb::export_gguf) {
    const GgufVocabulary vocabulary = from.has_tokenizer() ? read_gguf_vocabulary(from.checkpoint.directory()) : GgufVocabulary{};
    write_gguf(arguments.to, out.model, *out.source, vocabulary, type_of(arguments.dtype));
  } else {
    export_directory(from, out, arguments);
  }
  return fmt::format("{} from {}\n", arguments.to, from.checkpoint.directory());
}

}  // namespace

std::string run_convert_command(const ConvertArguments& arguments) {
  switch (arguments.verb) {
    case ConvertArguments::Verb::import_hf:
      return import_hf(arguments);
    case ConvertArguments::Verb::import_gguf:
      return import_gguf(arguments);
    default:
      return export_to(arguments);
  }
}

}  // namespace offramp
