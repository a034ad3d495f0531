#include "checkpoint/manifest.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <tuple>

#include "checkpoint/checksum.h"
#include "checkpoint/json_file.h"
#include "checkpoint/subnet_json.h"
#include "tensor/check.h"

namespace offramp {
namespace {

using Json = nlohmann::json;  // read
using Written = nlohmann::ordered_json;

constexpr const char* kFormat = "offramp checkpoint 1";
constexpr std::string_view kSumKey = "\"checksum\": \"";
constexpr std::uint64_t kMostBytes = std::uint64_t{1} << 60;  // of anything: sums of two do not overflow

[[noreturn]] void refuse(const std::string& path, const std::string& why) {
  fail(Exit::checkpoint, "{}: is damaged: {}; resume from another checkpoint", path, why);
}

Written to_json(const StoredFile& file) {
  std::vector<std::string> sums;
  for (const std::uint64_t sum : file.sums) sums.push_back(hex(sum));
  return {{"name", file.name}, {"bytes", file.bytes}, {"checksums", sums}};
}

Written to_json(const StoredBox& stored) {
  const Box& b = stored.box;
  return {{"kind", stored.kind},
          {"tensor", stored.tensor},
          {"shape", std::vector(stored.shape.size.begin(), stored.shape.size.begin() + stored.shape.rank)},
          {"first", {b.row, b.column}},
          {"size", {b.rows, b.columns}},
          {"dtype", "F32"},
          {"file", stored.file},
          {"dataset", stored.dataset},
          {"offset", stored.offset},
          {"bytes", stored.bytes()}};
}

// Reads what it expects, and refuses everything else.
class Reader {
 public:
  Reader(const std::string& path, const Json& json) : path_(path), json_(json) {
    if (!json.is_object()) refuse(path_, "something is no JSON object");
  }
  const Json& at(const char* key) const {
    const auto it = json_.find(key);
    if (it == json_.end()) refuse(path_, fmt::format("'{}' is missing", key));
    return *it;
  }
  std::string text(const char* key) const {
    if (!at(key).is_string()) refuse(path_, fmt::format("'{}' is no text", key));
    return at(key).get<std::string>();
  }
  std::uint64_t number(const char* key) const { return number(at(key), key); }
  std::vector<std::uint64_t> numbers(const char* key, std::size_t least, std::size_t most) const {
    const Json& list = at(key);
    if (!list.is_array() || list.size() < least || list.size() > most) refuse(path_, fmt::format("'{}' is no list of numbers", key));
    std::vector<std::uint64_t> all;
    for (const Json& each : list) all.push_back(number(each, key));
    return all;
  }
  const Json& list(const char* key) const {
    if (!at(key).is_array()) refuse(path_, fmt::format("'{}' is no list", key));
    return at(key);
  }

 private:
  std::uint64_t number(const Json& value, const char* key) const {
    if (!value.is_number_unsigned() || value.get<std::uint64_t>() > kMostBytes) refuse(path_, fmt::format("'{}' is no sound number", key));
    return value.get<std::uint64_t>();
  }

