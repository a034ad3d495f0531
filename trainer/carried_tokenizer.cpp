#include "trainer/carried_tokenizer.h"

#include "checkpoint/export_source.h"
#include "data/hugging_face.h"
#include "data/tokenizer.h"
#include "trainer/base_model.h"

namespace offramp {

CarriedTokenizer carried_tokenizer(const Config& config) {
  if (const auto file = tokenizer_beside(config.data.train.front().path))
    return {load_tokenizer(*file)->end_token(),
            [file = *file](const std::string& directory) { write_hugging_face_tokenizer(file, directory); }};
  if (config.model_from.empty()) return {};
  const BaseModel base(config.model_from);
  return {base.end_token(), [from = base.directory()](const std::string& directory) { copy_tokenizer_files(from, directory); }};
}

}  // namespace offramp
