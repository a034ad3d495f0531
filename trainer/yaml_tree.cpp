#include "trainer/yaml_tree.h"

#include <fmt/format.h>
#include <yaml-cpp/depthguard.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <map>
#include <sstream>

namespace offramp {
namespace {

constexpr std::size_t kMaxDepth = 32;     // a configuration needs five
constexpr std::size_t kMaxNodes = 20000;  // aliases can multiply a small file into any number
constexpr std::size_t kMaxKeys = 1000;    // finding duplicates is quadratic

// Builds the tree from the parser's events. (The library's own tree hides duplicate keys and shares aliased nodes.)
class TreeBuilder : public YAML::EventHandler {
 public:
  TreeBuilder(std::string_view text, const Place& origin, Problems& problems) : text_(text), origin_(origin), problems_(problems) {}
  YamlNode take() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    YamlNode node = make(YamlNode::Kind::null, mark);
    if (null_is_written(mark)) node.text = "null";
    add(std::move(node), anchor);
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    const auto found = anchors_.find(anchor);
    if (found == anchors_.end()) throw Problem{place(mark), "this alias stands inside the value it names"};
    count(found->second, mark);
    add(found->second, 0);
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor, const std::string& value) override {
    YamlNode node = make(YamlNode::Kind::scalar, mark);
    node.text = value;
    node.quoted = tag == "!";  // the parser's mark of quotes; "?" is plain
    refuse_tag(mark, tag);
    add(std::move(node), anchor);
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor, YAML::EmitterStyle::value) override {
    open(YamlNode::Kind::list, mark, tag, anchor);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor, YAML::EmitterStyle::value) override {
    open(YamlNode::Kind::map, mark, tag, anchor);
  }
  void OnMapEnd() override { close(); }

 private:
  struct Open {
    YamlNode node;
    YAML::anchor_t anchor;
    bool has_key = false;  // a map waits for the value of `key`
    YamlEntry key;
  };

  Place place(const YAML::Mark& mark) const {
    Place at = origin_;
    if (at.line != 0) at.line = std::max(mark.line, 0) + 1, at.column = std::max(mark.column, 0) + 1;
    return at;
  }
  YamlNode make(YamlNode::Kind kind, const YAML::Mark& mark) {
    if (++nodes_ > kMaxNodes) throw Problem{place(mark), fmt::format("more than {} values: this is no configuration", kMaxNodes)};
    YamlNode node;
    node.kind = kind;
    node.at = place(mark);
    return node;
  }
  void count(const YamlNode& copy, const YAML::Mark& mark) {
    make(copy.kind, mark);
    for (const YamlNode& item : copy.items) count(item, mark);
    for (const YamlEntry& entry : copy.entries) count(entry.value, mark);
  }
  // The parser reports a missing value like a null, at the token after it.
  bool null_is_written(const YAML::Mark& mark) const {
    const std::string_view rest = text_.substr(std::min(static_cast<std::size_t>(std::max(mark.pos, 0)), text_.size()));
    for (const std::string_view word : {"null", "Null", "NULL", "~"}) {
      if (!rest.starts_with(word)) continue;
      if (rest.size() == word.size() || std::string_view(" \t\r\n,]}").find(rest[word.size()]) != std::string_view::npos) return true;
    }
    return false;
  }
  void refuse_tag(const YAML::Mark& mark, const std::string& tag) {
    if (tag.empty() || tag == "?" || tag == "!") return;
    problems_.push_back({place(mark), fmt::format("YAML tags such as {} have no meaning here: remove it", quote(tag))});
  }
  void open(YamlNode::Kind kind, const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor) {
    refuse_tag(mark, tag);
    if (open_.size() >= kMaxDepth) throw Problem{place(mark), fmt::format("nested deeper than {} levels", kMaxDepth)};
    open_.push_back({make(kind, mark), anchor, false, {}});
  }
  void close() {
    Open done = std::move(open_.back());
    open_.pop_back();
    add(std::move(done.node), done.anchor);
  }
  void add(YamlNode node, YAML::anchor_t anchor) {
    if (anchor != 0) anchors_[anchor] = node;
    if (open_.empty()) {
      root_ = std::move(node);
    } else if (open_.back().node.kind == YamlNode::Kind::list) {
      open_.back().node.items.push_back(std::move(node));
    } else {
      add_to_map(open_.back(), std::move(node));
    }
  }
  void add_to_map(Open& map, YamlNode node) {
    if (!map.has_key) {
      if (node.kind != YamlNode::Kind::scalar) problems_.push_back({node.at, "a key must be a word"});
      map.key = {node.kind == YamlNode::Kind::scalar ? node.text : "", node.at, {}};
      map.has_key = true;
      return;
    }
    map.has_key = false;
    if (map.key.key.empty()) return;                                                   // reported with the key
    if (node.kind == YamlNode::Kind::null && node.text.empty()) node.at = map.key.at;  // nothing was written: blame the key
    if (const YamlEntry* first = map.node.entry(map.key.key)) {
      problems_.push_back(
          {map.key.at, fmt::format("duplicate key {}: it stands at {} already, keep one of them", quote(map.key.key), first->at.text())});
      return;
    }
    if (map.node.entries.size() >= kMaxKeys) throw Problem{map.key.at, fmt::format("a map of more than {} keys", kMaxKeys)};
    map.key.value = std::move(node);
    map.node.entries.push_back(std::move(map.key));
  }

