// Whatever happens to a byte of a checkpoint is seen before anything is loaded, and said of the file where it happened. And manifests
// that were made to mislead are refused.
#include <sys/stat.h>

#include <random>

#include "checkpoint/checksum.h"
#include "saved_job.h"
#include "tests/files.h"

namespace offramp::testing {
namespace {

namespace fs = std::filesystem;

// Returns what it is refused with; empty: it is taken for sound.
std::string refusal(const std::string& directory) {
  try {
    Checkpoint(directory).verify();
  } catch (const Error& e) {
    EXPECT_EQ(e.code, Exit::checkpoint);
    return e.what();
  }
  return "";
}

class Damage : public ::testing::Test {
 protected:
  Damage() {
    SmallJob job = small_job({{.layer = 3, .head = HeadKind::norm, .loss_weight = 0.3}}, false);
    job.options.model.num_hidden_layers = 4;
    job.data = 2;
    on_every_rank(job, [&](Machine& machine, const Group& world) {
      machine.flat().initialize(machine.context(), 7);
      save(machine, world, directory.path(), 3);
    });
    step = step_directory(directory.path(), 3);
    for (const auto& entry : fs::directory_iterator(step)) bytes[entry.path().filename()] = read_bytes(entry.path());
  }
  void restore_file(const std::string& name) const { write_bytes(step + "/" + name, bytes.at(name)); }
  const std::string& any_file() { return std::next(bytes.begin(), static_cast<std::ptrdiff_t>(random() % bytes.size()))->first; }

