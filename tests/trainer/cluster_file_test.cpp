// Cluster files: the presets, and what is refused.
#include "trainer/cluster_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "tensor/check.h"

namespace offramp {
namespace {

namespace fs = std::filesystem;

std::string preset(const std::string& name) { return (fs::path(OFFRAMP_TESTS).parent_path() / "configs/clusters" / name).string(); }

std::string refusal(const std::string& text) {
  const std::string path = (fs::temp_directory_path() / fmt::format("offramp_cluster_{}.yaml", ::getpid())).string();
  std::ofstream(path) << text;
  std::string what;
  try {
    read_cluster(path);
  } catch (const Error& error) {
    what = error.what();
  }
  fs::remove(path);
  return what.substr(std::min(what.size(), path.size()));
}

TEST(ClusterFile, ThePresetOfAnH100IsTheDefault) {
  const Cluster h100 = read_cluster(preset("h100.yaml")), none;
  const auto all = [](const Cluster& c) {
    return std::array{c.fp32_flops,
                      c.bf16_flops,
                      c.memory,
                      c.memory_bandwidth,
                      c.launch,
                      c.efficiency,
                      c.half_size,
                      c.attention_efficiency,
                      c.inside.bandwidth,
                      c.inside.latency,
                      c.between.bandwidth,
                      c.between.latency,
                      1.0 * c.ranks_per_node,
                      1.0 * c.fused_attention};
  };
  EXPECT_EQ(all(h100), all(none));
  EXPECT_FALSE(h100.times);
}

TEST(ClusterFile, OnePresetExtendsAnother) {
  const Cluster h200 = read_cluster(preset("h200.yaml"));
  EXPECT_EQ(h200.memory, 141e9);
  EXPECT_EQ(h200.bf16_flops, Cluster{}.bf16_flops);
  const Cluster a100 = read_cluster(preset("a100.yaml")), unfused = read_cluster(preset("a100-unfused.yaml"));
  EXPECT_LT(a100.bf16_flops, h200.bf16_flops);
  EXPECT_EQ(unfused.bf16_flops, a100.bf16_flops);
  EXPECT_TRUE(a100.fused_attention && !unfused.fused_attention);
}

TEST(ClusterFile, WhatIsWrongIsSaidWhereItStands) {
  EXPECT_EQ(refusal("memory: {bytes: -1}"), ":1:17: memory.bytes: -1 is out of range: it must be above 0");
  EXPECT_EQ(
      refusal("memory: {byte: 1}\nattention: {kernel: flash}\n"),
      fmt::format(":1:10: unknown key \"memory.byte\": did you mean memory.bytes?\n{}:2:21: attention.kernel: \"flash\" is not one of "
                  "fused, unfused",
                  (fs::temp_directory_path() / fmt::format("offramp_cluster_{}.yaml", ::getpid())).string()));
  EXPECT_NE(refusal("times: {layer: [1, 2]}").find("three numbers"), std::string::npos);
}

}  // namespace
}  // namespace offramp
