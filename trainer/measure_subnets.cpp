#include "trainer/measure_subnets.h"

#include <unistd.h>

#include <cmath>
#include <cstdio>

#include "parallel/placement.h"
#include "tensor/check.h"
#include "trainer/agreed.h"
#include "trainer/evaluate_samples.h"
#include "trainer/forward_time.h"

namespace offramp {
namespace {

// On a terminal one line, rewritten in place.
void tell(const char* what, std::size_t done, std::size_t all, const Measuring& by) {
  if (by.world.rank() != 0 || !isatty(STDERR_FILENO)) return;
  fmt::print(stderr, "\r{} of {} of {} subnets{}", what, done, all, done == all ? "\n" : "");
  std::fflush(stderr);
}

void measure_loss(MeasuredSubnet& measured, Machine& machine, const Measuring& by) {
  const std::string name = "subnet " + to_text(measured.subnet);
  evaluate_samples(machine, by.data, by.samples, name, by.activity, measured.subnet);
  const double* sums = machine.sums().as<double>() + last_head(measured.subnet, machine.model()) * kLossSums;
  measured.loss = sums[0] / std::max(1.0, sums[3]), measured.accuracy = sums[2] / std::max(1.0, sums[3]);
  agreed(by.world, by.activity, "looking at a loss", [&] {
    if (!std::isfinite(measured.loss)) fail(Exit::numerical, "{}: its loss is not finite", name);
  });
}

}  // namespace

void measure_losses(std::span<MeasuredSubnet> subnets, const Measuring& by) {
  MachineOptions options = evaluation_options(by.model.config, by.world.size());
  options.space = by.model.space;
  for (const MeasuredSubnet& measured : subnets) options.evaluated.push_back(measured.subnet);
  const auto machine = loaded_machine(options, by.model.weights, by.directory, by.world, by.activity);
  for (std::size_t i = 0; i < subnets.size(); ++i) {
    measure_loss(subnets[i], *machine, by);
    tell("losses", i + 1, subnets.size(), by);
  }
}

void measure_latencies(std::span<MeasuredSubnet> subnets, const Measuring& by) {
  std::vector<double> seconds(subnets.size());
  for (std::size_t i = 0; i < subnets.size(); ++i) {  // ranks that wait for one of them hear of each
    agreed(by.world, by.activity, "measuring a latency", [&] {
      if (by.world.rank() == 0) seconds[i] = forward_seconds(by.model.config, subnets[i].subnet, by.activity);
    });
    tell("latencies", i + 1, subnets.size(), by);
  }
  Context ctx;
  ctx.activity = &by.activity;
  const Tensor shared{seconds.data(), {static_cast<std::int64_t>(seconds.size())}, DType::f64};
  broadcast(ctx, shared, by.world, 0).wait(ctx);
  for (std::size_t i = 0; i < subnets.size(); ++i) subnets[i].latency_s = seconds[i];
}

}  // namespace offramp
