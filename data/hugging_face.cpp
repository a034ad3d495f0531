#include "data/hugging_face.h"

#include <algorithm>
#include <fstream>
#include <string_view>
#include <unordered_map>

#include "data/sentencepiece_model.h"
#include "data/tokenizer.h"
#include "tensor/check.h"

namespace offramp {
namespace fs = std::filesystem;
namespace {

using Kind = SentencePieceModel::Kind;
using Piece = SentencePieceModel::Piece;

std::string json_string(std::string_view text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\')
      out += {'\\', c};
    else if (static_cast<unsigned char>(c) < 0x20)
      out += fmt::format("\\u{:04x}", static_cast<unsigned char>(c));
    else
      out += c;
  }
  return out + '"';
}

std::string joined(const std::vector<std::string>& parts) {
  std::string all;
  for (const auto& part : parts) all += (all.empty() ? "" : ",\n") + part;
  return all;
}

bool special(const Piece& piece) { return piece.kind == Kind::unknown || piece.kind == Kind::control; }

std::string added_tokens(const std::vector<Piece>& pieces) {
  std::vector<std::string> parts;
  for (std::size_t id = 0; id < pieces.size(); ++id)
    if (special(pieces[id]) || pieces[id].kind == Kind::user_defined)
      parts.push_back(
          fmt::format(R"({{"id":{},"content":{},"single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":{}}})", id,
                      json_string(pieces[id].text), special(pieces[id])));
  return joined(parts);
}

std::string vocabulary(const std::vector<Piece>& pieces) {
  std::vector<std::string> parts;
  for (std::size_t id = 0; id < pieces.size(); ++id) parts.push_back(fmt::format("{}:{}", json_string(pieces[id].text), id));
  return joined(parts);
}

// SentencePiece joins any two neighbours whose text together is a piece, best score first. So each way to cut a piece in two
// pieces is a merge, with the rank of the whole.
std::string merges(const std::vector<Piece>& pieces) {
  std::unordered_map<std::string_view, std::size_t> ids;
  std::vector<std::size_t> order;
  for (std::size_t id = 0; id < pieces.size(); ++id)
    if (pieces[id].kind == Kind::normal) ids[pieces[id].text] = id, order.push_back(id);
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return pieces[a].score > pieces[b].score; });
  std::vector<std::string> parts;
  for (std::size_t id : order) {
    const std::string_view text = pieces[id].text;
    for (std::size_t cut = 1; cut < text.size(); ++cut)
      if (ids.contains(text.substr(0, cut)) && ids.contains(text.substr(cut)))
        parts.push_back(fmt::format("[{},{}]", json_string(text.substr(0, cut)), json_string(text.substr(cut))));
  }
  return joined(parts);
}

// What becomes of spaces: nothing, a mark for each, or one more mark in front of a text.
enum class Spaces { plain, marked, prefixed };

std::string normalizer_json(Spaces spaces) {
  const std::string replace = fmt::format(R"({{"type":"Replace","pattern":{{"String":" "}},"content":"{}"}})", kPieceSpace);
  const std::string prepend = fmt::format(R"({{"type":"Prepend","prepend":"{}"}})", kPieceSpace);
  if (spaces == Spaces::plain) return "null";
  return spaces == Spaces::marked ? replace : fmt::format(R"({{"type":"Sequence","normalizers":[{},{}]}})", prepend, replace);
}

std::string decoder_json(Spaces spaces) {
  std::string steps = R"({"type":"ByteFallback"},{"type":"Fuse"})";
  if (spaces != Spaces::plain)
    steps = fmt::format(R"({{"type":"Replace","pattern":{{"String":"{}"}},"content":" "}},)", kPieceSpace) + steps;
  if (spaces == Spaces::prefixed) steps += R"(,{"type":"Strip","content":" ","start":1,"stop":0})";
  return fmt::format(R"({{"type":"Sequence","decoders":[{}]}})", steps);
}

