// A saved model, opened to be looked at: what it is, which subnets it has, and a machine on every rank that holds it and only evaluates.
// What `offramp eval` and `offramp search` share.
//
//   const std::string directory = agreed_model("runs/quickstart/checkpoints", world, activity);    // .../step-450
//   OpenedModel model(directory);
//   const Dataset data = open_samples("runs/data/docs_valid", model.config, activity);
//   const auto machine = loaded_machine(evaluation_options(model.config, world.size()), model.weights, directory, world, activity);
#pragma once
#include <memory>
#include <string>

#include "comm/group.h"
#include "data/dataset.h"
#include "parallel/machine.h"
#include "trainer/config.h"
#include "trainer/frozen_base.h"

namespace offramp {

// The step that a directory of checkpoints stands for, the newest that is sound; a Hugging Face directory is itself. Collective.
std::string agreed_model(const std::string& path, const Group& world, Activity& activity);

struct OpenedModel {
  // Throws Error(Exit::checkpoint) for what is no sound model, and Error(Exit::configuration) for samples longer than it takes.
  // sequence_length 0: that of its training; where the model does not say, the longest that it takes.
  explicit OpenedModel(const std::string& directory, std::int64_t sequence_length = 0);

  BaseWeights weights;
  Config config;  // exits learn from labels, whatever they were trained with
  Space space;
};

// In order, and cut as the model's training cut them.
Dataset open_samples(const std::string& prefix, const Config& config, Activity& activity);

// Of a machine that only evaluates: a microbatch at a time.
MachineOptions evaluation_options(const Config& config, int replicas);
// Collective; every rank a replica. `directory`: for messages. Throws AgreedError(Exit::memory) where a host has not enough.
std::unique_ptr<Machine> loaded_machine(const MachineOptions& options, TensorSource& weights, const std::string& directory,
                                        const Group& world, Activity& activity);

}  // namespace offramp
