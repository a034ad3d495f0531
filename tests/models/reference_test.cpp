// The whole model against Hugging Face's definition of Llama, written naively in double precision from logical tensors alone: the
// fused layouts, the rotation, the order of gate and up, eps, and what each head kind computes.
#include <algorithm>
#include <cmath>
#include <map>

#include "rig.h"

namespace offramp::testing {
namespace {

using Matrix = std::vector<std::vector<double>>;  // a row a token, or an output

constexpr std::size_t kHeads = 4, kGroups = 2, kSize = 4;

class Reference {
 public:
  Reference(Model& model, double eps) : eps_(eps) {
    const Visitor read = [this](Parameter& p) {
      for (const Piece& piece : p.pieces) {
        std::vector<double>& flat = tensors_[piece.name];
        flat.resize(static_cast<std::size_t>(piece.global.elements()));
        runs(piece, [&](const Run& run) { std::copy_n(p.value.as<float>() + run.local, run.count, flat.begin() + run.global); });
      }
    };
    for (Unit& unit : model.units) unit.module->visit(read);
    for (Head& head : model.heads) head.visit(read);
  }

  Matrix embed(const std::vector<std::int32_t>& ids) const {
    const std::vector<double>& w = tensors_.at("model.embed_tokens.weight");
    Matrix y;
    for (const std::int32_t id : ids) y.emplace_back(w.begin() + id * 16, w.begin() + (id + 1) * 16);
    return y;
  }
  Matrix linear(const Matrix& x, const std::string& name) const {
    const std::vector<double>& w = tensors_.at(name + ".weight");
    const std::size_t in = x[0].size(), out = w.size() / in;
    Matrix y(x.size(), std::vector<double>(out));
    for (std::size_t t = 0; t < x.size(); ++t)
      for (std::size_t o = 0; o < out; ++o)
        for (std::size_t i = 0; i < in; ++i) y[t][o] += x[t][i] * w[o * in + i];
    return y;
  }
  Matrix norm(Matrix x, const std::string& name) const {
    for (auto& row : x) {
      double mean = 0;
      for (const double v : row) mean += v * v / static_cast<double>(row.size());
      for (std::size_t i = 0; i < row.size(); ++i) row[i] *= tensors_.at(name + ".weight")[i] / std::sqrt(mean + eps_);
    }
    return x;
  }
  Matrix attention(const Matrix& x, const std::string& prefix) const {
    const Matrix xn = norm(x, prefix + ".input_layernorm"), v = linear(xn, prefix + ".self_attn.v_proj");
    const Matrix q = rotated(linear(xn, prefix + ".self_attn.q_proj")), k = rotated(linear(xn, prefix + ".self_attn.k_proj"));
    Matrix out(x.size(), std::vector<double>(kHeads * kSize));
    for (std::size_t t = 0; t < x.size(); ++t)
      for (std::size_t head = 0; head < kHeads; ++head) attend(out[t], q, k, v, t, head);
    return sum(x, linear(out, prefix + ".self_attn.o_proj"));
  }
  Matrix mlp(const Matrix& x, const std::string& prefix, const std::string& norm_name) const {
    const Matrix xn = norm(x, norm_name), up = linear(xn, prefix + ".mlp.up_proj");
    Matrix gate = linear(xn, prefix + ".mlp.gate_proj");
    for (std::size_t t = 0; t < gate.size(); ++t)
      for (std::size_t i = 0; i < gate[t].size(); ++i) gate[t][i] *= up[t][i] / (1 + std::exp(-gate[t][i]));
    return sum(x, linear(gate, prefix + ".mlp.down_proj"));
  }
  Matrix mlp(const Matrix& x, const std::string& prefix) const { return mlp(x, prefix, prefix + ".post_attention_layernorm"); }

