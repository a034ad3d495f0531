// Which of a job's steps `offramp plan` plans. Of most jobs all are alike. A supernet's are not: its subnets are drawn, and some plans
// begin with steps of the whole alone. Planned is the costliest that there may be, so that no step takes longer; how it stands to the
// others is told beside it.
#pragma once
#include <nlohmann/json.hpp>

#include "parallel/plan.h"
#include "parallel/timeline_svg.h"
#include "trainer/config.h"

namespace offramp {

struct PlannedStep {
  std::vector<Pass> passes;  // empty: one of the whole model, as every other step
  double mean_share = 1;     // FLOPs of steps from `first` on, or of 1,000 of them, beside those of a step of the whole model alone
  std::int64_t first = 1;    // the first step that is no step of the whole alone, by plan; before it: `start` of them
  bool drawn() const { return !passes.empty(); }
};
PlannedStep planned_step(const Config& config);

std::vector<PassName> pass_names(const PlannedStep& step, const Config& config);

// What the step is, pass by pass, beside a step of the whole model alone: for people, and as JSON.
struct PlannedSteps {
  const Config& config;
  const PlannedStep& step;
  const StepPlan &plan, &whole;
};
std::string passes_text(const PlannedSteps& steps);
std::string shares_text(const PlannedSteps& steps);
nlohmann::ordered_json passes_json(const PlannedSteps& steps);

}  // namespace offramp