  const std::string& path_;
  const Json& json_;
};

template <class Value>
std::map<std::string, Value> map_from(const std::string& path, const Json& json, const char* key) {
  std::map<std::string, Value> all;
  const Json& members = Reader(path, json).at(key);
  const Reader reader(path, members);
  for (const auto& [name, value] : members.items()) {
    if constexpr (std::is_same_v<Value, std::string>)
      all[name] = reader.text(name.c_str());
    else
      all[name] = static_cast<std::int64_t>(reader.number(name.c_str()));
  }
  return all;
}

Space space_from(const std::string& path, const Json& json) {
  try {
    return read_space(json);
  } catch (const JsonProblem& problem) {
    refuse(path, fmt::format("'supernet' {}", problem.what()));
  }
}

bool plain_name(const std::string& name) {
  const auto plain = [](unsigned char c) { return std::isalnum(c) || c == '-' || c == '_' || c == '.'; };
  return !name.empty() && name.size() < 200 && name.front() != '.' && std::all_of(name.begin(), name.end(), plain);
}

StoredFile file_from(const std::string& path, const Json& json) {
  const Reader reader(path, json);
  StoredFile file{.name = reader.text("name"), .bytes = reader.number("bytes"), .sums = {}};
  if (!plain_name(file.name)) refuse(path, fmt::format("'{}' is no name of a file of its directory", file.name));
  for (const Json& sum : reader.list("checksums")) {
    file.sums.emplace_back();
    if (!sum.is_string() || !parse_hex(sum.get<std::string>(), file.sums.back())) refuse(path, "a checksum is no 16 hex digits");
  }
  if (file.sums.size() != (file.bytes + kSummed - 1) / kSummed) refuse(path, fmt::format("{} lacks checksums", file.name));
  return file;
}

Shape shape_from(const std::string& path, const Reader& reader) {
  Shape shape;
  std::uint64_t elements = 1;
  for (const std::uint64_t size : reader.numbers("shape", 1, shape.size.size())) {
    if (size == 0 || __builtin_mul_overflow(elements, size, &elements) || elements > kMostBytes / sizeof(float))
      refuse(path, fmt::format("the shape of {} is none", reader.text("tensor")));
    shape.size[static_cast<std::size_t>(shape.rank++)] = static_cast<std::int64_t>(size);
  }
  return shape;
}

StoredBox box_from(const std::string& path, const Json& json) {
  const Reader reader(path, json);
  StoredBox stored{.kind = reader.text("kind"), .tensor = reader.text("tensor"), .shape = shape_from(path, reader)};
  const auto first = reader.numbers("first", 2, 2), size = reader.numbers("size", 2, 2);
  const Matrix matrix = matrix_of(stored.shape);
  const auto rows = static_cast<std::uint64_t>(matrix.rows), columns = static_cast<std::uint64_t>(matrix.columns);
  if (size[0] == 0 || size[1] == 0 || first[0] + size[0] > rows || first[1] + size[1] > columns)
    refuse(path, fmt::format("a box of {} lies outside of it", stored.tensor));
  const auto of = [](std::uint64_t n) { return static_cast<std::int64_t>(n); };
  stored.box = {of(first[0]), of(size[0]), of(first[1]), of(size[1])};
  stored.file = reader.number("file");
  stored.dataset = reader.text("dataset");
  stored.offset = reader.number("offset");
  if (reader.text("dtype") != "F32" || reader.number("bytes") != stored.bytes())
    refuse(path, fmt::format("a dataset of {} has another type or length than its shape", stored.tensor));
  return stored;
}

Json parse_json(const std::string& path, const std::string& text) {
  try {
    return parse_object(text);
  } catch (const JsonProblem& problem) {
    refuse(path, fmt::format("it {}", problem.what()));
  }
}

// By rows from the top: boxes that begin in a row are put among those that reach into it, whose columns are in order.
void check_disjoint(const std::string& path, const std::vector<const StoredBox*>& boxes) {
  std::vector<std::tuple<std::int64_t, bool, const StoredBox*>> events;  // row, begins there, which; ends come first
  for (const StoredBox* b : boxes) {
    events.emplace_back(b->box.row, true, b);
    events.emplace_back(b->box.row + b->box.rows, false, b);
  }
  std::sort(events.begin(), events.end(), [](const auto& a, const auto& b) {
    return std::tie(std::get<0>(a), std::get<1>(a)) < std::tie(std::get<0>(b), std::get<1>(b));
  });
  std::map<std::int64_t, std::int64_t> reaching;  // first column: the one behind the last
  for (const auto& [row, begins, stored] : events) {
    const Box& box = stored->box;
    if (!begins) {
      reaching.erase(box.column);
      continue;
    }
    const auto next = reaching.lower_bound(box.column);
    const bool meets = (next != reaching.end() && next->first < box.column + box.columns) ||
                       (next != reaching.begin() && std::prev(next)->second > box.column);
    if (meets) refuse(path, fmt::format("{} of {} are given twice", stored->kind, stored->tensor));
    reaching[box.column] = box.column + box.columns;
  }
}

void check_whole(const std::string& path, const Manifest& manifest) {
  std::map<std::pair<std::string, std::string>, std::vector<const StoredBox*>> by_tensor;
  for (const StoredBox& stored : manifest.boxes) by_tensor[{stored.kind, stored.tensor}].push_back(&stored);
  for (const auto& [name, boxes] : by_tensor) {
    std::int64_t elements = 0;
    for (const StoredBox* b : boxes) {
      if (b->shape != boxes.front()->shape) refuse(path, fmt::format("{} has two shapes", name.second));
      elements += b->box.elements();  // each at most 2^58; too many to overflow would not fit into a file
      if (elements > b->shape.elements()) break;
    }
    check_disjoint(path, boxes);
    if (elements != boxes.front()->shape.elements()) refuse(path, fmt::format("{} of {} are missing in part", name.first, name.second));
  }
}

// Of each file: no two datasets share a byte.
void check_bytes(const std::string& path, const Manifest& manifest) {
  std::vector<std::tuple<std::size_t, std::uint64_t, std::uint64_t>> places;
  for (const StoredBox& stored : manifest.boxes) {
    if (stored.file >= manifest.files.size() || stored.offset + stored.bytes() > manifest.files[stored.file].bytes)
      refuse(path, fmt::format("a dataset of {} lies outside of its file", stored.tensor));
    places.emplace_back(stored.file, stored.offset, stored.offset + stored.bytes());
  }
  std::sort(places.begin(), places.end());
  for (std::size_t i = 1; i < places.size(); ++i)
    if (std::get<0>(places[i]) == std::get<0>(places[i - 1]) && std::get<1>(places[i]) < std::get<2>(places[i - 1]))
      refuse(path, fmt::format("datasets of {} overlap", manifest.files[std::get<0>(places[i])].name));
}

void check(const std::string& path, const Manifest& manifest) {
  std::set<std::string> names;
  for (const StoredFile& file : manifest.files)
    if (!names.insert(file.name).second) refuse(path, fmt::format("{} is listed twice", file.name));
  check_bytes(path, manifest);
  check_whole(path, manifest);
}

template <class Each>
std::string lines_of(const std::vector<Each>& all) {
  std::vector<std::string> lines;
  for (const Each& each : all) lines.push_back("  " + to_json(each).dump());
  return fmt::format("[\n{}\n]", fmt::join(lines, ",\n"));
}

}  // namespace

std::string to_json(const Manifest& m) {
  Written head = {{"format", kFormat},    {"run_id", m.run_id},   {"step", m.step},
                  {"samples", m.samples}, {"updates", m.updates}, {"layout", m.layout},
                  {"made_by", m.made_by}, {"data", m.data},       {"configuration", m.configuration}};
  if (!m.base.empty()) head["base"] = m.base;
  if (!m.supernet.empty()) head["supernet"] = to_json(m.supernet);
  std::string text = head.dump(1, ' ', false, Written::error_handler_t::replace);  // paths may be no UTF-8
  text.resize(text.size() - 2);                                                    // "\n}"
  text += fmt::format(",\n \"files\": {},\n \"datasets\": {},\n ", lines_of(m.files), lines_of(m.boxes));
  return text + fmt::format("{}{}\"}}\n", kSumKey, hex(checksum(text)));
}

Manifest parse_manifest(const std::string& path, const std::string& text) {
  constexpr std::size_t kTail = kSumKey.size() + 16 + 3;  // "checksum": "<16 digits>"}\n
  std::uint64_t sum = 0;
  const std::string_view all = text;
  const bool ends = all.size() > kTail && all.substr(all.size() - kTail).starts_with(kSumKey) && all.ends_with("\"}\n");
  if (!ends || !parse_hex(all.substr(all.size() - 19, 16), sum)) refuse(path, "it ends without its checksum");
  if (checksum(all.substr(0, all.size() - kTail)) != sum) refuse(path, "its checksum is another one");

  const Json json = parse_json(path, text);
  const Reader reader(path, json);
  if (reader.text("format") != kFormat) refuse(path, fmt::format("its format is '{}', not '{}'", reader.text("format"), kFormat));
  const auto number = [&](const char* key) { return static_cast<std::int64_t>(reader.number(key)); };
  Manifest m{.run_id = reader.text("run_id"), .step = number("step"), .samples = number("samples"), .updates = number("updates")};
  // A name of a directory that is being written has it as a part.
  if (!m.run_id.empty() && !plain_name(m.run_id)) refuse(path, fmt::format("'{}' is no name of a run", m.run_id));
  m.configuration = map_from<std::string>(path, json, "configuration");
  m.layout = map_from<std::int64_t>(path, json, "layout");
  m.made_by = map_from<std::string>(path, json, "made_by");
  m.data = map_from<std::string>(path, json, "data");
  if (json.contains("base")) m.base = map_from<std::string>(path, json, "base");
  if (json.contains("supernet")) m.supernet = space_from(path, json["supernet"]);
  for (const Json& file : reader.list("files")) m.files.push_back(file_from(path, file));
  for (const Json& box : reader.list("datasets")) m.boxes.push_back(box_from(path, box));
  check(path, m);
  return m;
}

std::string part_to_json(const StoredFile& file, const std::vector<StoredBox>& boxes) {
  return fmt::format("{{\"files\": {},\n\"datasets\": {}}}\n", lines_of(std::vector{file}), lines_of(boxes));
}

void add_part(Manifest& manifest, const std::string& path, const std::string& text) {
  const Json json = parse_json(path, text);
  const Reader reader(path, json);
  const std::size_t file = manifest.files.size();
  for (const Json& each : reader.list("files")) manifest.files.push_back(file_from(path, each));
  for (const Json& each : reader.list("datasets")) {
    manifest.boxes.push_back(box_from(path, each));
    manifest.boxes.back().file = file;
  }
}

}  // namespace offramp
