#include "rig.h"

#include <algorithm>
#include <cmath>

#include "tensor/random.h"

namespace offramp::testing {
namespace {

constexpr std::size_t kBytes = std::size_t{32} << 20;  // far more than these sizes take

Key key_of(const std::string& name) { return {.seed = 7, .use = Use::init, .id = hash(name)}; }

Sequences one_document() { return {.length = kSequence}; }

// Two documents in each sequence, the second of them from row 2 or 4 on: positions restart, and attention stops there.
Sequences two_documents(Rig& rig) {
  const auto begin = [](std::int64_t i) {
    const std::int64_t cut = i < kSequence ? 2 : 4;
    return i % kSequence < cut ? 0 : cut;
  };
  return {.length = kSequence,
          .positions = rig.integers({kTokens}, [=](std::int64_t i) { return i % kSequence - begin(i); }),
          .first_key = rig.integers({kTokens}, begin)};
}

std::function<Tensor(Rig&)> hidden_input() {
  return [](Rig& rig) { return rig.numbers("x", {kTokens, tiny_config().hidden_size}); };
}

}  // namespace

ModelConfig tiny_config() {
  return {.num_hidden_layers = 5,
          .hidden_size = 16,
          .intermediate_size = 24,
          .num_attention_heads = 4,
          .num_key_value_heads = 2,
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

void bind(Rig& rig, Model& model) {
  const Visitor give = [&](Parameter& p) {
    const bool matrix = p.shape.rank == 2;
    p.value = rig.numbers(p.name(), p.shape, matrix ? 1 / std::sqrt(static_cast<double>(p.shape[1])) : 0.3);
    for (std::int64_t i = 0; rig.real() && !matrix && i < p.shape[0]; ++i) p.value.as<float>()[i] += 1;  // gains are about 1
    p.grad = rig.tensor(p.shape);
  };
  for (Unit& unit : model.units) unit.module->visit(give);
  for (Head& head : model.heads) head.visit(give);
}

std::shared_ptr<Model> make_model(Rig& rig, const ModelConfig& config, const std::vector<ExitSpec>& exits) {
  auto model = std::make_shared<Model>(build_model(config, exits));
  bind(rig, *model);
  model->prepare(rig.ctx, rig.memory);
  return model;
}

void run_unit(Rig& rig, Module& unit, Keep keep, Tensor y, Tensor x, const Sequences& sequences, Tensor dx, Tensor dy) {
  Slot slot(rig.slab, keep, sequences);
  unit.forward(rig.ctx, y, x, slot);
  if (!dy.defined()) return;
  unit.backward(rig.ctx, dx, dy, slot);
  EXPECT_TRUE(slot.empty()) << "a backward must pop all that its forward pushed";
}

// The loss of a unit is the product of its output with fixed numbers, which are then its dy.
Subject unit_subject(std::string name, std::shared_ptr<Model> model, int number, Sequences sequences) {
  Unit* unit = &model->units[static_cast<std::size_t>(number)];
  const auto run = [model, unit, sequences](Rig& rig, Tensor dx, Tensor x, bool train) {
    const std::size_t slab = rig.slab.mark(), memory = rig.memory.mark();
    const Shape shape{kTokens, model->config.hidden_size};
    const Tensor y = rig.tensor(shape), dy = rig.numbers("dy", shape);
    run_unit(rig, *unit->module, train ? Keep::everything : Keep::nothing, y, x, sequences, dx, train ? dy : Tensor{});
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

Subject head_subject(Rig& rig, std::shared_ptr<Model> model, int number) {
  Head* head = &model->heads[static_cast<std::size_t>(number)];
  const Tensor labels = rig.integers({kTokens}, [](std::int64_t i) { return i % 5 == 3 ? -1 : i * 7 % 37; });
  const Tensor scale = rig.tensor({1});
  if (rig.real()) *scale.as<float>() = 0.25f;
  const Sequences sequences = two_documents(rig);
  const auto run = [=](Rig& r, Tensor dx, Tensor x, bool train) {
    const std::size_t memory = r.memory.mark();
    const Tensor sums = r.tensor({kLossSums}, DType::f64);
    if (r.real()) fill_zero(r.ctx, sums);
    head->exit(r.ctx, dx, sums, {.x = x, .labels = labels, .scale = scale}, sequences, train);
    const double loss = r.real() ? 0.25 * sums.as<double>()[1] : 0;
    r.memory.release(memory);
    return loss;
  };
  return {.name = std::string(name_of(head->spec().head)) + (number + 1 == std::ssize(model->heads) ? " (final)" : ""),
          .visit = [head, model](const Visitor& visitor) { head->visit(visitor); },
          .input = hidden_input(),
          .loss = [run](Rig& r, Tensor x) { return run(r, {}, x, false); },
          .gradient = [run](Rig& r, Tensor dx, Tensor x) { return run(r, dx, x, true); }};
}

std::vector<Subject> subjects(Rig& rig) {
  const auto model = make_model(rig, tiny_config(), every_exit());
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

std::vector<float> values(Tensor t) { return {t.as<float>(), t.as<float>() + t.elements()}; }

double dot(Tensor a, Tensor b) {
  double sum = 0;
  for (std::int64_t i = 0; i < a.elements(); ++i) sum += static_cast<double>(a.as<float>()[i]) * static_cast<double>(b.as<float>()[i]);
  return sum;
}

}  // namespace offramp::testing
