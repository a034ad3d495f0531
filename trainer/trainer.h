// The training loop:  data -> run the program -> statistics (one reduction, one read) -> update -> log -> validate.
//
//   Trainer trainer(config, "auto", world, activity, preemption);   // collective: opens data, plans and takes memory, initialises or
//   resumes trainer.run();                              // to the last step; then final validation and export
//
// Every rank of the world does the same calls. Errors that all ranks see alike are AgreedErrors.
#pragma once
#include <optional>

#include "checkpoint/gather.h"
#include "data/dataset.h"
#include "optim/update.h"
#include "trainer/checkpoints.h"
#include "trainer/config.h"
#include "trainer/export.h"
#include "trainer/job.h"
#include "trainer/job_features.h"
#include "trainer/job_log.h"
#include "trainer/loader.h"
#include "trainer/preemption.h"
#include "trainer/profile.h"
#include "trainer/run_lock.h"

namespace offramp {

class Trainer {
 public:
  // resume: what --resume names (trainer/checkpoints.h).
  Trainer(const Config& config, const std::string& resume, const Group& world, Activity& activity, const Preemption& preemption);
  void run();

  Machine& machine() { return *machine_; }

 private:
  struct ValidationSet {
    std::string name;
    Dataset data;
  };
  // What a step learned, on every rank alike.
  struct Outcome {
    std::vector<double> exit_losses;  // of the whole model, plain mean cross-entropies; the final one last; empty: it did not run
    std::vector<double> accuracies;
    std::vector<SubnetResult> subnets;
    std::vector<double> acceptances, agreements;  // of exits that learn from the final head; empty: none does
    std::int64_t tokens = 0;                      // counted
    double loss = 0, grad_norm = 0;               // the weighted total; before clipping
    PhaseTimes phases;                            // means over ranks
    bool preempted = false;                       // some rank was asked for an end
  };

  std::string lock_directories();
  void open_data();
  void try_validation(const Dataset& data) const;
  void compare_schedules();
  void plan_machine();
  void build_machine();
  void measure_machine();
  void open_features(const Config& config, const std::string& run_id);
  Outcome step(std::int64_t t);
  [[noreturn]] void end_preempted(std::int64_t t);
  std::int64_t step_samples() const;
  std::vector<double> load(std::int64_t t);
  void sort_channels(std::int64_t t);
  void take_teacher(std::int64_t t);
  void set_passes(std::int64_t t);
  void set_scales(std::int64_t t, std::span<const double> counted);
  void set_layer_rates(std::int64_t t);
  Outcome reduce(std::int64_t t);
  void share_phases();
  void read_losses(std::int64_t t, const std::vector<Pass>& passes, Outcome& outcome) const;
  void read_whole(std::int64_t t, const Pass& pass, std::size_t number, Outcome& outcome) const;
  void read_subnet(const Pass& pass, std::size_t number, Outcome& outcome) const;
  bool finite(std::int64_t t, const Outcome& outcome) const;
  void update(std::int64_t t);
  double step_flops() const;
  void log_step(std::int64_t t, const Outcome& outcome, double seconds);
  std::optional<double> of_final_head(const std::vector<double>& of_exits) const;
  ByLayer by_layer(const std::vector<double>& of_exits) const;
  void validate(std::int64_t t);
  void validate(std::int64_t t, ValidationSet& set);
  void warn(const std::optional<std::string>& failure);
  ExportOptions export_options() const;
  void export_model();

  Config config_;  // that of training (training_layout)
  Group world_;
  Activity& activity_;
  const Preemption& preemption_;
  Mesh mesh_;
  std::unique_ptr<RunLock> run_lock_;  // on rank 0; let go after all that write
  std::optional<Dataset> train_;
  std::vector<ValidationSet> validation_;
  DatasetOptions data_options_;  // of data as it stands in its files
  MachineOptions options_;
  std::unique_ptr<Machine> machine_;
  std::unique_ptr<JobFeatures> features_;  // with tuning.feature_cache
  std::unique_ptr<Loader> loader_;
  std::unique_ptr<LogicalNames> names_;
  std::optional<Profiler> profiler_;
  std::unique_ptr<JobLog> log_;  // on rank 0
  PhaseTimes times_;             // of this rank, since they were last shared
  std::size_t planned_bytes_ = 0;
  std::unique_ptr<Checkpoints> checkpoints_;
  Position at_;
  std::vector<double> flops_;  // of the whole job's microbatches, of each kind of pass (Machine::pass_kind)
  double peak_flops_ = 0, peak_bytes_ = 0;
};

// `offramp train CONFIG` on this rank's thread.
void train(const Config& config, const std::string& resume, const Group& world, Activity& activity, const Preemption& preemption);
// `offramp train CONFIG --dry-run`: checks the layout and prints what each of `ranks` ranks will take.
void dry_run(const Config& config, int ranks);

}  // namespace offramp