  const std::string_view text_;
  const Place origin_;
  Problems& problems_;
  YamlNode root_;
  std::vector<Open> open_;
  std::map<YAML::anchor_t, YamlNode> anchors_;
  std::size_t nodes_ = 0;
};

bool valid_utf8(std::string_view text) {
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto lead = static_cast<unsigned char>(text[i]);
    const int more = lead < 0x80                   ? 0
                     : lead >= 0xC2 && lead < 0xE0 ? 1
                     : lead >= 0xE0 && lead < 0xF0 ? 2
                     : lead >= 0xF0 && lead < 0xF5 ? 3
                                                   : -1;
    if (more < 0) return false;
    for (int k = 0; k < more; ++k) {
      if (++i >= text.size() || (static_cast<unsigned char>(text[i]) & 0xC0) != 0x80) return false;
    }
  }
  return true;
}

// The parser takes byte 4 for the end of the file and replaces what is not UTF-8: both would change a configuration silently.
bool plain_text(const std::string& text, const Place& origin, Problems& problems) {
  Place at = origin;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if ((byte < 32 && c != '\n' && c != '\r' && c != '\t') || byte == 127) {
      problems.push_back({at, fmt::format("byte {:#04x}: this is no text file", byte)});
      return false;
    }
    if (at.line == 0) continue;
    at.column = c == '\n' ? 1 : at.column + ((byte & 0xC0) != 0x80);
    at.line += c == '\n';
  }
  if (valid_utf8(text)) return true;
  problems.push_back({origin, "this is not UTF-8 text"});
  return false;
}

bool indented_by_tab(const std::string& text, int line) {
  std::istringstream lines(text);
  std::string found;
  for (int i = 0; i < line; ++i) std::getline(lines, found);
  return found.substr(0, found.find_first_not_of(" \t")).find('\t') != std::string::npos;
}

void parse_document(const std::string& text, TreeBuilder& builder, const Place& origin, Problems& problems) {
  std::istringstream stream(text);
  YAML::Parser parser(stream);
  parser.HandleNextDocument(builder);
  Problems ignored;
  TreeBuilder second(text, origin, ignored);
  if (!parser.HandleNextDocument(second)) return;
  const YamlNode extra = second.take();
  problems.push_back({extra.at.source.empty() ? origin : extra.at, "a second YAML document begins here: a configuration is one document"});
}

}  // namespace

std::string Place::text() const { return line == 0 ? source : fmt::format("{}:{}:{}", source, line, column); }

YamlEntry* YamlNode::entry(std::string_view key) {
  for (YamlEntry& entry : entries) {
    if (entry.key == key) return &entry;
  }
  return nullptr;
}

YamlNode parse_yaml(const std::string& bytes, const Place& origin, Problems& problems) {
  const std::string text = bytes.starts_with("\xEF\xBB\xBF") ? bytes.substr(3) : bytes;  // a byte order mark
  YamlNode nothing;
  nothing.at = origin;
  if (!plain_text(text, origin, problems)) return nothing;
  TreeBuilder builder(text, origin, problems);
  try {
    parse_document(text, builder, origin, problems);
    YamlNode root = builder.take();
    return root.at.source.empty() ? nothing : root;
  } catch (const Problem& problem) {
    problems.push_back(problem);
  } catch (const YAML::Exception& error) {
    Place at = origin;
    if (at.line != 0) at.line = std::max(error.mark.line, 0) + 1, at.column = std::max(error.mark.column, 0) + 1;
    const bool tab = at.line != 0 && indented_by_tab(text, at.line);
    if (tab) at.column = 1;
    problems.push_back({at, fmt::format("not YAML: {}", tab ? "a tab in the indentation, use spaces" : error.msg)});
  }
  return nothing;
}

std::string quote(std::string_view text) {
  constexpr std::size_t kShown = 60;
  std::string shown = "\"";
  for (const char c : text.substr(0, kShown)) {
    if (static_cast<unsigned char>(c) < 32 || c == 127) {
      shown += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    } else {
      shown += c;
    }
  }
  return shown + (text.size() > kShown ? "...\"" : "\"");
}

}  // namespace offramp
