// logits CHECKPOINT TOKENS LENGTH OUTPUT: what our model says, for tests that ask others the same.
//
// CHECKPOINT is a step's directory, or a directory of them. TOKENS holds samples of LENGTH + 1 token ids, i32. OUTPUT gets the logits
// f32 [samples, heads, LENGTH, vocabulary] of every exit in layer order and then of the final head, one after the other, as the units
// and heads of training compute them. Printed is the mean loss of each head, {"1": 5.2, "final": 5.1}, as validation computes it.
#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>

#include "checkpoint/input_file.h"
#include "checkpoint/state.h"
#include "tensor/check.h"
#include "trainer/checkpoint_commands.h"
#include "trainer/frozen_base.h"
#include "trainer/resume.h"

namespace offramp {
namespace {

class Speaker {
 public:
  Speaker(Machine& machine, const std::string& output)
      : machine_(machine), ctx_(machine.context()), input_(machine.inputs().front()), output_(output, std::ios::binary) {
    const ModelConfig& config = machine.model().config;
    const std::int64_t n = input_.ids.elements();
    arena_ = Arena(Backing::host, aligned(static_cast<std::size_t>(n * config.vocab_size) * 4) +
                                      machine.model().units.size() * aligned(static_cast<std::size_t>(n * config.hidden_size) * 4));
    logits_ = arena_.tensor({n, config.vocab_size}, DType::f32);
    for (std::size_t unit = 0; unit < machine.model().units.size(); ++unit)
      outputs_.push_back(arena_.tensor({n, config.hidden_size}, DType::f32));
  }

  // ids [length + 1]
  void say(const std::int32_t* ids) {
    const std::int64_t n = input_.ids.elements();
    std::copy_n(ids, n, input_.ids.as<std::int32_t>());
    std::copy_n(ids + 1, n, input_.labels.as<std::int32_t>());
    PhaseTimes times;
    machine_.evaluate(1, "a sample", times);
    run_units();
    for (Head& head : machine_.model().heads) {
      head.logits(ctx_, logits_, outputs_[static_cast<std::size_t>(head.tap())], input_.sequences);
      output_.write(reinterpret_cast<const char*>(logits_.as<float>()), static_cast<std::streamsize>(logits_.bytes()));
    }
    output_.flush();
    if (!output_) fail(Exit::data, "the output cannot be written");
  }

 private:
  void run_units() {
    Tensor x = input_.ids;
    for (std::size_t i = 0; i < outputs_.size(); ++i) {
      Scratch scope(ctx_);
      Slot slot(*ctx_.scratch, Keep::nothing, input_.sequences);
      machine_.model().units[i].module->forward(ctx_, outputs_[i], x, slot);
      x = outputs_[i];
    }
  }

  Machine& machine_;
  Context& ctx_;
  MicrobatchInput& input_;
  std::ofstream output_;
  Arena arena_;
  Tensor logits_;
  std::vector<Tensor> outputs_;  // of each unit [n, hidden]
};

std::string losses(Machine& machine) {
  std::vector<std::string> all;
  const std::vector<Head>& heads = machine.model().heads;
  for (std::size_t e = 0; e < heads.size(); ++e) {
    const double* sums = machine.sums().as<double>() + e * kLossSums;
    all.push_back(fmt::format("\"{}\": {}", e + 1 < heads.size() ? fmt::to_string(heads[e].spec().layer) : "final", sums[0] / sums[3]));
  }
  return fmt::format("{{{}}}", fmt::join(all, ", "));
}

void run(const std::string& from, const std::string& tokens, std::int64_t length, const std::string& output) {
  Checkpoint checkpoint(newest_sound(from));
  const Config config = model_of(checkpoint.manifest());
  const MachineOptions options{.model = config.model, .exits = config.exits, .sequence_length = length};
  const std::string bytes = read_file(tokens, std::uint64_t{1} << 30);
  std::vector<std::int32_t> ids(bytes.size() / sizeof(std::int32_t));
  std::copy_n(reinterpret_cast<const std::int32_t*>(bytes.data()), ids.size(), ids.begin());
  const auto sample = static_cast<std::size_t>(length) + 1;
  OFFRAMP_CHECK(!ids.empty() && ids.size() % sample == 0, "[logits] {} tokens are no samples of {}", ids.size(), sample);

  Machine machine(options, Mesh(), Backing::host, plan_memory(options, Mesh()).peak);
  load_weights(machine, *weights_of(checkpoint, config.model), checkpoint.directory());
  machine.share_values();
  Speaker speaker(machine, output);
  for (std::size_t at = 0; at < ids.size(); at += sample) speaker.say(ids.data() + at);
  fmt::print("{}\n", losses(machine));
}

}  // namespace
}  // namespace offramp

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fputs("logits CHECKPOINT TOKENS LENGTH OUTPUT\n", stderr);
    return 2;
  }
  try {
    offramp::run(argv[1], argv[2], std::atoll(argv[3]), argv[4]);
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "logits: {}\n", error.what());
    return 1;
  }
}
