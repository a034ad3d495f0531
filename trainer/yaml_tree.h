// YamlNode: a piece of YAML with the place where it was written. Reading never throws for what a user wrote: whatever is wrong goes
// to a list of problems, so that one run reports all of it. Hostile input (deep nesting, alias bombs, binary files) is a problem too.
//
//   Problems problems;
//   YamlFile file = read_yaml_file("job.yaml", problems);   // with `extends` resolved
//   apply_set(file.root, "training.steps=20", 0, problems);
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace offramp {

struct Place {
  std::string source;        // a file as the user named it, or the text of a --set
  int order = 0;             // the job's file 0, then the files it extends, then each --set
  int line = 0, column = 0;  // from 1; line 0: the whole source
  std::string text() const;  // "job.yaml:3:5"
};

struct Problem {
  Place at;
  std::string what;
};
using Problems = std::vector<Problem>;

struct YamlEntry;
struct YamlNode {
  enum class Kind { null, scalar, list, map };
  Kind kind = Kind::null;
  std::string text;     // of a scalar; of a null "null" where one is written, "" where nothing is
  bool quoted = false;  // then it is text, whatever it looks like
  Place at;
  std::vector<YamlNode> items;     // of a list
  std::vector<YamlEntry> entries;  // of a map, keys unique, in the order of the file

  YamlEntry* entry(std::string_view key);  // of a map, or nullptr
};
struct YamlEntry {
  std::string key;
  Place at;  // of the key
  YamlNode value;
};

// One document. `origin` names the source; duplicate keys are reported and the first one kept.
YamlNode parse_yaml(const std::string& text, const Place& origin, Problems& problems);
// A file and, below it, the files it `extends`: maps merge key by key, everything else replaces.
struct YamlFile {
  YamlNode root;         // null after a fatal problem
  bool complete = true;  // false: a file it extends could not be read, so what seems missing may stand there
};
YamlFile read_yaml_file(const std::string& path, Problems& problems);
// "a.b=value" or "list.0.key=value", the value parsed as YAML. An index one past the end of a list appends.
void apply_set(YamlNode& root, const std::string& assignment, int index, Problems& problems);

// For messages: quoted, control characters escaped, cut after 60 bytes.
std::string quote(std::string_view text);

}  // namespace offramp
