#include "parallel/kind.h"

namespace offramp {
namespace {

struct Look {
  std::string_view name, color, chrome;
};
// Work of the backbone is cool and quiet, exits are what catches the eye.
constexpr std::array<Look, kKinds.size()> kLooks{{{"forward", "#9ecae9", "thread_state_runnable"},
                                                  {"backward", "#3c7fb1", "rail_response"},
                                                  {"weight gradient", "#7fc4a8", "good"},
                                                  {"recompute", "#c5b8dc", "generic_work"},
                                                  {"exit", "#d55e00", "terrible"},
                                                  {"communication", "#5a5a5a", "grey"},
                                                  {"gradients", "#b09a3a", "bad"}}};
const Look& look_of(Kind kind) { return kLooks[static_cast<std::size_t>(kind)]; }

}  // namespace

Kind kind_of(Op op) {
  switch (op) {  // without a default: the compiler names an operation that is missing here
    case Op::Forward:
      return Kind::forward;
    case Op::Recompute:
      return Kind::recompute;
    case Op::Backward:
      return Kind::backward;
    case Op::WeightGrad:
      return Kind::weight_gradient;
    case Op::Exit:
    case Op::Tap:
    case Op::Scores:
    case Op::HeadBackward:
    case Op::HeadWeightGrad:
    case Op::Untap:
      return Kind::exit;
    case Op::ReduceGradients:
      return Kind::gradients;
    case Op::SendActivation:
    case Op::RecvActivation:
    case Op::SendGradient:
    case Op::RecvGradient:
    case Op::ShareTap:
    case Op::ShareScores:
    case Op::SumShares:
    case Op::ShareFinal:
    case Op::ReduceTied:
      break;
  }
  return Kind::communication;
}

Kind kind_of(std::string_view action) {
  const auto op = op_of(action);
  return op ? kind_of(*op) : Kind::communication;
}

std::string_view name_of(Kind kind) { return look_of(kind).name; }
std::string_view color_of(Kind kind) { return look_of(kind).color; }
std::string_view chrome_of(Kind kind) { return look_of(kind).chrome; }

}  // namespace offramp
