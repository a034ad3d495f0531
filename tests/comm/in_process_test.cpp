// Groups whose ranks are threads, on 2 to 8 ranks and with both kinds of sends.
#include "comm/in_process.h"

#include <atomic>

#include "part_checks.h"

namespace offramp {
namespace {

struct Case {
  int ranks;
  Sends sends;
};
std::string name_of(const Case& c) { return fmt::format("{}_ranks_{}", c.ranks, c.sends == Sends::buffered ? "buffered" : "rendezvous"); }

class InProcess : public testing::TestWithParam<Case> {
 protected:
  static void each_rank(const std::function<void(Context&, const Group&)>& body) {
    run_in_process(
        GetParam().ranks,
        [&](const Group& world) {
          Activity activity;
          Context ctx;
          ctx.activity = &activity;
          body(ctx, world);
        },
        GetParam().sends);
  }
};

TEST_P(InProcess, AllReduceSumsOverAllRanks) {
  each_rank([](Context& ctx, const Group& world) { check_all_reduce(ctx, world, 1000); });
}

TEST_P(InProcess, AllReduceGivesEveryRankTheSameBits) {
  each_rank([](Context& ctx, const Group& world) {
    check_same_bits<float>(ctx, world, DType::f32, 5000);
    check_same_bits<double>(ctx, world, DType::f64, 5000);
  });
}

TEST_P(InProcess, AllReduceAddsInRankOrder) {
  each_rank([](Context& ctx, const Group& world) { check_rank_order<float>(ctx, world, 500); });
}

TEST_P(InProcess, SeveralSumsAtOnce) {
  each_rank([](Context& ctx, const Group& world) { check_sums_at_once(ctx, world, 100); });
}

TEST_P(InProcess, PartsAreAddedInRankOrderAndGathered) {
  each_rank([](Context& ctx, const Group& world) {
    for (const auto n : random_sizes(1, 6, 3000)) {
      check_parts<float, float>(ctx, world, n);
      check_parts<double, double>(ctx, world, n);
      check_parts<bf16, float>(ctx, world, n);
    }
  });
}

TEST_P(InProcess, SumsOfBf16AreAddedInRankOrderAndRoundedOnce) {
  each_rank([](Context& ctx, const Group& world) {
    check_bf16_rounds_once(ctx, world);
    for (const auto n : random_sizes(2, 6, 3000)) check_whole<bf16, float>(ctx, world, n);
  });
}

TEST_P(InProcess, PartsOfAnyType) {
  each_rank([](Context& ctx, const Group& world) { check_gather_of_i32(ctx, world, 77); });
}

TEST_P(InProcess, SumsGathersAndMessagesAtOnce) {
  each_rank([](Context& ctx, const Group& world) {
    for (const auto n : random_sizes(3, 6, 3000)) check_mixture(ctx, world, n);
  });
}

TEST_P(InProcess, Broadcast) {
  each_rank([](Context& ctx, const Group& world) {
    for (int root = 0; root < world.size(); ++root) check_broadcast(ctx, world, 100, root);
  });
}

TEST_P(InProcess, MessagesOfOneTagKeepTheirOrder) { each_rank(check_message_order); }
TEST_P(InProcess, TagsDoNotMix) { each_rank(check_tags); }
TEST_P(InProcess, MessagesBothWaysAtOnce) {
  each_rank([](Context& ctx, const Group& world) {
    for (const std::int64_t n : {0, 1, 1000}) check_exchange(ctx, world, n);
  });
}
TEST_P(InProcess, SplitOrdersByKey) { each_rank(check_split); }
TEST_P(InProcess, AWorkThatNobodyWaitsForIsWaitedFor) { each_rank(check_unwaited); }
TEST_P(InProcess, AgreeOnTheLowestRanksError) { each_rank(check_agree); }
TEST_P(InProcess, AgreeOnNothing) {
  each_rank([](Context& ctx, const Group& world) { EXPECT_NO_THROW(agree(ctx, world, std::nullopt)); });
}
TEST_P(InProcess, MeshGroupsFollowTheAxes) {
  each_rank([](Context& ctx, const Group& world) {
    for (int tensor = 1; tensor <= world.size(); ++tensor)
      for (int pipeline = 1; pipeline <= world.size(); ++pipeline)
        if (world.size() % (tensor * pipeline) == 0)
          check_mesh(ctx, world, {.tensor = tensor, .pipeline = pipeline, .data = world.size() / tensor / pipeline});
  });
}

INSTANTIATE_TEST_SUITE_P(Ranks, InProcess,
                         testing::Values(Case{2, Sends::buffered}, Case{3, Sends::rendezvous}, Case{4, Sends::buffered},
                                         Case{6, Sends::rendezvous}, Case{8, Sends::rendezvous}),
                         [](const auto& instance) { return name_of(instance.param); });

// Runs and returns the text of the Error that it must throw.
std::string error_of(int ranks, const std::function<void(Context&, const Group&)>& body, Sends sends, Exit code = Exit::communication) {
  try {
    run_in_process(
        ranks,
        [&](const Group& world) {
          Context ctx;
          body(ctx, world);
        },
        sends);
  } catch (const Error& error) {
    EXPECT_EQ(error.code, code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

// Both ranks send before they receive: fine with buffers, a deadlock without.
void send_first(Context& ctx, const Group& world) {
  std::vector<float> out(2, 1.0f), in(2);
  send(ctx, tensor_of(out), world, 1 - world.rank(), 3).wait(ctx);
  receive(ctx, tensor_of(in), world, 1 - world.rank(), 3).wait(ctx);
  EXPECT_EQ(in, out);
}

TEST(InProcessDeadlock, BufferedSendsDoNotWait) {
  run_in_process(2, [](const Group& world) {
    Context ctx;
    send_first(ctx, world);
  });
}

TEST(InProcessDeadlock, RendezvousSendsWaitAndTheErrorSaysForWhat) {
  EXPECT_EQ(error_of(2, send_first, Sends::rendezvous),
            "deadlock; rank 0: send of 8 bytes to rank 1, tag 3; rank 1: send of 8 bytes to rank 0, tag 3");
}

TEST(InProcessDeadlock, AMissingPeerIsFound) {
  const auto body = [](Context& ctx, const Group& world) {
    std::vector<float> x(2);
    if (world.rank() == 1) receive(ctx, tensor_of(x), world, 0, 0).wait(ctx);
    if (world.rank() == 2) all_reduce(ctx, tensor_of(x), world).wait(ctx);
  };
  EXPECT_EQ(error_of(3, body, Sends::buffered),
            "deadlock; rank 0: has returned; rank 1: receive of 8 bytes from rank 0, tag 0; "
            "rank 2: all_reduce of 8 bytes over control group of 3 (ranks 0 1 2)");
}

TEST(InProcessDeadlock, AMissingPartIsFound) {
  const auto body = [](Context& ctx, const Group& world) {
    std::vector<float> x(3), y(6);
    const Group tensor = world.split(0, world.rank(), Wire::tensor);
    if (world.rank() == 1) reduce_scatter(ctx, tensor_of(x), tensor_of(y), tensor).wait(ctx);
  };
  EXPECT_EQ(error_of(2, body, Sends::buffered),
            "deadlock; rank 0: has returned; rank 1: reduce_scatter of 24 bytes over tensor group of 2 (ranks 0 1)");
  const auto gather = [](Context& ctx, const Group& world) {
    std::vector<float> x(3), y(6);
    if (world.rank() == 0) all_gather(ctx, tensor_of(y), tensor_of(x), world).wait(ctx);
  };
  EXPECT_EQ(error_of(2, gather, Sends::buffered),
            "deadlock; rank 0: all_gather of 24 bytes over control group of 2 (ranks 0 1); rank 1: has returned");
}

TEST(InProcessDeadlock, AWrongTagIsFound) {
  const auto body = [](Context& ctx, const Group& world) {
    const Group pipeline = world.split(0, world.rank(), Wire::pipeline);
    std::vector<float> x(2);
    if (world.rank() == 0) send(ctx, tensor_of(x), pipeline, 1, 5).wait(ctx);
    if (world.rank() == 1) receive(ctx, tensor_of(x), pipeline, 0, 6).wait(ctx);
  };
  EXPECT_EQ(
      error_of(2, body, Sends::rendezvous),
      "deadlock; rank 0: send of 8 bytes to pipeline rank 1 (rank 1), tag 5; rank 1: receive of 8 bytes from pipeline rank 0 (rank 0), "
      "tag 6");
}

TEST(InProcessFailure, TheFirstErrorEndsTheRanksThatWait) {
  std::atomic<int> freed = 0;
  const auto body = [&](Context& ctx, const Group& world) {
    if (world.rank() == 2) fail(Exit::numerical, "the loss is NaN");
    std::vector<float> x(2);
    try {
      all_reduce(ctx, tensor_of(x), world).wait(ctx);
    } catch (const Error& error) {
      EXPECT_EQ(error.code, Exit::communication);
      EXPECT_STREQ(error.what(), "rank 2 failed: the loss is NaN");
      ++freed;
      throw;
    }
  };
  EXPECT_EQ(error_of(4, body, Sends::buffered, Exit::numerical), "the loss is NaN");
  EXPECT_EQ(freed, 3);
}

TEST(InProcessFailure, OtherExceptionsTravelToo) {
  EXPECT_THROW(run_in_process(2,
                              [](const Group& world) {
                                if (world.rank() == 1) throw std::out_of_range("far");
                              }),
               std::out_of_range);
}

// A receive that an exception left behind must not be served later: its memory is gone.
TEST(InProcessFailure, AnAbandonedReceiveIsNeverServed) {
  run_in_process(2, [](const Group& world) {
    Context ctx;
    std::vector<float> x(2, 1.0f), y(2, 2.0f);
    if (world.rank() == 1) {
      try {
        Work left_behind = receive(ctx, tensor_of(y), world, 0, 0);
        throw std::out_of_range("far");
      } catch (const std::out_of_range&) {
      }
    }
    std::vector<double> barrier(1);
    all_reduce(ctx, tensor_of(barrier), world).wait(ctx);
    if (world.rank() == 0) send(ctx, tensor_of(x), world, 1, 0).wait(ctx);
    all_reduce(ctx, tensor_of(barrier), world).wait(ctx);
    EXPECT_EQ(y[0], 2.0f);
    if (world.rank() == 1) {
      receive(ctx, tensor_of(x), world, 0, 0).wait(ctx);
      EXPECT_EQ(x[0], 1.0f);
    }
  });
}

TEST(InProcessFailure, LengthsMustMatch) {
  const auto message = [](Context& ctx, const Group& world) {
    std::vector<float> x(world.rank() == 0 ? 2 : 3);
    if (world.rank() == 0) send(ctx, tensor_of(x), world, 1, 0).wait(ctx);
    if (world.rank() == 1) receive(ctx, tensor_of(x), world, 0, 0).wait(ctx);
  };
  EXPECT_NE(error_of(2, message, Sends::rendezvous, Exit::internal).find("rank 0 sent 8 bytes, rank 1 receives 12"), std::string::npos);
  const auto sum = [](Context& ctx, const Group& world) {
    std::vector<float> x(world.rank() == 0 ? 2 : 3);
    all_reduce(ctx, tensor_of(x), world).wait(ctx);
  };
  EXPECT_NE(error_of(2, sum, Sends::buffered, Exit::internal).find("8 bytes on rank 0 and 12 bytes on rank 1"), std::string::npos);
}

TEST(InProcessFailure, CollectivesMustMatch) {
  const auto body = [](Context& ctx, const Group& world) {
    std::vector<float> x(2);
    if (world.rank() == 0) all_reduce(ctx, tensor_of(x), world).wait(ctx);
    if (world.rank() == 1) broadcast(ctx, tensor_of(x), world, 0).wait(ctx);
  };
  EXPECT_NE(error_of(2, body, Sends::buffered, Exit::internal).find("which the other ranks did not"), std::string::npos);
}

}  // namespace
}  // namespace offramp