std::string tokenizer_json(const std::vector<Piece>& pieces, const std::string& unknown, Spaces spaces) {
  const std::string model = fmt::format(
      R"({{"type":"BPE","dropout":null,"unk_token":{},"continuing_subword_prefix":null,"end_of_word_suffix":null,"fuse_unk":true,"byte_fallback":true,"ignore_merges":false,)"
      "\n\"vocab\":{{\n{}}},\n\"merges\":[\n{}]}}",
      unknown.empty() ? "null" : json_string(unknown), vocabulary(pieces), merges(pieces));
  return fmt::format(
      "{{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\n\"added_tokens\":[{}],\n\"normalizer\":{},\n\"pre_tokenizer\":null,\n"
      "\"post_processor\":null,\n\"decoder\":{},\n\"model\":{}}}\n",
      added_tokens(pieces), normalizer_json(spaces), decoder_json(spaces), model);
}

std::vector<Piece> byte_pieces() {
  std::vector<Piece> pieces;
  for (int byte = 0; byte < 256; ++byte) pieces.push_back({fmt::format("<0x{:02X}>", byte), 0, Kind::byte});
  pieces.push_back({"</s>", 0, Kind::control});
  return pieces;
}

void write_text(const fs::path& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.close();
  if (!file) fail(Exit::checkpoint, "{}: cannot be written; is the disk full?", path.string());
}

std::string name_of(const std::vector<Piece>& pieces, std::optional<std::int32_t> id) {
  return id ? json_string(pieces.at(static_cast<std::size_t>(*id)).text) : "null";
}

void write_settings(const fs::path& directory, const std::string& marks, bool adds_prefix) {
  write_text(directory / "special_tokens_map.json", fmt::format("{{{}}}\n", marks));
  write_text(
      directory / "tokenizer_config.json",
      fmt::format(
          "{{\"tokenizer_class\":\"PreTrainedTokenizerFast\",{},\n\"add_bos_token\":false,\"add_eos_token\":false,\"add_prefix_space\":{},"
          "\"legacy\":false,\"clean_up_tokenization_spaces\":false,\"model_max_length\":1000000000000000019884624838656}}\n",
          marks, adds_prefix));
}

}  // namespace

std::string byte_tokenizer_json() { return tokenizer_json(byte_pieces(), "", Spaces::plain); }

void write_hugging_face_tokenizer(const std::string& model_path, const fs::path& directory) {
  const auto tokenizer = load_tokenizer(model_path);
  const std::string bytes = tokenizer->file_bytes();
  std::error_code ignored;  // writing says it better
  fs::create_directories(directory, ignored);
  if (tokenizer->file_suffix() == ".json") {
    write_text(directory / "tokenizer.json", bytes);
    if (const std::string config = tokenizer->config_bytes(); !config.empty())
      return write_text(directory / "tokenizer_config.json", config);
    return write_settings(directory, fmt::format("\"eos_token\":{}", name_of(byte_pieces(), tokenizer->end_token())), false);
  }
  const SentencePieceModel model = parse_sentencepiece_model(bytes, model_path);
  if (!model.is_bpe || model.normalises)
    fail(Exit::data, "{}: only SentencePiece BPE models that change no text can be exported; train one with `offramp tokenizer train`",
         model_path);
  const auto unknown = std::find_if(model.pieces.begin(), model.pieces.end(), [](const Piece& p) { return p.kind == Kind::unknown; });
  const std::string unknown_text = unknown == model.pieces.end() ? "" : unknown->text;
  write_text(directory / "tokenizer.model", bytes);
  write_text(directory / "tokenizer.json",
             tokenizer_json(model.pieces, unknown_text, model.adds_prefix ? Spaces::prefixed : Spaces::marked));
  write_settings(
      directory,
      fmt::format("\"unk_token\":{},\"bos_token\":{},\"eos_token\":{}", unknown_text.empty() ? "null" : json_string(unknown_text),
                  name_of(model.pieces, tokenizer->begin_token()), name_of(model.pieces, tokenizer->end_token())),
      model.adds_prefix);
}

}  // namespace offramp
