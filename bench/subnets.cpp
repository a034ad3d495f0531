// What subnets cost against their share of the whole model's FLOPs: forward, and forward and backward, of a layer's two halves and of the
// final head, of a small model's and a larger one's sizes.  OMP_NUM_THREADS=2 bench_subnets
// "0.29 / 0.25": the time and the FLOPs, both against the whole's.
#include <fmt/format.h>
#include <omp.h>

#include <algorithm>

#include "bench/time_of.h"
#include "models/flat.h"
#include "models/model.h"

namespace offramp {
namespace {

constexpr std::int64_t kLength = 256, kTokens = 1024;

struct Spent {
  double seconds = 0, flops = 0;  // of a planned one the FLOPs alone
};

class Bench {
 public:
  Bench(const ModelConfig& config, const Space& space, DType type, Backing backing)
      : memory_(backing, std::size_t{2} << 30),
        slab_(backing, std::size_t{256} << 20),
        scratch_(backing, std::size_t{512} << 20),
        context_{.scratch = &scratch_, .meter = backing == Backing::none ? &meter_ : nullptr},
        model_(build_model(config, {}, {.precision = type, .space = space})) {
    std::vector<FlatEntry> entries;
    const Visitor add = [&](Parameter& p) { entries.push_back({.parameter = &p}); };
    for (Unit& unit : model_.units) unit.module->visit(add);
    model_.heads.back().visit(add);
    Flat flat(memory_, entries, {.values = type});
    if (!planned()) flat.initialize(context_, 1);
    model_.prepare(context_, memory_);
  }

  // unit 1: attention, 2: MLP, 3: the final head.
  Spent spend(int unit, const Subnet& subnet, bool train) {
    const std::size_t mark = memory_.mark();
    const Shape shape{kTokens, spelled_out(subnet, model_.config).hidden_size};
    const Tensor x = memory_.tensor(shape, model_.precision), y = memory_.tensor(shape, model_.precision);
    const Tensor labels = memory_.tensor({kTokens}, DType::i32), scale = memory_.tensor({1}, DType::f32);
    const Tensor sums = memory_.tensor({kLossSums}, DType::f64);
    meter_ = {};
    const auto work = [&] {
      if (unit == 3)
        return model_.heads.back().exit(context_, y, sums, {.x = x, .labels = labels, .scale = scale}, {.length = kLength}, train);
      Slot slot(slab_, train ? Keep::everything : Keep::nothing, {.length = kLength}, {}, subnet);
      model_.units[static_cast<std::size_t>(unit)].module->forward(context_, y, x, slot);
      if (train) model_.units[static_cast<std::size_t>(unit)].module->backward(context_, x, y, slot);
      slab_.reset();
    };
    Spent spent;
    if (planned()) {
      work();
      spent.flops = meter_.total.flops;
    } else {
      for (const Tensor& t : {x, y, labels, sums}) fill_zero(context_, t);
      spent.seconds = time_of(work);
    }
    memory_.release(mark);
    return spent;
  }

 private:
  bool planned() const { return context_.meter != nullptr; }

  Meter meter_;
  Arena memory_, slab_, scratch_;
  Context context_;
  Model model_;
};

void compare(const char* name, const ModelConfig& config, const Space& space, DType type) {
  Bench real(config, space, type, Backing::host), plan(config, space, type, Backing::none);
  const auto spend = [&](int unit, const Subnet& subnet, bool train) {
    return Spent{real.spend(unit, subnet, train).seconds, plan.spend(unit, subnet, train).flops};
  };
  const ModelConfig& c = config;
  const std::vector<Subnet> subnets = {{.intermediate_size = c.intermediate_size / 4},
                                       {.num_key_value_heads = c.num_key_value_heads / 2},
                                       {.queries_per_group = 1},
                                       {.hidden_size = c.hidden_size / 2},
                                       smallest(space)};
  for (const bool train : {false, true}) {
    for (const Subnet& subnet : subnets) {
      fmt::print("{:6} {:4} {:8}", name, name_of(type), train ? "training" : "forward");
      Spent all, part;
      for (const int unit : {1, 2, 3}) {
        const Spent of = spend(unit, {}, train), mine = spend(unit, subnet, train);
        const double times = unit == 3 ? 1 : static_cast<double>(c.num_hidden_layers);
        all.seconds += times * of.seconds, all.flops += times * of.flops, part.seconds += times * mine.seconds,
            part.flops += times * mine.flops;
        fmt::print("   {} {:4.2f} / {:4.2f}",
                   unit == 1   ? "attention"
                   : unit == 2 ? "mlp"
                               : "head",
                   mine.seconds / of.seconds, mine.flops / of.flops);
      }
      fmt::print("   model {:4.2f} / {:4.2f}: {:4.2f}   {}\n", part.seconds / all.seconds, part.flops / all.flops,
                 part.seconds / all.seconds / (part.flops / all.flops), to_text(subnet));
    }
  }
}

}  // namespace
}  // namespace offramp

int main() {
  using namespace offramp;
  fmt::print("{} threads\n", omp_get_max_threads());
  const auto sizes = [](std::int64_t hidden, std::int64_t ffn) {
    return ModelConfig{.num_hidden_layers = 8,
                       .hidden_size = hidden,
                       .intermediate_size = ffn,
                       .num_attention_heads = 8,
                       .num_key_value_heads = 4,
                       .vocab_size = 8192,
                       .max_position_embeddings = 512};
  };
  const auto space = [](const ModelConfig& c) {
    return Space{.hidden_size = {c.hidden_size / 2, c.hidden_size},
                 .intermediate_size = {c.intermediate_size / 4, c.intermediate_size / 2, c.intermediate_size},
                 .num_key_value_heads = {2, 4},
                 .queries_per_group = {1, 2}};
  };
  for (const DType type : {DType::f32, DType::bf16}) {
    compare("small", sizes(256, 688), space(sizes(256, 688)), type);
    compare("larger", sizes(1024, 2752), space(sizes(1024, 2752)), type);
  }
}
