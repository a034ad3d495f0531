// What the tests of models/ run on: a Rig owns the memory of one context (real, or planned), and subjects() lists every unit and
// every head kind in one form, so that each promise of module.h and head.h is checked for all of them by the same lines.
//
//   Rig rig(Backing::host);
//   for (const Subject& s : subjects(rig)) { const Tensor x = s.input(rig); s.gradient(rig, rig.like(x), x); }
#pragma once
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "models/model.h"

namespace offramp::testing {

inline constexpr std::int64_t kSequence = 6, kTokens = 12;  // an odd vocabulary and few tokens: every edge of a kernel's blocks

// Five layers, one for an exit of each kind; two key-value heads, each with two query heads. A GPT-2 has four heads.
ModelConfig tiny_config(const std::string& architecture = "llama");
std::vector<ExitSpec> every_exit();  // bare at layer 1, norm 2, mlp 3, block 4, attention 5
std::vector<ExitSpec> every_exit_towards(Target target);

struct Rig {
  explicit Rig(Backing backing);
  Rig(const Rig&) = delete;
  Rig& operator=(const Rig&) = delete;

  Tensor tensor(Shape shape, DType dtype = DType::f32) { return memory.tensor(shape, dtype); }
  Tensor like(Tensor t) { return tensor(t.shape, t.dtype); }
  Tensor numbers(const std::string& name, Shape shape, double deviation = 1);  // normal numbers, another sequence for every name
  Tensor integers(Shape shape, const std::function<std::int64_t(std::int64_t)>& value);
  bool real() const { return !ctx.planning(); }

  Arena memory, slab, scratch;
  Meter meter;
  Context ctx;
};

// Memory and test values for all parameters: numbers of about 1, so that no part of a unit vanishes beside its residual. An element
// has the same value at every layout, rounded to the model's precision.
// `value`: what else element `index` of a logical tensor is.
using ValueOf = std::function<float(const Piece& piece, std::int64_t index)>;
float test_value(const std::string& name, const Shape& global, std::int64_t index);
void bind(Rig& rig, Model& model, const ValueOf& value = {});
std::shared_ptr<Model> make_model(Rig& rig, const ModelConfig& config, const std::vector<ExitSpec>& exits, const ModelOptions& options = {},
                                  const ValueOf& value = {});

struct Subject {
  std::string name;
  std::function<void(const Visitor&)> visit;
  std::function<Tensor(Rig&)> input;                          // x
  std::function<double(Rig&, Tensor x)> loss;                 // forward alone, keeping nothing
  std::function<double(Rig&, Tensor dx, Tensor x)> gradient;  // forward and backward: dx =, the parameters' gradients +=
};
std::vector<Subject> subjects(Rig& rig);
Subject unit_subject(std::string name, std::shared_ptr<Model> model, int unit, Sequences sequences, Draws draws = {});
// taught: beside a teacher, the model's own final head over numbers of its own.
Subject head_subject(Rig& rig, std::shared_ptr<Model> model, int head, Draws draws = {},
                     std::optional<float> taught_at = {});  // the temperature, of a teacher beside it

Sequences one_document();
// Two documents in each sequence, the second of them from row 2 or 4 on: positions restart, and attention stops there.
Sequences two_documents(Rig& rig);
// Draws of which a chance of one half drops the first of the two samples out of the first layer, not the second.
Draws half_fall();

// A unit's y, or with dy its dx (undefined: not wanted). The slab keeps what it took until the end.
void run_unit(Rig& rig, Module& unit, Keep keep, Tensor y, Tensor x, const Sequences& sequences, Tensor dx = {}, Tensor dy = {},
              const Draws& draws = {});

void zero_gradients(Rig& rig, const std::function<void(const Visitor&)>& visit);
std::vector<std::vector<float>> gradients(const std::function<void(const Visitor&)>& visit);
std::vector<float> values(Tensor t);  // of f32 or bf16
double dot(Tensor a, Tensor b);

}  // namespace offramp::testing