 private:
  static Matrix sum(Matrix a, const Matrix& b) {
    for (std::size_t t = 0; t < a.size(); ++t)
      for (std::size_t i = 0; i < a[t].size(); ++i) a[t][i] += b[t][i];
    return a;
  }
  // Pairs (i, i + d/2) of every head, by position * theta^(-2i/d).
  static Matrix rotated(Matrix x) {
    for (std::size_t t = 0; t < x.size(); ++t)
      for (std::size_t at = 0; at < x[t].size(); at += kSize)
        for (std::size_t i = 0; i < kSize / 2; ++i) {
          const double angle = static_cast<double>(t % kSequence) * std::pow(10000.0, -2.0 * static_cast<double>(i) / kSize);
          double &a = x[t][at + i], &b = x[t][at + i + kSize / 2];
          const double before = a;
          a = a * std::cos(angle) - b * std::sin(angle);
          b = b * std::cos(angle) + before * std::sin(angle);
        }
    return x;
  }
  static void attend(std::vector<double>& out, const Matrix& q, const Matrix& k, const Matrix& v, std::size_t t, std::size_t head) {
    const std::size_t group = head / (kHeads / kGroups);
    double total = 0;
    std::vector<double> weighted(kSize);
    for (std::size_t s = t / kSequence * kSequence; s <= t; ++s) {
      double score = 0;
      for (std::size_t i = 0; i < kSize; ++i) score += q[t][head * kSize + i] * k[s][group * kSize + i] / std::sqrt(kSize);
      total += std::exp(score);
      for (std::size_t i = 0; i < kSize; ++i) weighted[i] += std::exp(score) * v[s][group * kSize + i];
    }
    for (std::size_t i = 0; i < kSize; ++i) out[head * kSize + i] = weighted[i] / total;
  }

  double eps_;
  std::map<std::string, std::vector<double>> tensors_;
};

double cross_entropy(const Matrix& logits, const std::vector<std::int32_t>& labels) {
  double loss = 0;
  for (std::size_t t = 0; t < logits.size(); ++t) {
    double total = 0;
    for (const double logit : logits[t]) total += std::exp(logit);
    loss += std::log(total) - logits[t][static_cast<std::size_t>(labels[t])];
  }
  return loss;
}

// What every exit's loss should be, in the order of the model's heads.
std::vector<double> expected(const Reference& r, const std::vector<std::int32_t>& ids, const std::vector<std::int32_t>& labels) {
  std::vector<double> losses;
  Matrix x = r.embed(ids);
  const auto loss = [&](const Matrix& hidden, const std::string& output) {
    losses.push_back(cross_entropy(r.linear(hidden, output), labels));
  };
  for (int layer = 1; layer <= 5; ++layer) {
    const std::string prefix = "model.layers." + std::to_string(layer - 1), exit = "exits." + std::to_string(layer);
    const Matrix residual = r.attention(x, prefix);
    x = r.mlp(residual, prefix);
    if (layer == 1) loss(x, exit + ".head");
    if (layer == 2) loss(r.norm(x, exit + ".norm"), exit + ".head");
    if (layer == 3) loss(r.norm(r.mlp(residual, exit, prefix + ".post_attention_layernorm"), exit + ".norm"), exit + ".head");
    if (layer == 4) loss(r.norm(r.mlp(r.attention(x, exit + ".block"), exit + ".block"), exit + ".norm"), exit + ".head");
    if (layer == 5) loss(r.norm(r.attention(x, exit + ".block"), exit + ".norm"), exit + ".head");
  }
  loss(r.norm(x, "model.norm"), "lm_head");
  return losses;
}

TEST(Reference, EveryExitsLoss) {
  Rig rig(Backing::host);
  ModelConfig config = tiny_config();
  config.rms_norm_eps = 0.25;  // large enough to be seen
  const auto model = make_model(rig, config, every_exit());
  const Tensor ids = rig.integers({kTokens}, [](std::int64_t i) { return i * i % 37; });
  const Tensor labels = rig.integers({kTokens}, [](std::int64_t i) { return i * 11 % 37; });
  std::vector<Tensor> outputs;  // of each unit
  for (Unit& unit : model->units) {
    const Tensor x = outputs.empty() ? ids : outputs.back();
    outputs.push_back(rig.tensor({kTokens, config.hidden_size}));
    run_unit(rig, *unit.module, Keep::nothing, outputs.back(), x, {.length = kSequence});
  }
  const auto read = [](Tensor t) { return std::vector<std::int32_t>(t.as<std::int32_t>(), t.as<std::int32_t>() + kTokens); };
  const std::vector<double> losses = expected(Reference(*model, config.rms_norm_eps), read(ids), read(labels));
  ASSERT_EQ(losses.size(), model->heads.size());
  for (std::size_t i = 0; i < losses.size(); ++i) {
    Head& head = model->heads[i];
    const Tensor sums = rig.tensor({kLossSums}, DType::f64);
    fill_zero(rig.ctx, sums);
    head.exit(rig.ctx, {}, sums, {.x = outputs[static_cast<std::size_t>(head.tap())], .labels = labels}, {.length = kSequence}, false);
    // fp32 behind ten units of about a hundred roundings each: 1000 * 2^-24, and they mostly cancel.
    EXPECT_NEAR(sums.as<double>()[0], losses[i], 1e-5 * losses[i]) << name_of(head.spec().head);
  }
}

}  // namespace
}  // namespace offramp::testing
