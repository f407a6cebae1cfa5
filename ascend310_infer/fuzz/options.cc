// libFuzzer: any words as a command line give options or an Error, nothing else.
#include <cstdint>
#include <string>
#include <vector>

#include "inc/options.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  std::vector<std::string> words = {"main"};
  std::string word;
  for (size_t i = 0; i < size && words.size() < 64; ++i) {
    if (data[i] == '\n' || data[i] == 0) {
      words.push_back(word);
      word.clear();
    } else {
      word += static_cast<char>(data[i]);
    }
  }
  words.push_back(word);
  std::vector<const char *> arguments;
  for (const std::string &each : words) {
    arguments.push_back(each.c_str());
  }
  try {
    const Options options = ParseOptions(static_cast<int>(arguments.size()), arguments.data());
    if (!options.help && (options.mindir_path.empty() || options.threads < 1)) {
      __builtin_trap();
    }
  } catch (const Error &) {
  }
  return 0;
}
