// The ids of a document that comes in parts: those of the whole, wherever it is cut, as far as the tokenizer can tell. Keeps what
// the next part may still change, seldom more than a word.
//
//   DocumentEncoder encoder(tokenizer);
//   for (std::string_view part; reader.next(part);) encoder.add(part, ids);    // appends
//   encoder.finish(ids);
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer.h"

namespace offramp {

class DocumentEncoder {
 public:
  explicit DocumentEncoder(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  void add(std::string_view part, std::vector<std::int32_t>& ids) {
    waiting_.append(part);
    if (waiting_.size() < enough_) return;
    const std::size_t used = tokenizer_.encode_part(waiting_, started_, ids);
    started_ = started_ || used > 0;
    waiting_.erase(0, used);
    enough_ = used > 0 ? 0 : 2 * waiting_.size();  // a word of many parts is not looked through at each
  }

  void finish(std::vector<std::int32_t>& ids) {
    if (!waiting_.empty()) started_ ? tokenizer_.encode_next(waiting_, ids) : tokenizer_.encode(waiting_, ids);
    waiting_.clear();
    started_ = false, enough_ = 0;
  }

 private:
  const Tokenizer& tokenizer_;
  std::string waiting_;
  std::size_t enough_ = 0;  // bytes to wait for
  bool started_ = false;
};

}  // namespace offramp
