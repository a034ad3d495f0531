// Holdings: what one rank of a job holds of the model: its units' parts of every parameter, laid out flat, and how they are cut into
// buckets. A function of the options and the rank's place in the mesh; over an arena without memory (and a planned mesh) it says what
// any other rank holds, for whoever must find a tensor.
//
//   Arena nowhere(Backing::none, kUnlimited);
//   const Holdings theirs(options, Mesh::planned(5, degrees), nowhere);
#pragma once
#include <memory>
#include <optional>

#include "comm/mesh.h"
#include "parallel/fill.h"
#include "parallel/frozen_teacher.h"
#include "parallel/placement.h"
#include "parallel/schedule_file.h"

namespace offramp {

struct MachineOptions {
  ModelConfig model;
  std::vector<ExitSpec> exits;
  int virtual_stages = 1;             // stages a pipeline rank
  std::vector<int> layers_per_stage;  // empty: as even as can be
  std::string schedule = "1f1b";
  std::shared_ptr<const ScheduleFile> schedule_file;  // given: training runs this
  std::string exit_placement = "auto";                // after_forward | before_backward | auto
  std::string in_flight = "1f1b";                     // of schedule auto: 1f1b | 1f1b+K | N | any
  std::size_t memory_limit = 0;                       // bytes that a rank's plan may have at most; 0: as many as there are
  std::string recompute = "none";                     // none | selective | full
  bool frozen_backbone = false;                       // only exits learn, and stages end with the last one's tap
  bool given_taps = false;                            // nor does the backbone run: a forward gets what exits read (Machine::give_taps)
  bool split_heads = false;                           // output matrices by vocabulary over all pipeline ranks
  bool whole_backwards = false;                       // auto may choose that they are not split (parallel/settle.h)
  // That of training, where it was made before: whoever plans many ranks makes it once.
  std::shared_ptr<const Schedule> known_schedule;
  std::int64_t micro_batch_size = 1, sequence_length = 0;
  int microbatches = 1;  // a step and rank, without partial ones
  Fill fill_bubbles = Fill::none;
  int partial_microbatches = 0;  // that are tried; 0: as many as fit into a gap
  bool document_mask = false;
  std::vector<std::string> optimizer_state;
  DType precision = DType::f32;    // of weights and activations
  bool sequence_parallel = false;  // divides what lies between split matrices over the tensor ranks
  bool shard_state = false;        // ZeRO-1: each data rank keeps and updates its part
  bool layer_drop = false;         // LayerSkip: samples may fall out of layers
  Space space;                     // of a supernet
  // What steps may run (optim/possible_steps.h): memory is taken for all. step_passes: of lists that differ in more than widths one each.
  // pass_kinds: passes, beside those of the lists. Empty: one pass of the whole.
  std::vector<std::vector<Pass>> step_passes;
  std::vector<Pass> pass_kinds;
  std::vector<Subnet> evaluated;  // besides the whole
  double temperature = 1;         // of what passes learn from others
  double label_weight = 0;        // of the labels' loss that they learn besides
  bool snapshot = false;          // memory for a copy of this rank's shards, to save
  std::uint64_t seed = 0;
  std::int64_t bucket_elements = std::int64_t{1} << 22;
};

bool distills(const MachineOptions& options);            // some pass learns from that of the whole
bool has_frozen_teacher(const MachineOptions& options);  // or from the model as it was
ModelOptions model_options(const MachineOptions& options, const Group& tensor, const PipelinePart& heads);

struct Holdings {
  Holdings(const MachineOptions& options, const Mesh& mesh, Arena& arena);
  Holdings(const Holdings&) = delete;
  Holdings& operator=(const Holdings&) = delete;

  // Whether gradients are summed over ranks at all: over data ranks, or what sequence parallelism leaves in parts.
  bool reduces() const { return data_size > 1 || model.tensor.splits_rows(); }

  int rank, ranks;  // of the pipeline
  int data_size;
  Model model;
  Partition partition;
  std::vector<Tie> ties;
  std::vector<HeldStage> stages;  // rank, rank + ranks, ...
  Flat flat;                      // binds the model's parameters of these stages
  std::optional<FrozenTeacher> teacher;
};

}  // namespace offramp
