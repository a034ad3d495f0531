#include "pass.h"

#include <cmath>
#include <limits>
#include <mutex>

#include "comm/in_process.h"
#include "slices.h"

namespace offramp::testing {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

std::vector<ExitSpec> exits_of(const Setting& setting) {
  std::vector<ExitSpec> exits = every_exit();
  for (ExitSpec& exit : exits) exit.detach = setting.detach, exit.confidence_weights = exit.layer % 2 == 0, exit.target = setting.target;
  return exits;
}

// What one rank of a group computes of a part.
class Pass {
 public:
  Pass(const Setting& setting, const Group& group)
      : setting_(setting), tensor_{group, setting.sequence}, slices_(setting.config, setting.subnet, exits_of(setting)) {
    const ModelOptions options{.tensor = tensor_, .precision = setting.precision};
    ModelOptions elastic = options;
    elastic.space = setting.space;
    if (setting.by_itself)
      model_ =
          make_model(rig_, narrowed(setting.config, setting.subnet), exits_of(setting), options, [this](const Piece& p, std::int64_t i) {
            return test_value(p.name, slices_.whole_shape(p.name), slices_.of(p.name)[static_cast<std::size_t>(i)]);
          });
    else
      model_ = make_model(rig_, setting.config, exits_of(setting), elastic, [this](const Piece& p, std::int64_t i) {
        return slices_.holds(p.name, i) ? test_value(p.name, p.global, i) : kNaN;
      });
    if (setting.taught) teacher_ = make_model(rig_, setting.config, {}, options);
  }

  Outcome run(int part) {
    const auto visit = [&](const Visitor& v) { part < kUnits ? unit(part).visit(v) : head(part).visit(v); };
    zero_gradients(rig_, visit);
    if (!setting_.by_itself) visit([this](Parameter& p) { for_outside(p, [&](std::int64_t at) { p.grad.as<float>()[at] = kNaN; }); });
    part < kUnits ? run_unit_of(part) : run_head_of(part);
    visit([this](Parameter& p) { keep(p); });
    return std::move(outcome_);
  }

 private:
  Module& unit(int part) { return *model_->units[static_cast<std::size_t>(part)].module; }
  Head& head(int part) { return model_->heads[static_cast<std::size_t>(part - kUnits)]; }
  Subnet subnet() const { return setting_.by_itself ? Subnet{} : setting_.subnet; }

  // visit(element of the parameter) for what the subnet has not.
  void for_outside(const Parameter& p, const std::function<void(std::int64_t)>& visit) const {
    for (const Piece& piece : p.pieces)
      runs(piece, [&](const Run& run) {
        for (std::int64_t i = 0; i < run.count; ++i)
          if (!slices_.holds(piece.name, run.global + i)) visit(run.local + i);
      });
  }

  Tensor rows(const std::string& name, std::int64_t hidden) {  // of numbers that are the same at every degree
    const Tensor all = rig_.numbers(name, {kTokens, hidden});
    const Tensor typed = rig_.tensor(all.shape, setting_.precision);
    copy(rig_.ctx, typed, all);
    return typed.narrow(0, tensor_.first_row(kTokens), tensor_.rows(kTokens));
  }
  Tensor rows(const std::string& name) { return rows(name, spelled_out(setting_.subnet, setting_.config).hidden_size); }

  void run_unit_of(int part) {
    const Tensor x = part == 0 ? rig_.integers({kTokens}, [](std::int64_t i) { return i * 7 % 37; }) : rows("x");
    const Tensor dy = rows("dy"), y = rig_.like(dy), dx = part == 0 ? Tensor{} : rig_.like(dy);
    Slot slot(rig_.slab, setting_.keep, two_documents(rig_), setting_.draws, subnet());
    unit(part).forward(rig_.ctx, y, x, slot);
    if (setting_.deferred) slot.defer(rig_.memory);
    unit(part).backward(rig_.ctx, dx, dy, slot);
    slot.run_deferred(rig_.ctx, 0, 1);
    EXPECT_TRUE(slot.empty());
    keep("y", y);
    if (part > 0) keep("dx", dx);
  }
  void run_head_of(int part) {
    const Tensor x = rows("x"), scale = rig_.tensor({1}), sums = rig_.tensor({kLossSums}, DType::f64);
    const Tensor d_tap = setting_.detach && part + 1 < std::ssize(kParts) ? Tensor{} : rig_.like(x);
    const Tensor labels = rig_.integers({kTokens}, [](std::int64_t i) { return i % 5 == 3 ? -1 : i * 7 % 37; });
    *scale.as<float>() = 0.25f;
    fill_zero(rig_.ctx, sums);
    Teacher teacher;
    if (setting_.taught) teacher = {rows("teacher", setting_.config.hidden_size), &teacher_->heads.back().output()};
    const HeadIn in{.x = x,
                    .labels = labels,
                    .scale = scale,
                    .draws = setting_.draws,
                    .teacher = teacher,
                    .temperature = setting_.temperature,
                    .subnet = subnet()};
    head(part).exit(rig_.ctx, d_tap, sums, in, two_documents(rig_), true);
    outcome_["sums"].values = {sums.as<double>(), sums.as<double>() + kLossSums};
    if (d_tap.defined()) keep("dx", d_tap);
  }

