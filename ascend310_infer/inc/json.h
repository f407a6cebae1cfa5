// JSON from outside: a value of any kind, parsed with limits on its size and depth.
#ifndef ASCEND310_INFER_INC_JSON_H_
#define ASCEND310_INFER_INC_JSON_H_

#include <string>
#include <utility>
#include <vector>

struct Json {
  enum class Kind { kNull, kBool, kNumber, kString, kList, kObject };

  Kind kind = Kind::kNull;
  double number = 0;                                 // of kBool: 0 or 1
  std::string text;
  std::vector<std::pair<std::string, Json>> items;   // of a list the names are empty

  // Return a member of an object, nullptr if it is none or has no such member.
  const Json *Find(const std::string &name) const;
};

// Throws Error, which starts with `name`, for what is not JSON.
Json ParseJson(const std::string &text, const std::string &name);

#endif  // ASCEND310_INFER_INC_JSON_H_
