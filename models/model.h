// A model is a list of units and a list of heads that tap between them. Building one takes no memory but for names and shapes:
// every rank builds the whole model, knows by it where every parameter lives, and binds memory (Flat) only to its own part.
#pragma once
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "models/head.h"

namespace offramp {

struct Unit {
  int layer = 0;  // from 1; the embedding is 0
  ModulePtr module;
};

// In a unit's place: not what an exit reads, but what the final head does, below its output matrix.
inline constexpr int kFinalTap = -1;

struct Model {
  ModelConfig config;
  TensorParallel tensor;
  DType precision = DType::f32;  // of weights and activations
  PipelinePart head_part{};      // of every output matrix
  Space space{};                 // of the subnets that passes may run
  // The backbone is frozen: units end with the last exit's tap, unless exits learn from the final head, and that is none of the heads.
  bool frozen = false;
  // The final head as exits learn from it: the last stage has its norm, and every stage with exits a copy of its output matrix.
  std::optional<Head> final{};
  bool given_taps = false;             // units have names alone, no memory: what exits read comes from elsewhere
  std::vector<Unit> units;             // embedding; then attention and MLP of each layer
  std::vector<Head> heads;             // exits in layer order; then the final head
  std::shared_ptr<Tensor> rope_table;  // [max_position, d], shared by all attention units; null: this architecture has none

  // Computes the tables that units read, in memory of the arena. Once, before the first forward.
  void prepare(Context& ctx, Arena& arena);
};
struct ModelOptions {
  TensorParallel tensor;  // a planned group will do to know what a rank holds
  DType precision = DType::f32;
  PipelinePart heads{};  // of every output matrix, the final one's too
  // EE-Tuning (arXiv 2402.00518): only the exits' own tensors learn, each exit clipped by itself; nothing goes back into a tap.
  bool frozen_backbone = false;
  bool given_taps = false;  // of a frozen one
  bool teaches = false;     // exits learn from the final head, whatever their targets are
  Space space{};            // what passes may use of the units' axes; empty: all of them
};
// Throws Error(Exit::configuration) for an architecture it does not know.
Model build_model(const ModelConfig& config, std::span<const ExitSpec> exits, const ModelOptions& options = {});

// What a model is now, to teach from later on: units, the final head as `final`, and no other, all of them frozen and cut like the model's
// own, in memory of their own. Tables are the model's.
Model build_teacher(const Model& of);

// Of a Llama's heads, for the table and for formats that store what became of them.
RopeFrequencies rope_frequencies(const ModelConfig& config);

// Units of the transformer (models/attention.cpp, mlp.cpp, embedding.cpp). `prefix` is a layer's Hugging Face name,
// "model.layers.3" or "exits.4.block"; every parameter of the unit is the owner's.
struct UnitOptions {
  std::string prefix;
  Ownership owner;
  std::string norm_name;  // another logical name for the norm (the mlp exit's copy of its layer's); empty: the layer's own
  Ownership norm_owner;   // of a norm with another name: somebody else's, whose learning rate is not the unit's to scale
  int layer = 0;          // of the backbone, from 1, which LayerSkip may leave out; 0: an exit's own
  TensorParallel tensor;
  Space space{};  // as in ModelOptions
};
// Deviation at the start of the matrices that write to the residual stream: initializer_range / sqrt(2 L).
double residual_deviation(const ModelConfig& config);
ModulePtr make_embedding(const ModelConfig& config, const TensorParallel& tensor);  // x [n] i32 -> y [rows, h]
ModulePtr make_attention(const ModelConfig& config, const UnitOptions& options, std::shared_ptr<const Tensor> rope_table);
ModulePtr make_mlp(const ModelConfig& config, const UnitOptions& options);
// exits.<layer>.* of one exit; `tap` is a unit's number.
Head make_head(const Model& model, const ExitSpec& exit, int tap);

}  // namespace offramp
