#include "data/split_pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "tensor/check.h"

namespace offramp {
namespace {

constexpr std::size_t kLongestPattern = 64 << 10;
constexpr std::size_t kJitStack = 8 << 20;  // a run of spaces that long can be gone back over

struct Free {
  void operator()(pcre2_code* p) const { pcre2_code_free(p); }
  void operator()(pcre2_compile_context* p) const { pcre2_compile_context_free(p); }
  void operator()(pcre2_match_data* p) const { pcre2_match_data_free(p); }
  void operator()(pcre2_match_context* p) const { pcre2_match_context_free(p); }
  void operator()(pcre2_jit_stack* p) const { pcre2_jit_stack_free(p); }
};
template <class T>
using Owned = std::unique_ptr<T, Free>;

std::string message(int code) {
  PCRE2_UCHAR text[256] = {};
  pcre2_get_error_message(code, text, sizeof text);
  return reinterpret_cast<const char*>(text);
}

Owned<pcre2_code> compile(const std::string& pattern, const std::string& path) {
  if (pattern.size() > kLongestPattern) fail(Exit::data, "{}: a regular expression of {} bytes is too long", path, pattern.size());
  const std::string text = translated_pattern(pattern, path);
  const Owned<pcre2_compile_context> context(pcre2_compile_context_create(nullptr));
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE at = 0;
  Owned<pcre2_code> code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE,
                                       &error, &at, context.get()));
  if (!code) fail(Exit::data, "{}: the regular expression {} cannot be used: {}", path, pattern, message(error));
  std::uint32_t matches_empty = 0;
  pcre2_pattern_info(code.get(), PCRE2_INFO_MATCHEMPTY, &matches_empty);
  if (matches_empty) fail(Exit::data, "{}: the regular expression {} can match nothing at all, which is not supported", path, pattern);
  pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE | PCRE2_JIT_PARTIAL_HARD);  // where there is none, matching is slower
  return code;
}

}  // namespace

struct SplitPattern::Compiled {
  Owned<pcre2_code> code;
  Owned<pcre2_match_data> data;
  Owned<pcre2_match_context> context;
  Owned<pcre2_jit_stack> stack;
  std::string pattern, path;
};

SplitPattern::SplitPattern(const std::string& pattern, const std::string& path)
    : compiled_(new Compiled{compile(pattern, path), Owned<pcre2_match_data>(pcre2_match_data_create(1, nullptr)),
                             Owned<pcre2_match_context>(pcre2_match_context_create(nullptr)),
                             Owned<pcre2_jit_stack>(pcre2_jit_stack_create(32 << 10, kJitStack, nullptr)), pattern, path}) {
  pcre2_set_match_limit(compiled_->context.get(), 10'000'000);
  pcre2_set_heap_limit(compiled_->context.get(), 64 << 10);  // KiB
  pcre2_jit_stack_assign(compiled_->context.get(), nullptr, compiled_->stack.get());
}
SplitPattern::~SplitPattern() = default;
SplitPattern::SplitPattern(SplitPattern&&) noexcept = default;

SplitPattern::Found SplitPattern::find(std::string_view text, std::size_t from, bool more) const {
  const Compiled& c = *compiled_;
  const std::uint32_t options = PCRE2_NO_UTF_CHECK | (more ? PCRE2_PARTIAL_HARD : 0u);
  const int rc =
      pcre2_match(c.code.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from, options, c.data.get(), c.context.get());
  const PCRE2_SIZE* at = pcre2_get_ovector_pointer(c.data.get());
  if (rc >= 0) return {Found::Kind::match, at[0], at[1]};
  if (rc == PCRE2_ERROR_NOMATCH) return {Found::Kind::none, text.size(), text.size()};
  if (rc == PCRE2_ERROR_PARTIAL) return {Found::Kind::open, at[0], text.size()};
  fail(Exit::data, "{}: the regular expression {} takes too long for a text: {}", c.path, c.pattern, message(rc));
}

}  // namespace offramp
