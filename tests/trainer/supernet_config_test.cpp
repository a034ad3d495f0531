// What a supernet is where its configuration does not say.
#include <gtest/gtest.h>

#include "trainer/yaml.h"

namespace offramp {
namespace {

const std::string kGood = OFFRAMP_TESTS "/trainer/good.yaml";

SupernetConfig supernet_of(const std::string& supernet, std::vector<std::string> sets = {}) {
  sets.push_back("supernet=" + supernet);
  return read_config(kGood, sets).supernet;
}

TEST(SupernetConfig, DefaultsFollowTheModelAndThePlan) {
  EXPECT_FALSE(read_config(kGood, {}).supernet.enabled);
  EXPECT_TRUE(read_config(kGood, {}).supernet.space.empty());
  const SupernetConfig deps = supernet_of("{}", {"training.steps=270"});
  EXPECT_EQ(deps.plan, PlanKind::deps);
  EXPECT_EQ(deps.space, (Space{{2, 3, 4}, {32}, {16, 32, 48, 64}, {2, 4}, {1}}));
  EXPECT_TRUE(deps.start == 145 && deps.ramp == 5 && deps.sort_step == 146);
  EXPECT_TRUE(deps.random_subnets == 2 && deps.distillation && deps.temperature == 1 && deps.label_weight == 0);
  const SupernetConfig sandwich = supernet_of("{plan: sandwich}");
  EXPECT_TRUE(sandwich.start == 0 && sandwich.sort_step == 0);
  const SupernetConfig ofa = supernet_of("{plan: ofa}"), untaught = supernet_of("{plan: ofa, start: 0}");
  EXPECT_TRUE(ofa.start == 5 && ofa.distillation && ofa.label_weight == 1);
  EXPECT_FALSE(untaught.distillation) << "by a whole that was not trained";
  EXPECT_EQ(supernet_of("{plan: matformer}").space, (Space{{2, 3, 4}, {32}, {16, 32, 48, 64}, {4}, {1}}));
  EXPECT_EQ(supernet_of("{plan: nested_depth}").space, (Space{{2, 3, 4}, {32}, {64}, {4}, {1}}));
  EXPECT_EQ(supernet_of("{}", {"parallel.tensor_parallel_size=4"}).space, (Space{{2, 3, 4}, {32}, {16, 32, 48, 64}, {4}, {1}}));
  EXPECT_EQ(supernet_of("{}", {"model.intermediate_size=72", "parallel.tensor_parallel_size=4"}).space.intermediate_size,
            (std::vector<std::int64_t>{36, 72}));
  EXPECT_EQ(supernet_of("{}", {"model.num_key_value_heads=1"}).space, (Space{{2, 3, 4}, {32}, {16, 32, 48, 64}, {1}, {4}}));
  EXPECT_EQ(supernet_of("{}", {"model.architecture=gpt2"}).space, (Space{{2, 3, 4}, {32}, {16, 32, 48, 64}, {4}, {1}}));
  EXPECT_EQ(supernet_of("{}", {"exits=[{layer: 4, loss_weight: 1}]"}).space.num_hidden_layers, std::vector<std::int64_t>{4});
  EXPECT_EQ(supernet_of("{}", {"training.steps=1"}).sort_step, 0) << "there is no step after the start";
}

}  // namespace
}  // namespace offramp