  void keep(const std::string& name, Tensor part) {
    Numbers& all = outcome_[name];
    all.everywhere = !tensor_.splits_rows();
    all.values.resize(static_cast<std::size_t>(kTokens * part.shape[1]));
    const std::vector<float> mine = values(part);
    for (const float value : mine) ASSERT_FALSE(std::isnan(value)) << name << " has read beside the subnet";
    std::copy(mine.begin(), mine.end(), all.values.begin() + tensor_.first_row(kTokens) * part.shape[1]);
  }
  void keep(const Parameter& p) {
    if (!setting_.by_itself)
      for_outside(p, [&](std::int64_t at) { ASSERT_TRUE(std::isnan(p.grad.as<float>()[at])) << p.name() << " was touched at " << at; });
    for (const Piece& piece : p.pieces) {
      if (setting_.detach && (piece.name.starts_with("model.layers.") || piece.name.starts_with("transformer.h."))) {
        // Its layer's norm, which a detached exit leaves alone.
        EXPECT_EQ(values(p.grad), std::vector<float>(static_cast<std::size_t>(p.grad.elements()))) << piece.name;
        continue;
      }
      std::vector<float> whole(static_cast<std::size_t>(piece.global.elements()));
      runs(piece, [&](const Run& run) { std::copy_n(p.grad.as<float>() + run.local, run.count, whole.begin() + run.global); });
      Numbers& all = outcome_[piece.name];
      all.everywhere = p.replicated && !tensor_.splits_rows();
      all.values = setting_.by_itself ? whole : slice(piece.name, whole);
    }
  }
  std::vector<float> slice(const std::string& name, const std::vector<float>& whole) const {
    std::vector<float> values;
    for (const std::int64_t at : slices_.of(name)) {
      values.push_back(whole[static_cast<std::size_t>(at)]);
      EXPECT_FALSE(std::isnan(values.back())) << name << " has read beside the subnet";
    }
    return values;
  }

  Setting setting_;
  TensorParallel tensor_;
  Slices slices_;
  Rig rig_{Backing::host};
  std::shared_ptr<Model> model_, teacher_;
  Outcome outcome_;
};

void merge(Outcome& all, const Outcome& of_rank) {
  for (const auto& [name, numbers] : of_rank) {
    const auto [it, fresh] = all.emplace(name, numbers);
    if (fresh) continue;
    if (numbers.everywhere) {
      EXPECT_EQ(numbers.values, it->second.values) << name << " has other bits on another rank";
      continue;
    }
    for (std::size_t i = 0; i < numbers.values.size(); ++i) it->second.values[i] += numbers.values[i];
  }
}

ByName numbers_of(const Outcome& outcome) {
  ByName all;
  for (const auto& [name, numbers] : outcome) all[name] = numbers.values;
  return all;
}

}  // namespace

Outcome run(const Setting& setting, int part) {
  if (setting.size == 1) return Pass(setting, {}).run(part);
  Outcome all;
  std::mutex mutex;
  run_in_process(setting.size, [&](Group world) {
    const Outcome mine = Pass(setting, world).run(part);
    const std::lock_guard lock(mutex);
    merge(all, mine);
  });
  return all;
}

void expect_close(const Outcome& outcome, const Outcome& expected, double tolerance) {
  ASSERT_EQ(outcome.size(), expected.size());
  expect_close(numbers_of(outcome), numbers_of(expected), tolerance, "pass");
}

}  // namespace offramp::testing
