// What `offramp plan` says of jobs whose step times and activations others published, beside what they measured.
// docs/planning.md shows what it prints.
//
//   build/bench/bench_published configs/clusters/a100-unfused.yaml
#include "tests/trainer/published.h"
#include "trainer/cluster_file.h"

#include <fmt/format.h>

using namespace offramp;
using namespace offramp::testing;

int main(int argc, char** argv) {
  const Cluster cluster = read_cluster(argc > 1 ? argv[1] : "configs/clusters/a100-unfused.yaml");
  for (const PublishedRow& row : published_rows()) {
    const CountedJob job(row);
    const double s = job.seconds(cluster);
    fmt::print("{} {} {:.2f} {:.2f} {:+.1f} %  {:.2f} {:.2f} gib\n", row.model, row.kept, row.seconds, s, 100 * (s / row.seconds - 1),
               job.gib("none", false), job.gib("selective", true));
  }
}
