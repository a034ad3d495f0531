// Checkpoints of a job: where it goes on from, and its saves, which run beside the training.
//
//   Checkpoints checkpoints(config, world, machine, activity, run_id);   // with the run's lock held (trainer/run_lock.h)
//   Position at = checkpoints.resume("auto");       // loads; {0, 0, 0} where there is nothing yet
//   ...
//   checkpoints.vote();                              // before a step's statistics are summed
//   if (auto warning = checkpoints.hear()) ...       // after: how far the save under way is
//   if (checkpoints.due(t, false)) checkpoints.save({t, samples, updates});
//   checkpoints.finish();                            // waits for the last one
//
// Everything but vote() and due() is collective.
#pragma once
#include "checkpoint/saver.h"
#include "trainer/config.h"
#include "trainer/frozen_base.h"

namespace offramp {

struct Position {
  std::int64_t step = 0, samples = 0, updates = 0;  // done, consumed, steps that changed parameters
};

// Collective: the same on every rank, and another one in every run.
std::string draw_run_id(Context& ctx, const Group& world);

class Checkpoints {
 public:
  Checkpoints(const Config& config, const Group& world, Machine& machine, Activity& activity, std::string run_id);

  // What --resume names: empty, "auto", a checkpoint, or a directory of them; without one, the weights of model.from if it is set. All
  // ranks throw the same AgreedError: Exit::checkpoint where nothing that is there can be read, Exit::configuration where the configuration
  // is another one, Exit::data where the data is.
  Position resume(const std::string& request);
  const std::vector<std::string>& notes() const { return notes_; }  // what to tell of the resume, a line each
  const FrozenBase& base() const { return base_; }                  // what a frozen backbone was loaded from; empty: from nowhere

  bool due(std::int64_t step, bool last) const;  // last: the job ends after this step, whatever the configuration says
  // These three return what Saver::advance says of the save before.
  std::optional<std::string> save(const Position& at);
  std::optional<std::string> hear();
  std::optional<std::string> finish();
  void vote() const;

 private:
  std::optional<std::string> choose(const std::string& request);
  std::optional<Error> failure_of(const std::function<void()>& body) const;
  void load(const std::string& directory);
  void check_teacher(const std::string& directory, std::int64_t step) const;
  void load_base();
  void load_backbone(const FrozenBase& base);
  std::optional<std::string> wait();
  Manifest head(const Position& at) const;

  const Config& config_;
  Group world_;
  Machine& machine_;
  Activity& activity_;
  std::unique_ptr<Saver> saver_;  // none without a directory
  std::string run_id_;
  std::map<std::string, std::string> data_;  // fingerprints
  FrozenBase base_;
  std::int64_t end_token_ = -1;  // of the tokenizer that checkpoints carry
  Position position_;
  std::vector<std::string> notes_;
};

}  // namespace offramp