  TemporaryDirectory directory;
  std::string step;
  std::map<std::string, std::string> bytes;  // by file
  std::mt19937_64 random{11};
};

TEST_F(Damage, AnUndamagedOneIsSound) {
  EXPECT_EQ(refusal(step), "");
  EXPECT_EQ(bytes.size(), 4u);  // two ranks, the index, the manifest
  EXPECT_EQ(read_bytes(directory / "latest"), "step-3\n");
}

TEST_F(Damage, EveryFlippedBitIsFoundWhereItIs) {
  for (int trial = 0; trial < 7000; ++trial) {
    const std::string& name = any_file();
    const std::size_t at = random() % bytes.at(name).size();
    const char whole = bytes.at(name)[at];
    std::fstream file(step + "/" + name, std::ios::in | std::ios::out | std::ios::binary);
    const auto put = [&](char byte) { file.seekp(static_cast<std::streamoff>(at)).put(byte).flush(); };
    put(static_cast<char>(whole ^ (1 << random() % 8)));
    ASSERT_NE(refusal(step).find("/" + name), std::string::npos) << name << " " << at;
    put(whole);
  }
  EXPECT_EQ(refusal(step), "");
}

TEST_F(Damage, TruncatedGrownRemovedAndSwappedFilesAreFound) {
  for (int trial = 0; trial < 3000; ++trial) {
    const std::string &name = any_file(), &other = any_file();
    const std::string& whole = bytes.at(name);
    switch (random() % 4) {
      case 0:
        write_bytes(step + "/" + name, whole.substr(0, random() % whole.size()));
        break;
      case 1:
        write_bytes(step + "/" + name, whole + std::string(1 + random() % 9, '\0'));
        break;
      case 2:
        fs::remove(step + "/" + name);
        break;
      case 3:
        if (bytes.at(other) == whole) continue;
        write_bytes(step + "/" + name, bytes.at(other));
        write_bytes(step + "/" + other, whole);
    }
    ASSERT_NE(refusal(step), "") << name;
    restore_file(name);
    restore_file(other);
  }
}

// Of all that lie in the MiB whose checksum is another one, as many as a message can hold: the first is among them.
TEST_F(Damage, NamesTheTensorOfTheByte) {
  const Checkpoint checkpoint(step);
  const Manifest& m = checkpoint.manifest();
  for (std::size_t file = 0; file < 2; ++file) {
    const auto first =
        std::find_if(m.boxes.begin(), m.boxes.end(), [&](const StoredBox& b) { return b.file == file && b.offset < kSummed; });
    ASSERT_NE(first, m.boxes.end());
    const std::string& name = m.files[file].name;
    std::string flipped = bytes.at(name);
    flipped[first->offset] = static_cast<char>(flipped[first->offset] ^ 1);
    write_bytes(step + "/" + name, flipped);
    EXPECT_NE(refusal(step).find(name + ": bytes 0 to"), std::string::npos) << refusal(step);
    EXPECT_NE(refusal(step).find(first->dataset), std::string::npos) << refusal(step);
    restore_file(name);
  }
}

TEST_F(Damage, WhatIsNoFileIsNotRead) {
  const std::string name = "rank-00000.h5";
  fs::remove(step + "/" + name);
  fs::create_symlink("/dev/zero", step + "/" + name);
  EXPECT_NE(refusal(step), "");
  fs::remove(step + "/" + name);
  ASSERT_EQ(::mkfifo((step + "/" + name).c_str(), 0600), 0);
  EXPECT_NE(refusal(step), "");
}

// ---- manifests whose checksums fit

class Hostile : public Damage {
 protected:
  std::string refused(const std::function<void(Manifest&)>& change) {
    Manifest m = Checkpoint(step).manifest();
    change(m);
    write_bytes(step + "/manifest.json", to_json(m));
    const std::string text = refusal(step);
    restore_file("manifest.json");
    return text;
  }
  // The text of the manifest with a part replaced, and a checksum that fits.
  std::string refused(const std::string& part, const std::string& by) {
    std::string text = bytes.at("manifest.json");
    const std::size_t at = text.find(part);
    EXPECT_NE(at, std::string::npos) << part;
    text.replace(at, part.size(), by);
    text.resize(text.rfind("\"checksum\": "));
    write_bytes(step + "/manifest.json", text + "\"checksum\": \"" + hex(checksum(text)) + "\"}\n");
    const std::string refusal_text = refusal(step);
    restore_file("manifest.json");
    return refusal_text;
  }
};

TEST_F(Hostile, UnchangedIsSound) {
  EXPECT_EQ(refused([](Manifest&) {}), "");
}

TEST_F(Hostile, NamesLeadNowhere) {
  for (const std::string name : {"../rank-00000.h5", "/etc/passwd", "..", ".", "", "a/b", "rank\n", ".hidden"})
    EXPECT_NE(refused([&](Manifest& m) { m.files[0].name = name; }).find("is no name of a file"), std::string::npos) << name;
  EXPECT_NE(refused([](Manifest& m) { m.files[1].name = m.files[0].name; }), "");
  for (const std::string run : {"/../../elsewhere", "..", "a/b", "a\n"})  // resharding writes into a directory of that name first
    EXPECT_NE(refused([&](Manifest& m) { m.run_id = run; }).find("is no name of a run"), std::string::npos) << run;
}

// A box of a tensor that has others too.
StoredBox& one_of_several(Manifest& m) {
  for (StoredBox& b : m.boxes)
    if (std::count_if(m.boxes.begin(), m.boxes.end(),
                      [&](const StoredBox& other) { return other.tensor == b.tensor && other.kind == b.kind; }) > 1)
      return b;
  throw std::logic_error("all tensors lie whole");
}

TEST_F(Hostile, BoxesLieWithinTheirTensorsAndFiles) {
  using Change = void (*)(StoredBox&);
  for (const Change change : std::initializer_list<Change>{
           [](StoredBox& b) { b.offset = std::uint64_t{1} << 59; },
           [](StoredBox& b) { b.file = 17; },
           [](StoredBox& b) { b.box.row += 1'000'000; },
           [](StoredBox& b) { b.box.rows = std::int64_t{1} << 40; },
           [](StoredBox& b) { b.box.columns = 0; },
           [](StoredBox& b) { b.shape.size[0] = std::int64_t{1} << 58; },
           [](StoredBox& b) {
             b.shape = {2, 3};
           },
           [](StoredBox& b) { b.tensor += "x"; },
       })
    EXPECT_NE(refused([&](Manifest& m) { change(one_of_several(m)); }), "");
  EXPECT_NE(refused([](Manifest& m) { m.boxes[0].offset = m.boxes[1].offset; }), "");
  EXPECT_NE(refused([](Manifest& m) { m.boxes.erase(m.boxes.begin() + (&one_of_several(m) - m.boxes.data())); }), "");
  EXPECT_NE(refused([](Manifest& m) { m.boxes.push_back(m.boxes.front()); }), "");
}

TEST_F(Hostile, NumbersAndTypesAreChecked) {
  EXPECT_NE(refused("\"step\": 3", "\"step\": -3"), "");
  EXPECT_NE(refused("\"step\": 3", "\"step\": 3.5"), "");
  EXPECT_NE(refused("\"step\": 3", "\"step\": 99999999999999999999"), "");
  EXPECT_NE(refused("\"step\": 3", "\"step\": \"3\""), "");
  EXPECT_NE(refused("\"step\": 3", "\"step\": [[[[3]]]]"), "");
  EXPECT_NE(refused("offramp checkpoint 1", "offramp checkpoint 2"), "");
  EXPECT_NE(refused("\"F32\"", "\"F64\""), "");
  EXPECT_NE(refused("\"files\":", "\"filed\":"), "");
  EXPECT_NE(refused("{", std::string(100'000, '[')), "");
}

}  // namespace
}  // namespace offramp::testing
