#include "rig.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "tensor/random.h"

namespace offramp::testing {
namespace {

constexpr std::size_t kBytes = std::size_t{32} << 20;  // far more than these sizes take

Key key_of(const std::string& name) { return {.seed = 7, .use = Use::init, .id = hash(name)}; }

std::function<Tensor(Rig&)> hidden_input() {
  return [](Rig& rig) { return rig.numbers("x", {kTokens, tiny_config().hidden_size}); };
}

}  // namespace

Sequences one_document() { return {.length = kSequence}; }

Sequences two_documents(Rig& rig) {
  const auto begin = [](std::int64_t i) {
    const std::int64_t cut = i < kSequence ? 2 : 4;
    return i % kSequence < cut ? 0 : cut;
  };
  return {.length = kSequence,
          .positions = rig.integers({kTokens}, [=](std::int64_t i) { return i % kSequence - begin(i); }),
          .first_key = rig.integers({kTokens}, begin)};
}

Draws half_fall() {
  static constexpr std::array<float, 1> kHalf{0.5f};
  return {.on = true, .seed = 2, .first_sample = 4, .layer_rates = kHalf};
}

ModelConfig tiny_config(const std::string& architecture) {
  return {.architecture = architecture,
          .num_hidden_layers = 5,
          .hidden_size = 16,
          .intermediate_size = 24,
          .num_attention_heads = 4,
          .num_key_value_heads = architecture == "gpt2" ? 4 : 2,
          .vocab_size = 37,
          .max_position_embeddings = 8};
}

std::vector<ExitSpec> every_exit() {
  return {{.layer = 1, .head = HeadKind::bare, .loss_weight = 0.1},
          {.layer = 2, .head = HeadKind::norm, .loss_weight = 0.2},
          {.layer = 3, .head = HeadKind::mlp, .loss_weight = 0.3},
          {.layer = 4, .head = HeadKind::block, .loss_weight = 0.4},
          {.layer = 5, .head = HeadKind::attention, .loss_weight = 0.5}};
}

std::vector<ExitSpec> every_exit_towards(Target target) {
  std::vector<ExitSpec> exits = every_exit();
  for (ExitSpec& exit : exits) exit.target = target;
  return exits;
}

Rig::Rig(Backing backing) : memory(backing, kBytes), slab(backing, kBytes), scratch(backing, kBytes) {
  ctx.scratch = &scratch;
  if (backing == Backing::none) ctx.meter = &meter;
}

Tensor Rig::numbers(const std::string& name, Shape shape, double deviation) {
  const Tensor t = tensor(shape);
  for (std::int64_t i = 0; real() && i < t.elements(); ++i) {
    t.as<float>()[i] = static_cast<float>(deviation) * normal(key_of(name), static_cast<std::uint64_t>(i));
  }
  return t;
}

Tensor Rig::integers(Shape shape, const std::function<std::int64_t(std::int64_t)>& value) {
  const Tensor t = tensor(shape, DType::i32);
  for (std::int64_t i = 0; real() && i < t.elements(); ++i) t.as<std::int32_t>()[i] = static_cast<std::int32_t>(value(i));
  return t;
}

float test_value(const std::string& name, const Shape& global, std::int64_t index) {
  const bool matrix = global.rank == 2;
  const double deviation = matrix ? 1 / std::sqrt(static_cast<double>(global[1])) : 0.3;
  const float mean = matrix || name.ends_with(".bias") ? 0 : 1;  // gains are about 1
  return mean + static_cast<float>(deviation) * normal(key_of(name), static_cast<std::uint64_t>(index));
}

void bind(Rig& rig, Model& model, const ValueOf& value) {
  const Visitor give = [&](Parameter& p) {
    p.value = rig.tensor(p.shape, model.precision);
    p.grad = rig.tensor(p.shape);
    if (!rig.real()) return;
    const Tensor exact = rig.tensor(p.shape);
    for (const Piece& piece : p.pieces) {
      runs(piece, [&](const Run& run) {
        for (std::int64_t i = 0; i < run.count; ++i)
          exact.as<float>()[run.local + i] = value ? value(piece, run.global + i) : test_value(piece.name, piece.global, run.global + i);
      });
    }
    copy(rig.ctx, p.value, exact);
  };
  for (Unit& unit : model.units) unit.module->visit(give);
  for (Head& head : model.heads) head.visit(give);
}

std::shared_ptr<Model> make_model(Rig& rig, const ModelConfig& config, const std::vector<ExitSpec>& exits, const ModelOptions& options,
                                  const ValueOf& value) {
  auto model = std::make_shared<Model>(build_model(config, exits, options));
  bind(rig, *model, value);
  model->prepare(rig.ctx, rig.memory);
  return model;
}

void run_unit(Rig& rig, Module& unit, Keep keep, Tensor y, Tensor x, const Sequences& sequences, Tensor dx, Tensor dy, const Draws& draws) {
  Slot slot(rig.slab, keep, sequences, draws);
  unit.forward(rig.ctx, y, x, slot);
  if (!dy.defined()) return;
  unit.backward(rig.ctx, dx, dy, slot);
  EXPECT_TRUE(slot.empty()) << "a backward must pop all that its forward pushed";
}

// The loss of a unit is the product of its output with fixed numbers, which are then its dy.
Subject unit_subject(std::string name, std::shared_ptr<Model> model, int number, Sequences sequences, Draws draws) {
  Unit* unit = &model->units[static_cast<std::size_t>(number)];
  const auto run = [model, unit, sequences, draws](Rig& rig, Tensor dx, Tensor x, bool train) {
    const std::size_t slab = rig.slab.mark(), memory = rig.memory.mark();
    const Shape shape{kTokens, model->config.hidden_size};
    const Tensor y = rig.tensor(shape), dy = rig.numbers("dy", shape);
    run_unit(rig, *unit->module, train ? Keep::everything : Keep::nothing, y, x, sequences, dx, train ? dy : Tensor{}, draws);
    const double loss = rig.real() ? dot(y, dy) : 0;
    rig.slab.release(slab);
    rig.memory.release(memory);
    return loss;
  };
  const auto ids = [](Rig& rig) { return rig.integers({kTokens}, [](std::int64_t i) { return i * i % 5; }); };
  return {.name = std::move(name),
          .visit = [unit](const Visitor& visitor) { unit->module->visit(visitor); },
          .input = number == 0 ? ids : hidden_input(),
          .loss = [run](Rig& rig, Tensor x) { return run(rig, {}, x, false); },
          .gradient = [run](Rig& rig, Tensor dx, Tensor x) { return run(rig, dx, x, true); }};
}

Subject head_subject(Rig& rig, std::shared_ptr<Model> model, int number, Draws draws, std::optional<float> taught_at) {
  Head* head = &model->heads[static_cast<std::size_t>(number)];
  const Teacher teacher{taught_at ? rig.numbers("teacher", {kTokens, model->config.hidden_size}) : Tensor{}, &model->heads.back().output()};
  const Tensor labels = rig.integers({kTokens}, [](std::int64_t i) { return i % 5 == 3 ? -1 : i * 7 % 37; });
  const Tensor scale = rig.tensor({1});
  if (rig.real()) *scale.as<float>() = 0.25f;
  const Sequences sequences = two_documents(rig);
  const auto run = [=](Rig& r, Tensor dx, Tensor x, bool train) {
    const std::size_t memory = r.memory.mark();
    const Tensor sums = r.tensor({kLossSums}, DType::f64);
    if (r.real()) fill_zero(r.ctx, sums);
    const HeadIn in{.x = x, .labels = labels, .scale = scale, .draws = draws, .teacher = teacher, .temperature = taught_at.value_or(1.0f)};
    head->exit(r.ctx, dx, sums, in, sequences, train);
    const double loss = r.real() ? 0.25 * sums.as<double>()[1] : 0;
    r.memory.release(memory);
    return loss;
  };
  return {.name = std::string(name_of(head->spec().head)) + (number + 1 == std::ssize(model->heads) ? " (final)" : "") +
                  (taught_at ? fmt::format(" towards {} at {}", static_cast<int>(head->spec().target), *taught_at) : ""),
          .visit = [head, model](const Visitor& visitor) { head->visit(visitor); },
          .input = hidden_input(),
          .loss = [run](Rig& r, Tensor x) { return run(r, {}, x, false); },
          .gradient = [run](Rig& r, Tensor dx, Tensor x) { return run(r, dx, x, true); }};
}

std::vector<Subject> subjects(Rig& rig) {
  const auto model = make_model(rig, tiny_config(), every_exit()), gpt2 = make_model(rig, tiny_config("gpt2"), every_exit());
  ModelConfig config = tiny_config();
  config.num_key_value_heads = 4;
  const auto ungrouped = make_model(rig, config, {});
  config.num_key_value_heads = 1;
  const auto one_group = make_model(rig, config, {});
  std::vector<Subject> all;
  all.push_back(unit_subject("embedding", model, 0, one_document()));
  all.push_back(unit_subject("attention", model, 1, one_document()));
  all.push_back(unit_subject("attention within documents", model, 1, two_documents(rig)));
  all.push_back(unit_subject("attention with a group a head", ungrouped, 1, one_document()));
  all.push_back(unit_subject("attention with one group", one_group, 1, one_document()));
  all.push_back(unit_subject("mlp", model, 2, one_document()));
  for (int head = 0; head < std::ssize(model->heads); ++head) all.push_back(head_subject(rig, model, head));
  all.push_back(unit_subject("embedding of GPT-2", gpt2, 0, one_document()));
  all.push_back(unit_subject("embedding of GPT-2 within documents", gpt2, 0, two_documents(rig)));
  all.push_back(unit_subject("attention of GPT-2", gpt2, 1, two_documents(rig)));
  all.push_back(unit_subject("mlp of GPT-2", gpt2, 2, one_document()));
  for (int head = 0; head < std::ssize(gpt2->heads); ++head) all.push_back(head_subject(rig, gpt2, head));
  for (const auto& [target, temperature] :
       {std::pair{Target::labels, 1.0f}, {Target::argmax, 1.0f}, {Target::distribution, 1.0f}, {Target::distribution, 2.5f}}) {
    const auto taught = make_model(rig, tiny_config(), every_exit_towards(target));
    for (int head = 0; head + 1 < std::ssize(taught->heads); ++head) all.push_back(head_subject(rig, taught, head, {}, temperature));
  }
  for (const char* architecture : {"llama", "gpt2"}) {
    config = tiny_config(architecture);
    config.attention_dropout = 0.3, config.hidden_dropout = 0.2;
    const auto dropping = make_model(rig, config, every_exit());
    for (const int unit : {0, 1, 2})
      all.push_back(unit_subject(fmt::format("unit {} of {}, dropping", unit, architecture), dropping, unit, one_document(), half_fall()));
    for (const int head : {2, 3}) all.push_back(head_subject(rig, dropping, head, half_fall()));
  }
  return all;
}

void zero_gradients(Rig& rig, const std::function<void(const Visitor&)>& visit) {
  visit([&](Parameter& p) { fill_zero(rig.ctx, p.grad); });
}

std::vector<std::vector<float>> gradients(const std::function<void(const Visitor&)>& visit) {
  std::vector<std::vector<float>> all;
  visit([&](Parameter& p) { all.push_back(values(p.grad)); });
  return all;
}

std::vector<float> values(Tensor t) {
  if (t.dtype == DType::f32) return {t.as<float>(), t.as<float>() + t.elements()};
  std::vector<float> widened;
  for (std::int64_t i = 0; i < t.elements(); ++i) widened.push_back(static_cast<float>(t.as<bf16>()[i]));
  return widened;
}

double dot(Tensor a, Tensor b) {
  double sum = 0;
  for (std::int64_t i = 0; i < a.elements(); ++i) sum += static_cast<double>(a.as<float>()[i]) * static_cast<double>(b.as<float>()[i]);
  return sum;
}

}  // namespace offramp::testing
